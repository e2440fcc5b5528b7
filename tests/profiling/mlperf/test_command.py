"""``mlperf`` as a user meets it: accuracy that is ``evaluate``'s, tables and JSON, one line for what cannot be."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.profiling.mlperf.log import ACCURACY
from alexnet_deploy.profiling.mlperf.results import MlperfReport
from alexnet_deploy.profiling.mlperf.run import run_scenarios
from alexnet_deploy.runtime.select import PassedOver
from tests.helpers.command import Command
from tests.helpers.models.bundles import build_bundle
from tests.helpers.models.colour_models import hostile_classifier

RUNTIME = ("--runtime", "onnxruntime", "--threads", 1, "--max-batch", 4)


@pytest.fixture
def run(command: Command) -> Command:
    return partial(command, "mlperf")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    """A bundle that knows colours, and photos of which it gets one in eight wrong and cannot read one."""
    root = tmp_path_factory.mktemp("mlperf")
    build_bundle(hostile_classifier(root / "c.onnx"), root / "engines/colours")
    shutil.copytree(photo_folder / "val", root / "photos")
    shutil.copy(root / "photos/n03_blue/0.jpg", root / "photos/n01_red/blue.jpg")
    shutil.copy(root / "photos/n03_blue/0.jpg", root / "photos/n03_blue/2.jpg")
    (root / "photos/n02_green/0.jpg").rename(root / "photos/n02_green/1st.jpg")
    (root / "photos/n02_green/broken.jpg").write_bytes(b"no image")
    (root / "broken").mkdir()
    (root / "broken/1.jpg").write_bytes(b"no image")
    return root


def test_accuracy_is_that_of_evaluate(here: Path, run: Command, command: Command) -> None:
    ran = run("colours", "--accuracy", "--data", "photos", *RUNTIME, "--output", "out", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert (report["engine"], report["precision"], report["images"]) == ("colours", "fp32", 9)
    evaluated = command("evaluate", "photos", "--engine", "colours", *RUNTIME[:2], "--no-latency", "--json")
    (expected,) = json.loads(evaluated.out)["engines"]
    assert expected["top1_percent"] == 87.5
    for result in report["results"]:
        found = result["accuracy"]
        assert (found["images"], found["right"], found["top1_percent"]) == (8, 7, expected["top1_percent"])
        (unreadable,) = result["unreadable"]
        assert "broken.jpg: is not an image" in unreadable
        assert Path(result["logs"], ACCURACY).is_file()
    assert [result["scenario"] for result in report["results"]] == ["SingleStream", "MultiStream", "Server", "Offline"]


def test_a_verdict_beside_others_is_told(
    here: Path, run: Command, monkeypatch: pytest.MonkeyPatch, somebody_else_works: None
) -> None:
    def passes_over(*args: Any, **settings: Any) -> MlperfReport:
        report = run_scenarios(*args, **settings)
        system = replace(report.system, passed_over=(PassedOver("tensorrt", "use `runtime` openvino"),))
        return replace(report, system=system)

    monkeypatch.setattr("alexnet_deploy.profiling.mlperf.run.run_scenarios", passes_over)
    ran = run("--scenario", "SingleStream", *RUNTIME, "--duration", "300ms", "--output", "out", "--json")
    told = json.loads(ran.out)
    assert told["passed_over"] == ["tensorrt: use --runtime openvino"]
    (result,) = told["results"]
    assert any("other processes took" in cause for cause in result["disturbed"])


def test_performance_in_a_table(here: Path, run: Command) -> None:
    ran = run("--scenario", "Offline", "--data", "photos", *RUNTIME, "--duration", "50ms", "--output", "out")
    assert ran.code == 0, ran.err
    assert "colours (fp32) with ONNX Runtime" in ran.out
    assert "9 images of photos, 0 MiB in memory" in ran.out
    (row,) = [line for line in ran.out.splitlines() if line.startswith("Offline  ")]
    assert "Samples per second" in row
    assert row.split()[-1] == "VALID"
    assert "Offline: 1 images run as black pixels: photos/n02_green/broken.jpg: is not an image" in ran.out
    assert "not a valid MLPerf submission length: 0.05 s, the rules require 600 s" in ran.out
    assert "Offline: 0.05 s" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--threads", 0), 2, "--threads 0: must be 1 or more"),
        (("--scenario", "Stream"), 2, "'Stream' is not one of 'SingleStream', 'MultiStream', 'Server', 'O"),
        (("--accuracy",), 2, "--accuracy needs --data"),
        (("--accuracy", "--data", "engines"), 1, "folder 'colours' is not a class of colours"),
        (("--accuracy", "--data", "nowhere"), 1, "nowhere: no such folder"),
        (("--data", "nowhere"), 1, "nowhere: no such file or folder"),
        (("--data", "broken", "--scenario", "SingleStream", *RUNTIME), 1, "1.jpg: is not an image of a known"),
    ],
)
def test_one_line_for_what_cannot_be(
    here: Path, run: Command, arguments: tuple[object, ...], code: int, words: str
) -> None:
    ran = run(*arguments, "--output", "out")
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.error
    assert "Traceback" not in ran.err
    assert not Path("out").exists()


def test_a_bound_that_server_cannot_meet_leaves_the_others(here: Path, run: Command) -> None:
    bound = ("--latency-bound", ".001us", "--duration", "50ms", *RUNTIME)
    ran = run(*bound, "--output", "out", "--json")
    why = "--latency-bound 1e-06ms: no rate meets it, one image alone takes"
    assert ran.code == 1
    assert f"error: Server: the result is INVALID: {why}" in ran.error
    single, multi, server, offline = json.loads(ran.out)["results"]
    assert all(result["summary"]["valid"] for result in (single, multi, offline))
    assert (server["summary"], server["logs"]) == (None, None)
    assert server["reasons"][0].startswith(why)
    alone = run("--scenario", "Server", *bound, "--output", "nothing")
    assert f"Server: {why}" in alone.out
    assert not Path("nothing").exists()


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("file/out", "cannot be written (Not a directory)"),
        ("taken", "a file of this name is in the way"),
        ("work", "SingleStream: holds thesis.tex, which is not a LoadGen log; choose another --output"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(
    here: Path, run: Command, output: str, words: str
) -> None:
    for file in map(Path, ("file", "taken/SingleStream", "work/SingleStream/thesis.tex")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    ran = run("--scenario", "SingleStream", *RUNTIME, "--output", output)
    assert (ran.code, ran.out) == (1, "")
    (line,) = ran.err.splitlines()  # and none of what is measured
    assert words in line


def test_without_loadgen_the_extra_is_named(here: Path) -> None:
    block = "import sys; sys.modules['mlperf_loadgen'] = None; from alexnet_deploy.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block, "mlperf"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: this command needs mlperf_loadgen; pip install 'alexnet-deploy[mlperf]'"
    ]
