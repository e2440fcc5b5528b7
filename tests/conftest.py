"""Fixtures that several files share: a small checkpoint with random weights, and a folder of generated photos."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import hypothesis
import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from alexnet_deploy.checkpoint import Checkpoint

# Models as small as these gain nothing from threads, and on a busy machine wait for them; read when torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine makes any example slow; hypothesis would call that a failure.
hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.load_profile("no-deadline")

CLASSES = {"n01_red": (200, 60, 50), "n02_green": (60, 190, 70), "n03_blue": (50, 70, 200)}
"""Class folders of ``photo_folder`` and the RGB colour that tells each class."""


def save_photo(path: Path, colour: tuple[int, int, int], seed: int) -> None:
    """A noisy JPEG, 80 x 60 or upright, of one colour."""
    rng = np.random.default_rng(seed)
    shape = (60, 80, 3) if seed % 2 else (80, 60, 3)
    pixels = np.clip(rng.normal(colour, 40, shape), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=90)


@pytest.fixture(scope="session", autouse=True)
def no_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands keep what they measure or fetch in a folder of this session, also those in processes of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


class Ran(NamedTuple):
    """What a command ended with."""

    code: int
    out: str
    err: str


Command = Callable[..., Ran]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """``command("evaluate", ...)`` runs the command line in this process."""
    from alexnet_deploy.cli import main

    def call(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["alexnet-deploy", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else 1
        return Ran(code, *capfd.readouterr())

    return call


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
def tiny_checkpoint() -> Checkpoint:
    """``alexnet`` with 3 classes and 32 instead of 4096 hidden units (10 MiB), random but the same in every run."""
    import torch

    from alexnet_deploy.checkpoint import Checkpoint
    from alexnet_deploy.contract import ModelContract
    from alexnet_deploy.models import AlexNet, architecture, initialise

    arch = architecture("alexnet", num_classes=len(CLASSES), hidden=32)
    torch.manual_seed(0)
    model = AlexNet(arch)
    initialise(model, "kaiming")
    contract = ModelContract("alexnet", ("red", "green", "blue"), tuple(CLASSES))
    return Checkpoint(arch, contract, dict(model.state_dict()), {"source": "random"})
