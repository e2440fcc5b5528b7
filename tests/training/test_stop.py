"""SIGINT and SIGTERM, whenever they come: the command ends, says what is saved, and goes on from there."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from alexnet_deploy.progress import Progress
from tests.helpers.command import Command
from tests.helpers.models import tiny_runs as tiny

pytestmark = pytest.mark.usefixtures("no_curves", "tiny_network")
FAST = ("--workers", 0, "--set", "augment=none", "--set", "sides=[[0, 64]]", "--set", "repeats=1", "--batch", 9)
GOOD = ("--epochs", 6, "--lr", 0.003, "--dropout", 0, "--set", "ema_decay=null", "--set", "warmup_epochs=1")
"""With ``tiny_network``, enough to tell the colours."""

Arrange = Callable[..., None]


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Arrange]:
    """``signal_at("training", 3, number)`` sends this process a signal when that stage reports 3; None: its end."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def arrange(stage: str, at: int | None, number: signal.Signals) -> None:
        left = [number]

        def on_progress(name: str, done: int, total: int) -> None:
            if left and name == stage and done == (total if at is None else at):
                os.kill(os.getpid(), left.pop())

        @contextmanager
        def reporting() -> Iterator[Progress]:
            yield on_progress

        monkeypatch.setattr("training.cli.train.reporting", reporting)

    yield arrange
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture
def photos(photo_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(photo_folder, tmp_path / "photos"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_last_step_of_a_fold_no_other_begins(
    cli: Command, photos: Path, tmp_path: Path, signal_at: Arrange, number: signal.Signals
) -> None:
    run = ("train", photos / "train", *FAST, "--folds", 2, "--epochs", 2, "--lr", 0.003)
    undisturbed = cli(*run, "--output", tmp_path / "undisturbed")
    signal_at("training", None, number)
    stopped = cli(*run, "--output", tmp_path / "run")
    assert stopped.code == 130
    said = f"{tmp_path / 'run' / 'fold-1'}: stopped after its last epoch, saved; continue with --resume"
    assert stopped.err.splitlines()[-1] == said
    assert not (tmp_path / "run" / "fold-2").exists()
    again = cli(*run, "--output", tmp_path / "run", "--resume")
    assert again.code == undisturbed.code
    if again.code == 0:  # two epochs on nine photos may also end at chance
        folds = [json.loads((tmp_path / name / "folds.json").read_text()) for name in ("undisturbed", "run")]
        assert folds[0] == folds[1]


def test_in_the_last_step_before_test_scale_that_does_not_begin(
    cli: Command, photos: Path, tmp_path: Path, signal_at: Arrange
) -> None:
    run = ("train", photos, "--output", tmp_path / "run", *FAST, *GOOD, "--test-scale-epochs", 1, "--skip-report")
    signal_at("training", None, signal.SIGINT)
    assert cli(*run).code == 130
    assert not (tmp_path / "run" / "test-scale").exists()
    assert "1 epoch at test scale followed" in cli(*run, "--resume").err
    signal_at("training", None, signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_outside_of_the_loop_the_command_ends_at_once(
    cli: Command, photos: Path, tmp_path: Path, signal_at: Arrange, number: signal.Signals
) -> None:
    run = ("train", photos, "--output", tmp_path / "run", *FAST, "--epochs", 1)
    signal_at("preflight", None, number)
    code, out, err = cli(*run)
    assert (code, out) == (130, "")
    assert err == f"{tmp_path / 'run'}: stopped; nothing was trained yet; start it again\n"
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_the_report_is_drawn_the_model_is_finished_and_said_to_be(
    cli: Command, photos: Path, tmp_path: Path, signal_at: Arrange, number: signal.Signals
) -> None:
    signal_at("report", 6, number)
    stopped = cli("train", photos, "--output", tmp_path / "run", *FAST, *GOOD)
    assert stopped.code == 130
    run = tmp_path / "run"
    assert stopped.err.splitlines()[-1] == (
        f"{run / 'checkpoint.safetensors'}: is finished, its report was stopped; write it later: python -m training "
        f"report {run}"
    )
    assert len(tiny.metrics_of(run)) == 6
    assert cli("report", run, "--workers", 0).code == 0, "the run says where its images are"
    assert (run / "report.html").is_file()
