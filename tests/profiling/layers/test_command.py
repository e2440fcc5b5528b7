"""``profile-layers`` as a user meets it: tables, JSON, a comparison, and what can be typed wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexnet_deploy.bundle.manifest import MODEL, Manifest, Plan, save_manifest, write_bundle
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.profiling.layers import roofline
from tests.helpers.command import Command, RunResult
from tests.profiling.layers.test_roofline import SMALL
from tests.profiling.layers.test_times import CONTRACT, engine


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store with an fp32 and an int8 bundle for batches of 1 to 4, as the current folder; small peaks and streams."""
    monkeypatch.chdir(tmp_path)
    for precision in ("fp32", "int8"):
        with write_bundle(tmp_path / f"engines/tiny-{precision}") as folder:
            shutil.move(engine(tmp_path, precision).onnx_path, folder / MODEL)
            plans: tuple[Plan, ...] = ()
            if precision == "int8":
                (folder / "sm89.plan").write_bytes(b"of another machine")
                plans = (Plan("sm89.plan", "tensorrt_rtx", "0.0.1", "sm89"),)
            save_manifest(Manifest(precision, CONTRACT, BatchProfile(1, 2, 4), {}, plans), folder)
    for measured in (roofline.measured_peak, roofline.measured_bandwidth):
        measured.cache_clear()
    monkeypatch.setattr(roofline, "PEAK_MODELS", SMALL)
    monkeypatch.setattr(roofline, "STREAM_BYTES", 1 << 20)
    monkeypatch.setattr(roofline, "cache_bytes", lambda: 1 << 18)
    yield tmp_path
    for measured in (roofline.measured_peak, roofline.measured_bandwidth):
        measured.cache_clear()


def error(ran: RunResult) -> str:
    (line,) = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    return line


def test_a_table_for_people(here: Path, command: Command) -> None:
    ran = command("profile-layers", "tiny-fp32", "--batch", 2, "--threads", 1, "--runtime", "onnxruntime")
    assert ran.code == 0, ran.err
    head, *lines = ran.out.splitlines()
    assert head.startswith("tiny-fp32 (fp32), ONNX Runtime ")
    assert head.endswith("on CPU, 1 threads, batch 2, median of 60 calls")
    for start in ("layer ", "conv.0 ", "gemm.1 ", "sum ", "unexplained ", "whole call ", "a call without counters: "):
        assert any(line.startswith(start) for line in lines), start
    assert "roofline, onnxruntime, 1 threads: fp32 " in ran.out
    assert "GB/s, cache (0 MiB) " in ran.out
    assert max(map(len, lines[:-4])) <= 160, "fits into a pipe"


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_json_for_programs_with_a_comparison(here: Path, command: Command, runtime: str) -> None:
    ran = command(
        "profile-layers", "tiny-int8", "--beside", "tiny-fp32", "--threads", 1, "--runtime", runtime, "--json"
    )
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    int8, fp32 = found["profiles"]
    assert (int8["engine"], fp32["engine"]) == ("tiny-int8", "tiny-fp32")
    assert int8["runtime"] == fp32["runtime"] == runtime
    assert {"whole_us", "sum_us", "remainder_us", "uncounted_us", "rows", "roofline", "notes"} <= int8.keys()
    assert {peak["precision"] for peak in fp32["roofline"]["peaks"]} == {"fp32"}
    layers = {row["layer"] for row in int8["rows"] if not row["overhead"]}
    assert {verdict["layer"] for verdict in found["compared"]} <= layers
    for verdict in found["compared"]:
        slower = verdict["us"] > 0.95 * verdict["beside_us"]
        assert (verdict["why"] is not None) == slower


def test_a_comparison_for_people(here: Path, command: Command) -> None:
    ran = command("profile-layers", "tiny-int8", "--beside", "tiny-fp32", "--threads", 1, "--runtime", "onnxruntime")
    assert ran.code == 0, ran.err
    assert "tiny-int8 beside tiny-fp32; times with the conversions that feed a layer" in ran.out
    assert "computed in fp32 all the same (FusedConv)" in " ".join(ran.out.split())


def test_auto_tells_why_a_plan_is_passed_over(here: Path, command: Command) -> None:
    ran = command("profile-layers", "tiny-int8", "--threads", 1)
    assert ran.code == 0, ran.err
    assert "passed over tensorrt: " in ran.out
    assert "OpenVINO" in ran.out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--batch", "9"), 2, "--batch 9: tiny-fp32 has a profile of 1..4"),
        (("--batch", "0"), 2, "--batch 0"),
        (("--threads", "0"), 2, "--threads 0: takes 1 or more"),
        (("--runtime", "abacus"), 2, "--runtime abacus: unknown"),
        (("--runtime", "tensorrt"), 1, "tiny-fp32 holds no TensorRT plan"),
        (("--runtime", "onnxruntime-cuda"), 1, "use tensorrt"),
        (("--beside", "nothing"), 1, "nothing: no such engine"),
    ],
)
def test_bad_input_is_one_line(here: Path, command: Command, arguments: tuple[str, ...], code: int, text: str) -> None:
    ran = command("profile-layers", "tiny-fp32", *arguments)
    assert ran.code == code
    assert text in error(ran)
    assert ran.out == ""


def test_a_file_that_is_no_model(here: Path, command: Command) -> None:
    (here / "bad.onnx").write_bytes(b"nonsense")
    ran = command("profile-layers", "bad.onnx")
    assert ran.code == 1
    assert "bad.onnx: is not" in error(ran)
