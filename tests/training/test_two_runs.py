"""Two runs that are given one folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_deploy.errors import InputError, UnavailableError
from alexnet_deploy.files.lock import only_writer
from training.data.preflight import PreflightReport
from training.plan import TrainSettings
from training.run_files import STATE_FILE
from training.train import train as train_in_python


def test_a_run_that_began_meanwhile_keeps_its_files(photo_folder: Path, tmp_path: Path) -> None:
    """Two runs may be given one folder, and reading every file takes long."""
    output = tmp_path / "run"
    output.mkdir()
    (output / "preflight.txt").write_text("of the other run")  # a run without findings removes it

    def begin(*_: object) -> None:
        (output / STATE_FILE).touch()

    settings = TrainSettings(dense_rank=4, epochs=1, batch=9, workers=0)
    with pytest.raises(InputError, match="already holds a run; add `resume` to continue it"):
        train_in_python(photo_folder, output, settings, on_progress=begin)
    assert (output / "preflight.txt").exists()
    assert not (output / "data.json").exists()


def test_no_other_run_begins_between_the_first_file_and_the_training(photo_folder: Path, tmp_path: Path) -> None:
    class SeenError(Exception):
        pass

    def other(_: PreflightReport) -> None:
        with (
            pytest.raises(UnavailableError, match="another process writes it"),
            only_writer(tmp_path / "run", "output"),
        ):
            pass
        raise SeenError

    settings = TrainSettings(dense_rank=4, epochs=1, batch=9, workers=0)
    with pytest.raises(SeenError):
        train_in_python(photo_folder, tmp_path / "run", settings, on_preflight=other)
    with only_writer(tmp_path / "run", "output"):
        pass  # an error has let it go
