"""The folder that the commands are tried in."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from alexnet_deploy.cli import main
from alexnet_deploy.model.checkpoint import Checkpoint, save_checkpoint


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint, photo_folder: Path) -> Path:
    """A folder with a checkpoint, photos, an empty folder and a store of an ONNX, an FP16 and an INT8 bundle."""
    folder = tmp_path_factory.mktemp("workplace")
    save_checkpoint(tiny_checkpoint, folder / "tiny.safetensors")
    shutil.copytree(photo_folder, folder / "photos")
    (folder / "empty").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for arguments in (
            ["export", "--weights", "tiny.safetensors"],
            ["build-engine", "--fp16"],
            ["build-engine", "--int8", "--calibration-data", "photos/train", "--calibration-images", "6"],
        ):
            patch.setattr(sys, "argv", ["alexnet-deploy", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
            assert ended.value.code == 0
    return folder
