"""``infer --ray`` on real Ray nodes on loopback addresses: kills, Ctrl-C, an image that ends its worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from alexnet_deploy.images.samples import sample_photos
from benchmarks.ray.kills import compare, damaged, kill_both
from benchmarks.ray.nodes import cluster, infer_command
from benchmarks.scaling import link
from tests.helpers.models.onnx_models import tiny_model
from tests.helpers.repository import ROOT

pytest.importorskip("ray", reason="Ray is not installed: pip install 'alexnet-deploy[ray]'")
pytestmark = pytest.mark.slow

SIZE = 2000
DEADLY = """
import os, sys

sys.addaudithook(lambda event, given: os._exit(1) if event == "open" and "deadly" in str(given[0]) else None)
"""

FAILS = """
import ray.data

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.inference.ray.cluster import joined


def fails(row):
    raise ValueError("a cause\\nin two lines")


try:
    with joined("local", quiet=True):
        ray.data.from_items([{"part": 1}]).map(fails).take_all()
except UnavailableError as exc:
    print(exc)
"""


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.onnx")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return link(next(iter(sample_photos())).parent, tmp_path / "photos", SIZE)


def test_no_row_is_lost_and_none_is_twice_after_a_kill(tmp_path: Path, engine: Path, photos: Path) -> None:
    node, driver = kill_both(damaged(photos), engine, tmp_path, SIZE)
    for run in (node, driver):
        assert run["parts_at_the_kill"] < run["parts"] == 20
        assert (run["rows"], run["errors"], run["exit_code"]) == (SIZE, 5, 3)
        assert (run["lost"], run["twice"], run["different"]) == (0, 0, 0)
    assert driver["parts_kept"] > 0
    assert any("rows come from the run before" in line for line in driver["said"])


def test_ctrl_c_ends_a_local_ray_and_keeps_the_parts(tmp_path: Path, engine: Path, photos: Path) -> None:
    output = tmp_path / "rows"
    options = [photos, "--engine", engine, "--ray", "local", "-o", output, "--part-size", "50"]
    process = subprocess.Popen(
        infer_command(options), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    while not list(output.glob("part-*")):
        assert process.poll() is None, process.stderr and process.stderr.read()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), said
    assert said.splitlines() == [f"{output} keeps the parts so far; the same command with --resume goes on"]
    done = subprocess.run(infer_command([*options, "--resume"]), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = tmp_path / "expected.parquet"
    subprocess.run(
        infer_command([photos, "--engine", engine, "--format", "parquet", "-o", expected]),
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    assert compare(output, expected) == {"rows": SIZE, "errors": 0, "lost": 0, "twice": 0, "different": 0}


def test_an_image_that_ends_its_worker_is_not_tried_for_ever(
    tmp_path: Path, engine: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(DEADLY)
    for path in sorted(photos.iterdir())[60:]:
        path.unlink()
    (sorted(photos.iterdir())[25]).rename(photos / "000025-deadly.jpg")
    output = tmp_path / "rows"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    with cluster(1) as (address, _, env):
        done = subprocess.run(
            infer_command([photos, "--engine", engine, "--ray", address, "-o", output, "--part-size", "10"]),
            cwd=ROOT, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "a worker died 4 times at images 21 to 30; give it more memory, or leave out the image" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(pq.read_table(output)) <= 50


def test_an_error_in_a_worker_is_named_and_not_what_ray_advises() -> None:
    done = subprocess.run([sys.executable, "-c", FAILS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "Ray failed (ValueError: a cause in two lines); go on with `resume`\n", done.stderr
