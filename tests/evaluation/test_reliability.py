"""Reliability bins and the calibration error, by hand and as published."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from alexnet_deploy.evaluation.reliability import calibration_error, reliability_bins


def test_bins_by_hand() -> None:
    confidence_N = np.array([0.0, 0.5, 0.51, 0.9, 1.0])
    low, high = reliability_bins(confidence_N, np.array([False, True, True, False, True]), bins=2)
    assert (low.low, low.high, low.images, low.accuracy_percent, low.confidence_percent) == (0, 0.5, 2, 50, 25)
    assert high.images == 3
    assert high.accuracy_percent == pytest.approx(200 / 3)
    assert high.confidence_percent == pytest.approx(100 * 2.41 / 3)
    assert reliability_bins(np.array([0.4]), np.array([True]), bins=2)[1].accuracy_percent is None


@given(confidence_N=hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1)), seed=st.integers(0, 9))
def test_bins_hold_every_image_and_give_the_calibration_error(confidence_N: NDArray[np.float64], seed: int) -> None:
    right_N = np.random.default_rng(seed).random(len(confidence_N)) < 0.5
    bins = reliability_bins(confidence_N, right_N)
    assert sum(row.images for row in bins) == len(confidence_N)
    gaps = [row.images * abs((row.accuracy_percent or 0) - (row.confidence_percent or 0)) for row in bins]
    assert sum(gaps) / len(confidence_N) == pytest.approx(100 * calibration_error(confidence_N, right_N), abs=1e-9)


@given(
    hnp.arrays(np.float64, st.shared(st.integers(1, 60), key="n"), elements=st.floats(2**-10, 1.0)),
    hnp.arrays(np.bool_, st.shared(st.integers(1, 60), key="n")),
    st.integers(1, 20),
)
def test_calibration_error_as_guo_et_al_write_it(
    confidence_N: NDArray[np.float64], right_N: NDArray[np.bool_], bins: int
) -> None:
    expected = 0.0
    for m in range(1, bins + 1):
        inside = (confidence_N > (m - 1) / bins) & (confidence_N <= m / bins)
        if inside.any():
            gap = abs(right_N[inside].mean() - confidence_N[inside].mean())
            expected += inside.sum() / len(confidence_N) * gap
    assert calibration_error(confidence_N, right_N, bins) == pytest.approx(expected, abs=1e-12)  # sums in another order


def test_a_confidence_on_a_bin_edge_belongs_below() -> None:
    """0.5 is in (0, 0.5]: with 0.6 above it, each bin has its own gap."""
    found = calibration_error(np.array([0.5, 0.6]), np.array([True, False]), bins=2)
    assert found == pytest.approx((0.5 + 0.6) / 2)
