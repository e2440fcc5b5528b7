"""Fixtures that several files share: a small checkpoint with random weights, and a folder of generated photos."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.helpers import chromium
from tests.helpers.command import Command, RunResult
from tests.helpers.photos import CLASSES, save_photo

if TYPE_CHECKING:
    from alexnet_deploy.model.checkpoint import Checkpoint

# A busy machine makes any example slow; hypothesis would call that a failure.
hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.load_profile("no-deadline")


def pytest_collection_finish() -> None:
    """Seven thousand tests and their libraries live to the end: no later collection need look at them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands keep what they measure or fetch in a folder of this session, also those in processes of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """``command("evaluate", ...)`` runs the command line in this process."""
    from alexnet_deploy.cli import main

    def call(*arguments: object) -> RunResult:
        monkeypatch.setattr(sys, "argv", ["alexnet-deploy", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else 1
        sys.stdout.flush()
        return RunResult(code, *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    """A real browser without a window."""
    program = chromium.find()
    if program is None:
        pytest.skip("no Chromium here; install one, or name it in the environment variable CHROMIUM")
    with chromium.running(program, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def here(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``workplace`` (a module may build one of its own), as the current folder."""
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def somebody_else_works() -> Iterator[None]:
    """Another process keeps a core busy: nothing that is measured meanwhile counts."""
    if sys.platform != "linux":
        pytest.skip("other systems do not tell what other processes take")
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        yield
        other.kill()


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train/`` with 6 and ``val/`` with 2 photos for each of ``CLASSES``. Copy it before changing anything."""
    root = tmp_path_factory.mktemp("photos")
    for label, (name, colour) in enumerate(CLASSES.items()):
        for split, count in (("train", 6), ("val", 2)):
            for index in range(count):
                save_photo(root / split / name / f"{index}.jpg", colour, seed=100 * label + 10 * len(split) + index)
    return root


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    """Photos, an ONNX and a store: see ``make_workplace``. For tests that change nothing in it."""
    from tests.helpers.models.bundles import make_workplace

    return make_workplace(tmp_path_factory.mktemp("workplace"), photo_folder)


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Checkpoint:
    """``alexnet`` with 3 classes and narrow layers (0.3 MiB), random but the same in every run."""
    from tests.helpers.models.checkpoints import random_checkpoint

    return random_checkpoint(widths=(16, 24, 32, 32, 24), hidden=32)


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint) -> Path:
    """``tiny_checkpoint`` as ONNX, ``tiny.onnx``."""
    from alexnet_deploy.images.samples import parity_pixels
    from alexnet_deploy.model.export import export_onnx

    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    export_onnx(tiny_checkpoint, path, pixels_NHWC=parity_pixels(None, tiny_checkpoint.contract.preprocessing))
    return path
