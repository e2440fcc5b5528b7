"""The roofline: its arithmetic by hand, and that what it measures is the kernel it asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from alexnet_deploy.profiling.layers import roofline
from alexnet_deploy.profiling.layers.costs import Costs
from alexnet_deploy.profiling.layers.peak_models import PEAK_MODELS, PeakModel
from alexnet_deploy.profiling.layers.roofline import Bandwidth, Peak, Roofline, cache_bytes, measure_roofline
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
        floats = sum(_count(shape) for shape in (model.input_shape, model.weight_shape, model.output_shape))
        assert model.flops / (4 * floats) > 100  # machines balance at tens of operations a byte


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def test_there_is_no_peak_model_of_fp8(tmp_path: Path) -> None:
    assert not SMALL[0].save(tmp_path / "peak.onnx", "fp8")


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_real_runtime_is_measured_at_what_it_computes(small: None, runtime: str) -> None:
    found = measure_roofline(runtime, {"fp32", "int8", "fp8"}, threads=1)
    assert [peak.precision for peak in found.peaks] == ["fp32", "int8"]
    assert all(peak.gflop_per_s > 0 for peak in found.peaks)
    integer = {"openvino": r"_(i8|I8)$", "onnxruntime": "^(QGemm|QLinearConv|MatMulInteger)$"}[runtime]
    assert re.search(integer, found.peaks[1].kernel), found.peaks[1].kernel
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
