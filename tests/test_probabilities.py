"""From a contract to probabilities and "unknown": by hand, and what no calibration may do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alexnet_deploy.calibration import Calibration, Rejection
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.probabilities import certainty, log_probabilities, loss_nats, probabilities, softmax, unknown

NAMES = ("a", "b", "c")
BARE = ModelContract("any", NAMES, NAMES)
LOGITS = hnp.arrays(np.float32, (4, 3), elements=st.floats(-60, 60, width=32))
SHARE = st.floats(0, 1)


@st.composite
def calibrations(draw: st.DrawFn) -> Calibration:
    if draw(st.booleans()):
        raw = draw(SHARE)
        return Calibration(mixture=(raw, (1 - raw) * draw(SHARE)))
    from_ = sorted(draw(st.lists(SHARE, min_size=1, max_size=5, unique=True)))
    to = sorted(draw(st.lists(st.floats(1e-6, 1 - 1e-6), min_size=len(from_), max_size=len(from_))))
    return Calibration(top=tuple(zip(from_, to, strict=True)))


@given(LOGITS, calibrations(), st.floats(0.05, 20))
def test_every_calibration_gives_probabilities_and_keeps_the_ranking(
    logits_NK: np.ndarray, calibration: Calibration, temperature: float
) -> None:
    contract = replace(BARE, temperature=temperature, calibration=calibration)
    p_NK = probabilities(logits_NK, contract)
    assert p_NK.sum(axis=1) == pytest.approx(1)
    assert (p_NK >= 0).all()
    order_NK = np.argsort(-logits_NK, axis=1, kind="stable")
    ranked_NK = np.take_along_axis(p_NK, order_NK, axis=1)
    assert (np.diff(ranked_NK, axis=1) <= 1e-12).all()  # the last bits of equal probabilities
    log_NK = log_probabilities(logits_NK, contract)
    target_N = np.array([0, 1, 2, 0])
    assert loss_nats(logits_NK, target_N, contract) == pytest.approx(-log_NK[np.arange(4), target_N])


@given(calibrations(), hnp.arrays(np.float32, (50, 3), elements=st.floats(-9, 9, width=32)))
def test_a_rising_map_never_makes_a_surer_answer_less_sure(calibration: Calibration, logits_NK: np.ndarray) -> None:
    """Of images whose other classes are equally likely, so that the second never holds the first up.

    Each has a first class: where the largest logits are equal, no map acts.
    """
    logits_NK[:, 1:] = logits_NK[:, 1:2]
    logits_NK[:, 0] = np.abs(logits_NK[:, 0]) + np.float32(0.01) + logits_NK[:, 1]
    before_N, after_N = softmax(logits_NK).max(axis=1), probabilities(logits_NK, replace(BARE, calibration=calibration))
    order_N = np.argsort(before_N, kind="stable")
    assert (np.diff(after_N[order_N].max(axis=1)) >= -1e-12).all()


def test_a_map_of_the_top_by_hand() -> None:
    """0.5, 0.3, 0.2: the first becomes 0.75, halfway between 0.6 and 0.9; the others keep their ratio of 3 to 2."""
    logits_NK = np.log([[0.5, 0.3, 0.2]])
    contract = replace(BARE, calibration=Calibration(top=((0.4, 0.6), (0.6, 0.9))))
    assert probabilities(logits_NK, contract)[0] == pytest.approx([0.75, 0.15, 0.1])
    low = replace(BARE, calibration=Calibration(top=((0.0, 0.1), (1.0, 0.1))))
    # as near to the second as it may be: 0.6 (1 - p) = p
    assert probabilities(logits_NK, low)[0] == pytest.approx([0.375, 0.375, 0.25])


@given(LOGITS, calibrations().filter(lambda each: bool(each.top)), st.floats(0.05, 20), st.integers(0, 2))
def test_a_map_leaves_the_first_class_the_first_in_float32(
    logits_NK: np.ndarray, calibration: Calibration, temperature: float, shift: int
) -> None:
    """Also where two logits differ by one step of float32, and wherever the first one stands."""
    logits_NK[0, 1] = np.nextafter(logits_NK[0, 0], np.float32(np.inf))
    logits_NK = np.roll(logits_NK, shift, axis=1)
    p_NK = probabilities(logits_NK, replace(BARE, temperature=temperature, calibration=calibration))
    for rounded_NK in (p_NK, p_NK.astype(np.float32)):
        best_NK = rounded_NK == rounded_NK.max(axis=1, keepdims=True)
        first_NK = logits_NK == logits_NK.max(axis=1, keepdims=True)
        assert (best_NK | ~first_NK).all()  # equal largest logits stay equal
        alone_N = first_NK.sum(axis=1) == 1
        assert (best_NK[alone_N] == first_NK[alone_N]).all()


def test_a_map_below_the_second_class_changes_no_answer() -> None:
    """Each pair of near-equal classes, the larger one at any place: none becomes a tie."""
    rng = np.random.default_rng(0)
    logits_NK = np.log(rng.dirichlet([0.3] * 10, 3000)).astype(np.float32)
    low = ModelContract("any", tuple("abcdefghij"), tuple("abcdefghij"), calibration=Calibration(top=((0.5, 0.01),)))
    p_NK = probabilities(logits_NK, low)
    assert (p_NK.argmax(axis=1) == logits_NK.argmax(axis=1)).all()
    assert (p_NK.astype(np.float32).argmax(axis=1) == logits_NK.argmax(axis=1)).all()


@pytest.mark.parametrize("raw", [0.9, 0.8, 0.7, 0.6, 0.3, 1.0])
def test_shares_that_leave_nothing_for_the_third_part(raw: float) -> None:
    """In binary 1 - 0.9 - 0.1 is below 0."""
    contract = replace(BARE, temperature=0.5, calibration=Calibration(mixture=(raw, round(1 - raw, 9))))
    uniform = (1 - raw) / BARE.outputs
    logits_NK = np.zeros((1, BARE.outputs))
    logits_NK[0, 0] = np.log(3)
    others = raw / (BARE.outputs + 2) + uniform
    np.testing.assert_allclose(probabilities(logits_NK, contract)[0, 1:], others)


def test_a_mixture_by_hand() -> None:
    contract = replace(BARE, temperature=0.5, calibration=Calibration(mixture=(0.3, 0.2)))
    p, q = np.array([0.25, 0.09, 0.04]) / 0.38, np.array([0.5, 0.3, 0.2])
    assert probabilities(np.log([q]), contract)[0] == pytest.approx(0.5 * p + 0.3 * q + 0.2 / 3)


def test_one_class_is_certain() -> None:
    one = ModelContract("any", ("a",), ("a",), calibration=Calibration(top=((0.5, 0.5),)))
    assert probabilities(np.array([[3.0]]), one).tolist() == [[1.0]]


def test_the_scores_by_hand() -> None:
    logits_NK = np.log([[0.5, 0.3, 0.2]]) + 7
    assert certainty(logits_NK, BARE, "max-probability")[0] == pytest.approx(0.5)
    assert certainty(logits_NK, BARE, "max-logit")[0] == pytest.approx(np.log(0.5) + 7)
    assert certainty(logits_NK, BARE, "energy")[0] == pytest.approx(7)


def test_unknown_is_what_the_rule_says() -> None:
    logits_NK = np.array([[2.0, 0, 0], [3.0, 0, 0]], np.float32)
    assert unknown(logits_NK, BARE) is None
    found = unknown(logits_NK, replace(BARE, rejection=Rejection("max-logit", 3.0)))
    assert found is not None
    assert found.tolist() == [True, False]  # at the threshold an answer counts


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"mixture": (0.5, 0.1), "top": ((0.5, 0.5),)},
        {"mixture": (0.9, 0.2)},
        {"mixture": (-0.1, 0.2)},
        {"mixture": (float("nan"), 0.2)},
        {"top": ((0.5, 1.0),)},
        {"top": ((0.5, 0.0),)},
        {"top": ((1.5, 0.5),)},
        {"top": ((0.5, 0.5), (0.5, 0.6))},
        {"top": ((0.5, 0.5), (0.6, 0.4))},
        {"top": ((float("nan"), 0.5),)},
    ],
)
def test_a_calibration_that_is_none_is_refused(values: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match=r"mixture|point|rise"):
        Calibration(**values)  # type: ignore[arg-type]
