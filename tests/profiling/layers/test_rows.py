"""The limits of a layer, remarks on it, and why it is not faster than another: by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from alexnet_deploy.errors import UsageError
from alexnet_deploy.profiling.layers.profile import LayerProfile
from alexnet_deploy.profiling.layers.rows import LayerRow, notes_on, with_limits
from alexnet_deploy.profiling.layers.verdicts import verdicts
from tests.profiling.layers.test_roofline import BY_HAND


class TestLimits:
    def row(self, **changes: Any) -> LayerRow:
        row = LayerRow(
            "features.0", False, "Conv", (), None, "fp32", "conv", 100.0, 50.0, 10**7, 10**6, 10.0, 100.0, 10.0
        )
        return dataclasses.replace(row, **changes)

    def test_the_longer_limit_bounds(self) -> None:
        # 10 MFLOP at 500 GFLOP/s: 20 us; 1 MB at 50 GB/s: 20 us; ten times the arithmetic: 200 us.
        compute = with_limits(self.row(flops=10**8), BY_HAND)
        assert compute.bound == "compute"
        assert compute.limit_us == pytest.approx(200.0)
        memory = with_limits(self.row(flops=10**6), BY_HAND)
        assert memory.bound == "bandwidth"
        assert memory.limit_us == pytest.approx(20.0)
        assert memory.of_limit_percent == pytest.approx(20.0)
        assert with_limits(self.row(precision="bf16"), BY_HAND).limit_us is None
        assert with_limits(self.row(moved_bytes=None), BY_HAND).limit_us is None

    def test_above_the_roof_is_explained(self) -> None:
        rows = [
            with_limits(self.row(flops=0, median_us=10.0, gb_per_s=100.0), BY_HAND),
            with_limits(self.row(layer="features.3", flops=10**9, median_us=1000.0), BY_HAND),
            with_limits(
                self.row(layer="q", op="Reorder", overhead=True, flops=0, median_us=10.0, gb_per_s=90.0), BY_HAND
            ),
        ]
        cached, faster = notes_on(rows, BY_HAND)
        assert "served from the cache: features.0, 1 conversion, at up to 100 GB/s" in cached
        assert "memory gives 50 and the cache 200" in cached
        assert "fits into the cache of 32 MiB" in cached
        assert "measured the peak: features.3; a few percent are chance" in faster

    def test_a_precision_without_a_roof_is_reported(self) -> None:
        (note,) = notes_on([self.row(precision="bf16")], dataclasses.replace(BY_HAND, peaks=()))
        assert note.startswith("no roof for bf16")

    def test_kernels_that_nobody_can_place_are_reported(self) -> None:
        row = self.row(layer="__myl_Conv_1", overhead=True, op="Conv", flops=0)
        assert notes_on([row], None)[0].endswith("shown as conversions: __myl_Conv_1")


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
        row = LayerRow("fc", False, "Gemm", (), None, "int8", "brgemm_i8", us, 10.0, 10**6, 10**6, 1.0, 1.0, 10.0)
        return with_limits(dataclasses.replace(row, **changes), BY_HAND)

    def test_a_faster_layer_needs_no_reason(self) -> None:
        assert self.why(self.layer(50.0), self.layer(100.0, precision="fp32")) is None

    @pytest.mark.parametrize(
        ("row", "other", "conversion_us", "reason"),
        [
            ({"us": 100, "precision": "fp32", "kernel": "FusedGemm", "moved_bytes": 9}, {"us": 90, "precision": "fp32"},
             12, "computed in fp32 all the same (FusedGemm): the runtime found no other kernel; 12 us of conversions"),
            ({"us": 50}, {"us": 100, "precision": "fp32"}, 60,
             "itself 2.0x as fast, but 60 us of conversions before it take that back"),
            ({"us": 10}, {"us": 10, "precision": "fp32"}, 0, "too small: 10 us"),
            ({"us": 25}, {"us": 25, "precision": "fp32"}, 0, "bound by memory, and moves the same 0.95 MiB"),
            ({"us": 900}, {"us": 100, "precision": "fp32", "moved_bytes": 4 * 10**6}, 0,
             "its int8 kernel (brgemm_i8) reaches 2 % of its limit, the fp32 one 80 %"),
            ({"us": 900, "flops": 0, "precision": "uint8", "kernel": "MaxPool", "gb_per_s": 0.4},
             {"us": 20, "flops": 0, "precision": "fp32", "gb_per_s": 41.0, "moved_bytes": 4 * 10**6}, 0,
             "nothing to multiply, and its uint8 kernel (MaxPool) moves 0.4 GB/s where the fp32 one moves 41.0 GB/s"),
            ({"us": 100, "flops": 0}, {"us": 99, "flops": 0}, 0, "the same work on the same bytes, in int8 as there"),
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
