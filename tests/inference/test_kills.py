"""``infer --output --resume`` after SIGKILL at any moment: the same file, row for row."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from itertools import cycle, islice
from pathlib import Path

import pytest

from alexnet_deploy.images.samples import sample_photos
from alexnet_deploy.inference.journal import journal_of
from tests.helpers.models.onnx_models import tiny_model
from tests.helpers.repository import ROOT


@pytest.mark.parametrize("format_", ["jsonl", "csv", "parquet", "table"])
def test_however_often_a_run_is_killed_its_file_is_the_same(tmp_path: Path, format_: str) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.inference.killed_runs", tmp_path, format_, "--kills", "12"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == 12
    assert found["complete"] > 0
    assert found["wrong"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["jsonl", "csv", "parquet", "table"])
def test_twenty_kills_of_the_command(tmp_path: Path, format_: str) -> None:
    engine = tiny_model(tmp_path / "tiny.onnx")
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, photo in enumerate(islice(cycle(sample_photos()), 300)):
        shutil.copyfile(photo, photos / f"{i:03}{photo.suffix}")
    (photos / "150.jpg").write_bytes(b"no image")
    rng = random.Random(20)
    kills = resumed = complete = 0

    def infer(output: Path, *more: str) -> list[str]:
        options = ("--engine", str(engine), "--runtime", "openvino", "--format", format_, "-o", str(output))
        return [sys.executable, "-m", "alexnet_deploy", "infer", str(photos), *options, *more]

    expected = tmp_path / "expected"
    assert subprocess.run(infer(expected), cwd=ROOT, capture_output=True, check=False).returncode == 3
    output = tmp_path / "rows"
    while kills < 20 or journal_of(output).exists():
        had_rows = journal_of(output).exists()
        with subprocess.Popen(infer(output, "--resume"), cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            line = process.stderr.readline()  # "running tiny ...": from here on photos are decoded
            assert line.startswith("running tiny"), line + process.stderr.read()
            try:
                process.wait(timeout=rng.uniform(0, 1.5) if kills < 20 else None)
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
                if journal_of(output).exists() or not output.exists():
                    continue  # otherwise it was about to end: its output must be whole
            else:
                said = process.stderr.read()
                assert process.returncode == 3, said
                resumed += had_rows and "rows come from the run before" in said
        assert output.read_bytes() == expected.read_bytes()
        assert sorted(os.listdir(tmp_path)) == ["expected", "photos", "rows", "tiny.onnx"]
        output.unlink()
        complete += 1
    assert resumed > 0
    print(f"{format_}: {kills} kills, {complete} complete outputs, {resumed} of them resumed, all equal")
