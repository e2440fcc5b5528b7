"""A real run of a tiny network on photos with a planted copy and planted wrong labels, finished with its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.models.tiny_runs import changed, run_of
from tests.helpers.photos import CLASSES, save_photo
from training.loop.run import Run
from training.plan import TrainSettings
from training.report.images import DataSettings
from training.train import train_run

COPIED, COPY = "train/n01_red/1.jpg", "val/n01_red/copy.jpg"
MISLABELLED = "val/n02_green/blue.jpg"


@dataclass(frozen=True)
class Finished:
    """The run, the folder of its images, and the photos that were planted there."""

    run: Run
    data: Path

    @property
    def output(self) -> Path:
        return self.run.output


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Trained to tell the colours; change nothing in it."""
    root = tmp_path_factory.mktemp("finished")
    data = root / "photos"
    for label, (name, colour) in enumerate(CLASSES.items()):
        for split, count in (("train", 6), ("val", 4)):
            for index in range(count):
                save_photo(data / split / name / f"{index}.jpg", colour, seed=100 * label + 10 * len(split) + index)
    with Image.open(data / COPIED) as original:
        original.resize((2 * original.width, 2 * original.height)).save(data / COPY, quality=80)
    save_photo(data / MISLABELLED, (0, 20, 255), seed=7)  # bluer than the blue ones, so above their mean probability
    run = run_of(data, root / "run", epochs=5, batch=3)
    run = changed(run, recipe={"ema_decay": None, "lr": 0.001, "warmup_epochs": 1}, arch={"dropout": 0.0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.loop.record.writer.plot_curves", lambda rows, out: out)
        train_run(run, TrainSettings(workers=0))
    DataSettings(data, run.seed).write(run.output)
    return Finished(run, data)
