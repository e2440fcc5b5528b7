"""``train`` from Python: a folder of photos, settings, a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_deploy.errors import UsageError
from alexnet_deploy.model.checkpoint import load_checkpoint
from training.data.preflight import PreflightReport
from training.loop.run import EpochMetrics
from training.train import TrainSettings, train


@pytest.mark.usefixtures("no_curves")
def test_a_folder_becomes_a_checkpoint(photo_folder: Path, tmp_path: Path) -> None:
    settings = TrainSettings(
        dense_rank=4, epochs=1, batch=9, workers=0, overrides=["augment=none", "sides=[[0, 64]]"], save_every_s=0
    )
    reports: list[PreflightReport] = []
    epochs: list[tuple[EpochMetrics, int]] = []
    stages: list[tuple[str, int, int]] = []
    checkpoint = train(
        photo_folder, tmp_path / "run", settings,
        on_preflight=reports.append, on_epoch=lambda *epoch: epochs.append(epoch),
        on_progress=lambda *step: stages.append(step),
    )  # fmt: skip
    assert checkpoint == tmp_path / "run" / "checkpoint.safetensors"
    assert load_checkpoint(checkpoint).arch.dense_rank == 4
    assert [report.findings for report in reports] == [()]
    assert [(row.epoch, total) for row, total in epochs] == [(1, 1)]
    assert stages == [("preflight", 24, 24), ("training", 1, 2), ("training", 2, 2)]


def test_its_errors_name_parameters(photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^`allow_leak`: has no effect with `skip_preflight`; leave"):
        train(photo_folder, tmp_path / "run", TrainSettings(allow_leak=True, skip_preflight=True))
    with pytest.raises(UsageError, match=r"^`overrides` speed=9: has no field 'speed'"):
        train(photo_folder, tmp_path / "run", TrainSettings(overrides=["speed=9"]))
    assert not (tmp_path / "run").exists()
