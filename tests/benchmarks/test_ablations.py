"""Ablations: which rows are finished, and what ends the script."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.training import ablations


def test_an_ablation_is_finished_with_its_last_epoch_not_with_its_first_checkpoint(tmp_path: Path) -> None:
    row = ablations.ROWS[0]
    folder = ablations.folder_of(row, tmp_path)
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").touch()
    assert not ablations.finished(row, tmp_path, 2)
    for epoch, finished in ((1, False), (2, True)):
        with (folder / "metrics.jsonl").open("a") as lines:
            lines.write(json.dumps({"epoch": epoch}) + "\n")
        assert bool(ablations.finished(row, tmp_path, 2)) is finished


def test_a_stopped_ablation_ends_the_script_and_a_failed_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").touch()
    monkeypatch.setattr(ablations, "ROOT", tmp_path)  # where "python -m training" is run
    output = tmp_path / "runs"
    monkeypatch.setattr(sys, "argv", ["ablations.py", str(tmp_path), "--output", str(output), "--only", "models"])
    names = [row.name for row in ablations.ROWS if row.group == "models"]

    (tmp_path / "training" / "__main__.py").write_text("raise SystemExit(1)")
    ablations.main()
    assert f"{names[-1]}: did not finish" in capsys.readouterr().out

    (tmp_path / "training" / "__main__.py").write_text("raise SystemExit(130)")  # what SIGTERM makes of it
    with pytest.raises(SystemExit) as stopped:
        ablations.main()
    assert stopped.value.code == 130
    assert names[1] not in capsys.readouterr().out
