"""Whether logits say what a tool's scores say: computed by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.contract import Activation, ModelContract
from alexnet_deploy.verification.difference import difference
from alexnet_deploy.verification.scores import against_scores

LIMIT = 1e-3
LABELS = ("a", "b", "c")
CONTRACT = ModelContract("net", LABELS, LABELS)
LOGITS = np.array([[2.0, 0.0, -1.0], [0.5, 3.0, 1.0], [-2.0, -1.0, 4.0]], np.float32)
POWERS = np.exp(LOGITS.astype(np.float64))
SOFTMAX = POWERS / POWERS.sum(axis=1, keepdims=True)
SIGMOID = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))


def verdict(
    scores: NDArray[np.float64], activation: Activation = "softmax", given: Activation | None = None
) -> str | None:
    return against_scores(scores, LOGITS, dataclasses.replace(CONTRACT, activation=activation), given, LIMIT)


@pytest.mark.parametrize(
    "scores",
    [LOGITS.astype(np.float64), LOGITS + 7.0, SOFTMAX, 100 * SOFTMAX, np.log(SOFTMAX)],
    ids=["logits", "logits and a constant", "probabilities", "percent", "log-probabilities"],
)
def test_the_same_answers_in_any_form_agree(scores: NDArray[np.float64]) -> None:
    assert verdict(scores) is None


def test_scores_of_a_sigmoid_agree_with_its_logits() -> None:
    assert verdict(SIGMOID, "sigmoid") is None
    assert verdict(LOGITS.astype(np.float64), "sigmoid") is None
    assert verdict(100 * SIGMOID, "sigmoid") is None, "percent"
    assert verdict(np.log(SIGMOID), "sigmoid") is None, "LogSigmoid"
    assert verdict(100 * SIGMOID[:, ::-1], "sigmoid") is not None
    assert verdict(np.log(SIGMOID[:, ::-1]), "sigmoid") is not None
    assert verdict(LOGITS + 0.1, "sigmoid") is not None, "a constant changes each score"


@pytest.mark.parametrize("cut", [np.rint, np.floor], ids=["rounded", "cut"])
def test_whole_percent_agree_within_one(cut: np.ufunc) -> None:
    """A difference of 1 in 100 is in the scores themselves."""
    assert verdict(cut(100 * SOFTMAX)) is None
    assert verdict(cut(100 * SOFTMAX) + np.array([2, -2, 0])) is not None


def test_probabilities_that_were_taken_for_logits_are_found() -> None:
    reason = against_scores(SOFTMAX, SOFTMAX.astype(np.float32), CONTRACT, None, LIMIT)
    assert reason is not None
    # softmax of 0.9362, 0.1267 and so on instead of the numbers themselves
    assert "probabilities differ by up to" in reason


def test_scores_between_0_and_1_need_their_activation() -> None:
    reason = against_scores(SIGMOID, SIGMOID.astype(np.float32), CONTRACT, None, LIMIT)
    assert reason is not None
    assert "give `activation` sigmoid" in reason
    assert against_scores(SIGMOID, SIGMOID.astype(np.float32), CONTRACT, "softmax", LIMIT) is None, "as the user says"


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1)])
def test_exchanged_classes_are_found(order: tuple[int, ...]) -> None:
    assert verdict(LOGITS[:, order].astype(np.float64)) is not None
    assert verdict(SOFTMAX[:, order]) is not None


def test_another_number_of_scores_is_found() -> None:
    assert "2 scores per image, not 3" in str(verdict(LOGITS[:, :2].astype(np.float64)))


@pytest.mark.parametrize("probability", [True, False])
def test_one_score_of_two_classes(probability: bool) -> None:
    z = LOGITS[:, :1]
    logits = np.concatenate([np.zeros_like(z), z], axis=1)
    two = ModelContract("net", ("no", "yes"), ("no", "yes"))
    scores = 1 / (1 + np.exp(-z.astype(np.float64))) if probability else z.astype(np.float64)
    assert against_scores(scores, logits, two, None, LIMIT) is None
    assert against_scores(scores, -logits, two, None, LIMIT) is not None


def test_one_score_between_0_and_1_is_no_logit() -> None:
    """Else a probability that was taken for a logit would agree with itself."""
    score = np.array([[0.1], [0.6], [0.9]])
    logits = np.concatenate([np.zeros_like(score), score], axis=1).astype(np.float32)
    two = ModelContract("net", ("no", "yes"), ("no", "yes"))
    # the sigmoid of 0.1 is 0.525
    assert "probabilities differ by up to 42.5 points" in str(against_scores(score, logits, two, None, LIMIT))


@given(
    st.lists(st.lists(st.floats(-20, 20, width=32), min_size=3, max_size=3), min_size=2, max_size=6),
    st.floats(2 * LIMIT, 1.0),
    st.data(),
)
def test_a_difference_above_the_limit_is_never_missed(
    rows: list[list[float]], share: float, data: st.DataObject
) -> None:
    """One logit of one image moves by ``share`` of the range of that image's logits."""
    scores = np.array(rows) * 10  # beyond 0..1, so no set of rows looks like probabilities
    scores[:, 0] += 50
    logits = scores.astype(np.float32)
    i, k = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, 2))
    assume(np.ptp(scores[i]) > 1)
    # Centring takes a third of it back.
    scores[i, k] += 3 * share * np.ptp(scores[i])
    assert against_scores(scores, logits, CONTRACT, None, LIMIT) is not None


class TestDifference:
    def test_is_a_share_of_the_range_of_each_image(self) -> None:
        found = difference(np.array([[0.0, 10.0], [0.0, 1.0]]), np.array([[0.0, 8.0], [0.0, 1.0]]))
        # centred: -5, 5 against -4, 4; the range is 8
        np.testing.assert_allclose(found.share_N, [1 / 8, 0.0])
        assert (found.largest, found.median, found.changed) == (1 / 8, 1 / 16, 0)

    def test_counts_the_images_with_another_first_class(self) -> None:
        assert difference(np.array([[0.0, 1.0], [3.0, 1.0]]), np.array([[1.0, 0.0], [3.0, 1.0]])).changed == 1

    def test_a_row_that_is_not_finite_in_one_alone_differs_without_bound(self) -> None:
        odd, even = np.array([[np.nan, 1.0]]), np.array([[0.0, 1.0]])
        assert difference(odd, even).largest == difference(even, odd).largest == np.inf
        assert difference(odd, odd).largest == 0.0

    def test_a_constant_counts_where_rows_are_not_centred(self) -> None:
        a, b = np.array([[1.0, 3.0]]), np.array([[0.0, 2.0]])
        assert difference(a, b).largest == 0.0
        assert difference(a, b, centre=False).largest == 0.5

    def test_constant_logits(self) -> None:
        flat, other = np.array([[1.0, 1.0]]), np.array([[1.0, 2.0]])
        assert difference(flat, flat).largest == 0.0
        assert difference(other, flat).largest == np.inf
