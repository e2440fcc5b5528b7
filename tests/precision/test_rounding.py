"""Scales of least error, and GPTQ beside the algorithm of its paper, which inverts the Hessian."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.precision import rounding
from alexnet_deploy.precision.rounding import INT4, INT8, WeightSteps, best_scales, round_for_outputs, round_to_nearest

STEPS = [INT4, INT8, WeightSteps(-8, 7, 16)]


def as_in_the_paper(
    weight_KN: NDArray[np.float32], scale_KN: NDArray[np.float32], steps: WeightSteps, moment_KK: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Algorithm 1 of arXiv:2210.17323 with blocks of one input, in the order of falling diagonal ("act-order")."""
    damped_KK = moment_KK.astype(np.float64)
    damped_KK += rounding._DAMPING * np.trace(damped_KK) / len(damped_KK) * np.eye(len(damped_KK))
    order_K = np.argsort(-np.diag(moment_KK), kind="stable")
    upper_KK = np.linalg.cholesky(np.linalg.inv(damped_KK[np.ix_(order_K, order_K)])).T
    left_KN, scale_KN = weight_KN[order_K].astype(np.float64), scale_KN[order_K]
    found_KN = np.empty_like(left_KN)
    for i in range(len(left_KN)):
        found_KN[order_K[i]] = whole_N = np.clip(np.rint(left_KN[i] / scale_KN[i]), steps.lowest, steps.highest)
        error_N = (left_KN[i] - whole_N * scale_KN[i]) / upper_KK[i, i]
        left_KN[i + 1 :] -= upper_KK[i, i + 1 :, None] * error_N
    return found_KN


def correlated(rng: np.random.Generator, rows: int, inputs: int) -> NDArray[np.float32]:
    """Rows that have few sources in common, as the outputs of a ReLU have."""
    mixed = rng.normal(size=(rows, 12)) @ rng.normal(size=(12, inputs)) + 0.1 * rng.normal(size=(rows, inputs))
    return np.maximum(mixed, 0).astype(np.float32)


