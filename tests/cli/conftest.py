"""The folders that commands are tried in."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from alexnet_deploy.cli import app
from alexnet_deploy.model.checkpoint import Checkpoint, save_checkpoint
from tests.helpers.models.onnx_models import tiny_model
from tests.helpers.photos import save_photo


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint, photo_folder: Path) -> Path:
    """A folder with a checkpoint, photos, an empty folder and a store of an ONNX, an FP16 and an INT8 bundle."""
    folder = tmp_path_factory.mktemp("workplace")
    save_checkpoint(tiny_checkpoint, folder / "tiny.safetensors")
    shutil.copytree(photo_folder, folder / "photos")
    (folder / "empty").mkdir()
    with contextlib.chdir(folder):
        for line in (
            "export --weights tiny.safetensors",
            "build-engine --fp16",
            "build-engine --int8 --calibration-data photos/train --calibration-images 6",
        ):
            app(line.split(), standalone_mode=False)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: ``tiny.onnx`` and six photos."""
    tiny_model(tmp_path / "tiny.onnx")
    for i in range(6):
        save_photo(tmp_path / f"photos/{i}.jpg", (40 * i, 90, 120), i)
    monkeypatch.chdir(tmp_path)
    return tmp_path
