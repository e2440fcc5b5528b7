"""What the tests of training share: its command line in this process, and a run that takes a second."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from alexnet_deploy.model.architecture import get_architecture
from tests.helpers.command import Command, RunResult
from tests.helpers.models.tiny_runs import TINY, run_of
from training.cli.commands import main
from training.loop.run import Run
from training.plan import TrainSettings


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Command:
    """``cli("train", ...)`` runs ``python -m training`` in this process."""

    def call(*arguments: object) -> RunResult:
        capsys.readouterr()
        code = main([*map(str, arguments)])
        return RunResult(code, *capsys.readouterr())

    return call


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the plot of an epoch, which takes longer than a tiny epoch; ``test_writer`` looks at it."""
    monkeypatch.setattr("training.loop.record.writer.plot_curves", lambda rows, out: out)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs that the command would have trained."""
    runs: list[Run] = []

    def record(run: Run, settings: TrainSettings, **_: object) -> Path:
        runs.append(run)
        return run.output

    monkeypatch.setattr("training.train.train_and_judge", record)
    return runs


@pytest.fixture
def tiny_run(photo_folder: Path, tmp_path: Path) -> Run:
    """Two epochs of three steps."""
    return run_of(photo_folder, tmp_path / "run", epochs=2, batch=6)


@pytest.fixture
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command trains an ``alexnet`` of 20 thousand weights: no option makes the convolutions narrower."""
    monkeypatch.setattr("training.start.network.get_architecture", functools.partial(get_architecture, **TINY))