def moments_of(x_NK: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    parts = [x_NK[:, i : i + rounding.SEGMENT] for i in range(0, x_NK.shape[1], rounding.SEGMENT)]
    return [part.T @ part / len(part) for part in parts]


@pytest.mark.parametrize("steps", STEPS)
@given(seed=st.integers(0, 2**32 - 1), inputs=st.integers(1, 200))
def test_gptq_is_that_of_the_paper(steps: WeightSteps, seed: int, inputs: int) -> None:
    """By one Cholesky factor, and lazily over 128 inputs: but for numbers at the middle between two steps."""
    rng = np.random.default_rng(seed)
    weight_KN = rng.normal(size=(inputs, 5)).astype(np.float32)
    (moment_KK,) = moments = moments_of(correlated(rng, 300, inputs))
    scale_SN = best_scales(weight_KN, steps, np.diag(moment_KK))
    found_KN = round_for_outputs(weight_KN, scale_SN, steps, moments)
    expected_KN = as_in_the_paper(weight_KN, steps.spread(scale_SN, inputs), steps, moment_KK)
    # A tie that float32 breaks otherwise changes what the inputs behind it compensate.
    same_N = (found_KN == expected_KN).all(axis=0)
    assert same_N.sum() >= 4


@pytest.mark.parametrize("steps", STEPS)
def test_gptq_keeps_outputs_closer_on_other_rows(steps: WeightSteps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "SEGMENT", 96)  # the last segment is shorter
    rng = np.random.default_rng(0)
    weight_KN = rng.normal(size=(250, 40)).astype(np.float32)
    both_NK = correlated(rng, 1200, 250)
    calibrating_NK, other_NK = both_NK[:600], both_NK[600:]
    moments = moments_of(calibrating_NK)
    power_K = np.concatenate([np.diag(moment) for moment in moments])

    def error(rounded_KN: NDArray[np.int8], scale_SN: NDArray[np.float32]) -> float:
        return float(np.square(other_NK @ (rounded_KN * steps.spread(scale_SN, 250) - weight_KN)).sum())

    nearest, weighted = best_scales(weight_KN, steps), best_scales(weight_KN, steps, power_K)
    by_gptq = error(round_for_outputs(weight_KN, weighted, steps, moments), weighted)
    # Measured 3 to 8 times less; half is far from both.
    assert by_gptq < error(round_to_nearest(weight_KN, nearest, steps), nearest) / 2


@pytest.mark.parametrize("steps", STEPS)
@given(seed=st.integers(0, 2**32 - 1), inputs=st.integers(1, 200))
def test_scales_have_no_more_error_than_the_largest_magnitude(steps: WeightSteps, seed: int, inputs: int) -> None:
    rng = np.random.default_rng(seed)
    weight_KN = rng.standard_t(3, size=(inputs, 7)).astype(np.float32)
    scale_SN = best_scales(weight_KN, steps)
    np.testing.assert_array_equal(scale_SN, scale_SN.astype(np.float16))  # float16 stores them exactly
    block = steps.block or inputs
    starts = range(0, inputs, block)
    unclipped_SN = np.array([np.abs(weight_KN[i : i + block]).max(axis=0) for i in starts]) / steps.highest
    unclipped_SN = unclipped_SN.astype(np.float16).astype(np.float32)

    def error(scale_SN: NDArray[np.float32]) -> NDArray[np.float32]:
        spread_KN = steps.spread(scale_SN, inputs)
        return np.square(round_to_nearest(weight_KN, scale_SN, steps) * spread_KN - weight_KN).sum(axis=0)

    assert (error(scale_SN) <= error(unclipped_SN) * 1.00001).all()  # float32 sums in another order


@pytest.mark.parametrize(("steps", "whole"), [(INT4, [-8, -8, -7, 6, 7, 7]), (INT8, [-127, -127, -127, 126, 127, 127])])
def test_rounded_numbers_have_the_range_of_their_type(steps: WeightSteps, whole: list[int]) -> None:
    """The lowest int4 is used; that of int8, whose magnitude no int8 has, is not."""
    top = steps.highest
    weight_KN = 0.5 * np.float32([[-top - 2], [-top - 1], [-top], [top - 1], [top], [top + 1]])
    assert round_to_nearest(weight_KN, np.float32([[0.5]]), steps).ravel().tolist() == whole


def test_a_block_of_dead_inputs_has_the_scale_of_least_error() -> None:
    """By no importance at all, every scale would be as good."""
    weight_KN = np.random.default_rng(0).standard_t(3, size=(256, 7)).astype(np.float32)
    importance_K = np.repeat(np.float32([1, 0]), 128)
    found_SN = best_scales(weight_KN, INT4, importance_K)
    np.testing.assert_array_equal(found_SN, best_scales(weight_KN, INT4))
    assert (found_SN[1] < np.abs(weight_KN[128:]).max(axis=0) / INT4.highest).any()  # some weights are clipped


@pytest.mark.parametrize("steps", STEPS)
def test_weights_of_zeros_and_inputs_of_zeros(steps: WeightSteps) -> None:
    weight_KN = np.zeros((40, 3), np.float32)
    scale_SN = best_scales(weight_KN, steps, np.zeros(40, np.float32))
    assert (scale_SN > 0).all()
    assert not round_for_outputs(weight_KN, scale_SN, steps, [np.zeros((40, 40), np.float32)]).any()
    weight_KN = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    scale_SN = best_scales(weight_KN, steps, np.zeros(40, np.float32))
    np.testing.assert_array_equal(
        round_for_outputs(weight_KN, scale_SN, steps, [np.zeros((40, 40), np.float32)]),
        round_to_nearest(weight_KN, scale_SN, steps),
    )
