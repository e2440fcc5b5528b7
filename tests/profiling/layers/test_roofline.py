"""The roofline measures the kernel it asked for; by hand: the limits of a layer, notes on it, and verdicts."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.errors import UsageError
from alexnet_deploy.machine.cpu import saturates_int8
from alexnet_deploy.profiling.costs import Costs
from alexnet_deploy.profiling.layer_profile import Bandwidth, LayerProfile, LayerRow, Peak, Roofline
from alexnet_deploy.profiling.layers import roofline
from alexnet_deploy.profiling.layers.peak_models import PEAK_MODELS, PeakModel
from alexnet_deploy.profiling.layers.roofline import cache_bytes, measure_roofline
from alexnet_deploy.profiling.layers.rows import notes_on, with_limits
from alexnet_deploy.profiling.layers.verdicts import verdicts
from tests.profiling.layers.conftest import SMALL

BY_HAND = Roofline(
    "openvino", 2, (Peak("fp32", 500.0, "a"), Peak("int8", 2000.0, "b")), Bandwidth(50.0, 200.0, 32 << 20, True)
)


def test_the_limits_by_hand() -> None:
    # 1 GFLOP at 500 GFLOP/s is 2 ms; 1 MB at 50 GB/s is 20 us.
    assert BY_HAND.limit_us(10**9, 10**6, "fp32") == pytest.approx((2000.0, 20.0))
    assert BY_HAND.limit_us(10**9, 10**6, "int8") == pytest.approx((500.0, 20.0))
    assert BY_HAND.limit_us(0, 10**6, "uint8") == pytest.approx((0.0, 20.0))
    assert BY_HAND.limit_us(1, 10**6, "fp16") is None  # nothing computed in it: no limit, rather than a wrong one


@pytest.mark.parametrize("model", PEAK_MODELS + SMALL, ids=lambda model: f"{model.op}{model.input_shape}")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_the_operations_of_a_peak_are_those_of_its_graph(tmp_path: Path, model: PeakModel, precision: str) -> None:
    assert model.save(tmp_path / "peak.onnx", precision)
    costs = Costs(tmp_path / "peak.onnx", model.input_shape[0])
    assert costs.flops(costs.nodes) == model.flops


def test_peaks_have_far_more_arithmetic_than_bytes() -> None:
    for model in PEAK_MODELS:
        floats = sum(math.prod(shape) for shape in (model.input_shape, model.weight_shape, model.output_shape))
        assert model.flops / (4 * floats) > 100  # machines balance at tens of operations a byte


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_real_runtime_is_measured_at_what_it_computes(small: None, runtime: str) -> None:
    found = measure_roofline(runtime, {"fp32", "int8", "fp8"}, threads=1)
    multiplies_float32 = runtime == "openvino" and saturates_int8()
    assert [peak.precision for peak in found.peaks] == ["fp32", "int8"][: 1 if multiplies_float32 else 2]
    assert all(peak.gflop_per_s > 0 for peak in found.peaks)
    integer = {"openvino": r"_(i8|I8)$", "onnxruntime": "^(QGemm|QLinearConv|MatMulInteger)$"}[runtime]
    assert multiplies_float32 or re.search(integer, found.peaks[1].kernel), found.peaks[1].kernel
    assert found.threads == 1
    assert min(found.bandwidth.cache_gb_per_s, found.bandwidth.memory_gb_per_s) > 0
    again = measure_roofline(runtime, {"fp32"}, threads=1)
    assert again.peaks[0] == found.peaks[0]  # engines are judged by one roof
    assert found.bandwidth.cache_bytes == 1 << 18


def test_a_precision_without_a_kernel_has_no_peak(small: None) -> None:
    """ONNX Runtime computes a float16 convolution in float32 and refuses a bfloat16 one: neither has a peak."""
    assert measure_roofline("onnxruntime", {"bf16"}, threads=1).peaks == ()


def test_a_cache_that_the_system_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_CACHES", tmp_path)
    assert cache_bytes() is None
    for index, size in enumerate(("48K", "1024K", "32768K")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert cache_bytes() == 32 << 20
    (tmp_path / "index0" / "size").write_text("what?")
    assert cache_bytes() is None


def row(us: float = 100.0, **changes: Any) -> LayerRow:
    """10 MFLOP in fp32 on 1 MB, below the roof of ``BY_HAND``."""
    made = LayerRow("features.0", False, "Conv", (), None, "fp32", "conv", us, 50.0, 10**7, 10**6, 10.0, 100.0, 10.0)
    return with_limits(dataclasses.replace(made, **changes), BY_HAND)


class TestLimits:
    def test_the_longer_limit_bounds(self) -> None:
        # 10 MFLOP at 500 GFLOP/s: 20 us; 1 MB at 50 GB/s: 20 us; ten times the arithmetic: 200 us.
        compute = row(flops=10**8)
        assert compute.bound == "compute"
        assert compute.limit_us == pytest.approx(200.0)
        memory = row(flops=10**6)
        assert memory.bound == "bandwidth"
        assert memory.limit_us == pytest.approx(20.0)
        assert memory.of_limit_percent == pytest.approx(20.0)
        assert row(precision="bf16").limit_us is None
        assert row(moved_bytes=None).limit_us is None

    def test_above_the_roof_is_explained(self) -> None:
        rows = [
            row(10.0, flops=0, gb_per_s=100.0),
            row(1000.0, layer="features.3", flops=10**9),
            row(10.0, layer="q", op="Reorder", overhead=True, flops=0, gb_per_s=90.0),
        ]
        cached, faster = notes_on(rows, BY_HAND)
        assert "read from the cache: features.0, 1 conversion, at up to 100 GB/s (memory 50, cache 200)" in cached
        assert "one call moves 2.9 MiB, which fits into the cache of 32 MiB" in cached
        assert "measured the peak: features.3; a few percent are chance" in faster

    def test_a_precision_without_a_roof_is_reported(self) -> None:
        (note,) = notes_on([row(precision="bf16")], dataclasses.replace(BY_HAND, peaks=()))
        assert note.startswith("no peak for bf16")

    def test_kernels_that_nobody_can_place_are_reported(self) -> None:
        unplaced = row(layer="__myl_Conv_1", overhead=True, op="Conv", flops=0)
        assert notes_on([unplaced], None)[0].endswith("shown as conversions: __myl_Conv_1")


class TestVerdicts:
    def profile(self, *rows: LayerRow, **changes: Any) -> LayerProfile:
        profile = LayerProfile(
            "a", "int8", "openvino", "OpenVINO", 1, None, 60, 1000.0, 900.0, 100.0, 1000.0, rows, BY_HAND
        )
        return dataclasses.replace(profile, **changes)

    def why(self, row: LayerRow, other: LayerRow, *conversions: LayerRow) -> str | None:
        (found,) = verdicts(self.profile(row, *conversions), self.profile(other))
        return found.why

    def conversion(self, us: float) -> LayerRow:
        return self.layer(us, layer="q", overhead=True, next_layer="fc", flops=0)

    def layer(self, us: float, **changes: Any) -> LayerRow:
        return row(us, **{"layer": "fc", "precision": "int8", "kernel": "brgemm_i8", "flops": 10**6} | changes)

    def test_a_faster_layer_needs_no_reason(self) -> None:
        assert self.why(self.layer(50.0), self.layer(100.0, precision="fp32")) is None

    @pytest.mark.parametrize(
        ("row", "other", "conversion_us", "reason"),
        [
            ({"us": 100, "precision": "fp32", "kernel": "FusedGemm", "moved_bytes": 9}, {"us": 90, "precision": "fp32"},
             12, "also computed in fp32 (FusedGemm): the runtime has no other kernel for it; plus 12 us"),
            ({"us": 50}, {"us": 100, "precision": "fp32"}, 60,
             "2.0x as fast alone, but the 60 us of conversions before it cost more than that"),
            ({"us": 10}, {"us": 10, "precision": "fp32"}, 0, "too small: 10 us"),
            ({"us": 25}, {"us": 25, "precision": "fp32"}, 0, "bound by memory, and moves the same 0.95 MiB"),
            ({"us": 900}, {"us": 100, "precision": "fp32", "moved_bytes": 4 * 10**6}, 0,
             "its int8 kernel (brgemm_i8) reaches 2 % of its limit, the fp32 one 80 %"),
            ({"us": 900, "flops": 0, "precision": "uint8", "kernel": "MaxPool", "gb_per_s": 0.4},
             {"us": 20, "flops": 0, "precision": "fp32", "gb_per_s": 41.0, "moved_bytes": 4 * 10**6}, 0,
             "no arithmetic to save; its uint8 kernel (MaxPool) moves 0.4 GB/s, the fp32 kernel 41.0 GB/s"),
            ({"us": 100, "flops": 0}, {"us": 99, "flops": 0}, 0, "same work, bytes and precision (int8) in both"),
        ],
    )  # fmt: skip
    def test_every_reason(self, row: dict[str, Any], other: dict[str, Any], conversion_us: float, reason: str) -> None:
        why = self.why(self.layer(**row), self.layer(**other), self.conversion(conversion_us))
        assert why is not None
        assert why.startswith(reason)

    def test_conversions_count_in_the_speed_up(self) -> None:
        (found,) = verdicts(
            self.profile(self.layer(20.0), self.conversion(30.0)), self.profile(self.layer(100.0, precision="fp32"))
        )
        assert (found.us, found.conversions_us, found.speedup) == (50.0, 30.0, 2.0)

    def test_other_runtimes_are_not_compared(self) -> None:
        with pytest.raises(UsageError, match="`baseline` a: measured with onnxruntime at batch 1"):
            verdicts(self.profile(), self.profile(runtime="onnxruntime"))
