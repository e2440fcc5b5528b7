"""``profile-layers`` as a user meets it: tables, JSON, a comparison, and what can be typed wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_deploy.profiling.layers import profile as layer_profile
from alexnet_deploy.runtime.select import PassedOver
from tests.helpers.command import Command
from tests.helpers.models.foreign_models import foreign_classifier

pytestmark = pytest.mark.usefixtures("small")


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
        "profile-layers", "tiny-int8", "--baseline", "tiny-fp32", "--threads", 1, "--runtime", runtime, "--json"
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
    ran = command("profile-layers", "tiny-int8", "--baseline", "tiny-fp32", "--threads", 1, "--runtime", "onnxruntime")
    assert ran.code == 0, ran.err
    assert "tiny-int8 compared with tiny-fp32; times with the conversions that feed a layer" in ran.out
    assert "why not faster" in ran.out


def test_a_model_of_another_tool_as_baseline(here: Path, command: Command) -> None:
    foreign_classifier(here / "theirs.onnx")
    described = ("--mean", "0.5", "--std", "0.5", "--threads", 1, "--runtime", "onnxruntime")
    ran = command("profile-layers", "tiny-fp32", "--baseline", "theirs.onnx", *described)
    assert ran.code == 0, ran.err
    assert "theirs (fp32), ONNX Runtime" in ran.out


def test_json_names_flags(here: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    real, passed_over = layer_profile.profile_layers, (PassedOver("tensorrt", "use `runtime` openvino"),)
    monkeypatch.setattr(layer_profile, "profile_layers", lambda *args: replace(real(*args), passed_over=passed_over))
    told = json.loads(command("profile-layers", "tiny-fp32", "--threads", 1, "--json").out)
    assert told["profiles"][0]["passed_over"] == [{"runtime": "tensorrt", "reason": "use --runtime openvino"}]


@pytest.mark.parametrize("gpu", [False, True])
def test_auto_shows_why_a_plan_is_passed_over_beside_a_gpu(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    monkeypatch.setattr(layer_profile, "has_nvidia_gpu", lambda: gpu)
    ran = command("profile-layers", "tiny-int8", "--threads", 1)
    assert ran.code == 0, ran.err
    assert ("not used: tensorrt: " in ran.err) == gpu
    assert "OpenVINO" in ran.out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("tiny-fp32", "--batch", "9"), 2, "--batch 9: tiny-fp32 has a profile of 1..4"),
        (("frozen.onnx", "--batch", "5"), 2, "--batch 5: frozen has a profile of 2..2"),
        (("tiny-fp32", "--runtime", "tensorrt"), 1, "tiny-fp32 holds no TensorRT plan"),
        (("tiny-fp32", "--runtime", "abacus"), 2, "'abacus' is not one of"),
        (("tiny-fp32", "--baseline", "nothing"), 1, "nothing: no such engine"),
    ],
)
def test_bad_input_is_one_line(here: Path, command: Command, arguments: tuple[str, ...], code: int, text: str) -> None:
    ran = command("profile-layers", *arguments)
    assert ran.code == code
    assert text in ran.error
    assert ran.out == ""
