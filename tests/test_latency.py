"""Percentiles by hand, and a measurement of a runner that takes no time."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.contract import BatchProfile, ModelContract, Preprocessing
from alexnet_deploy.errors import UsageError
from alexnet_deploy.latency import MIN_ITERATIONS, measure, percentile


class Idle:
    contract = ModelContract("idle", ("a", "b"), ("a", "b"), Preprocessing(8, 8, "stretch", None))
    description = "nothing"
    batch: BatchProfile | None = None

    def __init__(self) -> None:
        self.shapes: set[tuple[int, ...]] = set()

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.shapes.add(pixels_NHWC.shape)
        return np.zeros((len(pixels_NHWC), 2), np.float32)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 20), (51, 30), (25, 10), (26, 20), (75, 30), (76, 40), (99, 40), (100, 40), (0, 10)]
)
def test_percentile_is_the_nearest_rank(percent: float, expected: int) -> None:
    assert percentile([10, 20, 30, 40], percent) == expected


def test_measure_reports_what_it_ran() -> None:
    runner = Idle()
    row = measure(runner, batch=3, duration_s=1e-9)
    assert runner.shapes == {(3, 8, 8, 3)}
    assert row.iterations == MIN_ITERATIONS
    assert row.min_ms <= row.median_ms <= row.p90_ms <= row.p99_ms <= row.max_ms
    assert row.min_ms <= row.mean_ms <= row.max_ms
    assert (row.batch, row.description) == (3, "nothing")
    assert row.images_per_s > 0


@pytest.mark.parametrize(("batch", "duration_s"), [(0, 1.0), (-1, 1.0), (1, 0.0), (1, -1.0), (1, float("nan"))])
def test_measure_refuses_numbers_out_of_range(batch: int, duration_s: float) -> None:
    with pytest.raises(UsageError, match=r"--batch|--duration"):
        measure(Idle(), batch=batch, duration_s=duration_s)
