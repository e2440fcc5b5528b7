"""The store that the commands of this room measure."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from alexnet_deploy.bundle.manifest import MODEL, Manifest, Plan, save_manifest, write_bundle
from alexnet_deploy.contract import BatchProfile
from tests.helpers.models.onnx_models import TINY_CONTRACT, named_engine


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an fp32 and an int8 bundle for batches of 1 to 4, and ``frozen.onnx`` for batches of 2."""
    root = tmp_path_factory.mktemp("profiling")
    for precision in ("fp32", "int8"):
        with write_bundle(root / f"engines/tiny-{precision}") as folder:
            shutil.move(named_engine(folder.parent, precision).onnx_path, folder / MODEL)
            plans: tuple[Plan, ...] = ()
            if precision == "int8":
                (folder / "sm89.plan").write_bytes(b"of another machine")
                plans = (Plan("sm89.plan", "tensorrt_rtx", "0.0.1", "sm89"),)
            save_manifest(Manifest(precision, TINY_CONTRACT, BatchProfile(1, 2, 4), {}, plans), folder)
    shutil.move(named_engine(root, batch=2).onnx_path, root / "frozen.onnx")
    return root
