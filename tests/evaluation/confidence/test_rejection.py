"""The rule for unknown answers: which score, which threshold, and what its bound promises."""

from __future__ import annotations

import re
from contextlib import suppress

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.evaluation.confidence.rejection import (
    DELTA,
    STARTS,
    check_targets,
    fit_rejection,
    risk_threshold,
    upper_bounds,
)
from alexnet_deploy.evaluation.confidence.scores import choose_score
from alexnet_deploy.probabilities import certainty

NAMES = tuple("abcd")
BARE = ModelContract("any", NAMES, NAMES)


def answers(images: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits, and classes that are the likelier right the larger the first logit is."""
    rng = np.random.default_rng(seed)
    logits_NK = rng.normal(0, 3, (images, len(NAMES))).astype(np.float32)
    return logits_NK, (logits_NK + rng.gumbel(size=logits_NK.shape)).argmax(axis=1)


def by_the_book(score_N: NDArray[np.float64], right_N: NDArray[np.bool_], max_risk: float) -> int:
    """How many images algorithm 1 of Learn then test answers, step by step; 0 for none.

    The hypothesis that the risk is above ``max_risk`` falls where so few mistakes have a chance of DELTA at most.
    """
    thresholds = sorted(set(score_N), reverse=True)
    answered = 0
    for start in STARTS:
        for threshold in thresholds:
            passing_N = score_N >= threshold
            if passing_N.sum() < start * len(score_N):
                continue
            if binom.cdf((passing_N & ~right_N).sum(), passing_N.sum(), max_risk) > DELTA:
                break
            answered = max(answered, int(passing_N.sum()))
    return answered


def test_the_bound_is_clopper_and_pearsons() -> None:
    """At the bound, as few mistakes as were seen have a chance of exactly delta."""
    assert binom.cdf(3, 100, upper_bounds(3, 100, 0.05)) == pytest.approx(0.05)
    assert upper_bounds(0, 59, 0.05) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert upper_bounds(5, 5, 0.05) == 1


def test_the_risk_on_other_images_stays_below_what_was_asked_for() -> None:
    """Drawn forty times: the bound holds with 95 %, so more than six failures have a chance below 0.4 %."""
    others_NK, other_targets_N = answers(50_000, seed=999)
    wrong_N, other_N = others_NK.argmax(axis=1) != other_targets_N, certainty(others_NK, BARE, "max-probability")
    failures = 0
    for seed in range(40):
        logits_NK, target_N = answers(1000, seed)
        score_N = certainty(logits_NK, BARE, "max-probability")
        threshold = risk_threshold(score_N, logits_NK.argmax(axis=1) == target_N, 0.15, source="x")
        failures += wrong_N[other_N >= threshold].mean() > 0.15
    assert failures <= 6


def test_a_score_that_tells_nothing_rarely_passes() -> None:
    """Every threshold has a risk just above the asked one, so each pass breaks the promise.

    With 95 % for three scores, one of them breaks it in 1 of 60 draws at most: then more than 12 of 200 have a chance
    of 2 in 100,000.
    """
    passed = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        with suppress(InputError):
            risk_threshold(rng.random(300), rng.random(300) < 0.9, 0.0999, source="x")
            passed += 1
    assert passed <= 12


def test_mistakes_among_the_most_certain_do_not_end_the_search() -> None:
    """6 of the best 250 are wrong, a bound of 6.08 %; of the best 600 as well, a bound of 2.56 %, and then all are."""
    score_N, right_N = np.linspace(1, 0, 1000), np.arange(1000) < 600
    right_N[[3, 20, 49, 100, 201, 242]] = False
    assert (score_N >= risk_threshold(score_N, right_N, 0.026, source="x")).sum() == 600
    with pytest.raises(InputError, match=r"the lowest bound where .* is 2\.57 %"):
        risk_threshold(score_N, right_N, 0.0256, source="x")
    for wrong, answered in ((6, 600), (7, 601)):  # a bound that is met exactly is met, at a start and on the way
        exactly = float(upper_bounds(wrong, answered, DELTA))
        assert (score_N >= risk_threshold(score_N, right_N, exactly, source="x")).sum() == answered


def test_a_sequence_that_ends_early_does_not_hide_a_later_start() -> None:
    """0 of the best 50 are wrong, a bound of 9.9 %; 1 of 51, 13.5 %; 12 of 600, 4.0 %; then all are."""
    score_N, right_N = np.linspace(1, 0, 1000), np.arange(1000) < 600
    right_N[50:62] = False
    answered = (score_N >= risk_threshold(score_N, right_N, 0.1, source="x")).sum()
    assert answered == by_the_book(score_N, right_N, 0.1) > 600


@pytest.mark.parametrize("seed", range(300))
def test_the_threshold_is_that_of_learn_then_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = int(rng.integers(20, 90))
    score_N = rng.integers(0, rng.integers(1, 200), images).astype(np.float64)  # from all equal to hardly any
    if seed % 3 == 0:
        score_N[score_N == score_N.max()] = np.inf
    more = rng.choice((0.4, 0, -0.3))  # mistakes among the uncertain, or among the certain
    right_N = rng.random(images) < (0.98, 1, 0.7)[seed % 3] - more * (score_N < np.median(score_N))
    max_risk = rng.uniform(0.02, 0.5)
    expected = by_the_book(score_N, right_N, max_risk)
    answered = 0
    with suppress(InputError):
        answered = int((score_N >= risk_threshold(score_N, right_N, max_risk, source="x")).sum())
    assert answered == expected


def test_a_tighter_bound_answers_less_and_the_numbers_are_those_of_the_images() -> None:
    logits_NK, target_N = answers(1000)
    found = [fit_rejection(logits_NK, target_N, None, BARE, max_risk=risk, source="x") for risk in (0.2, 0.1, 0.05)]
    coverages = [each.coverage for each in found if each is not None]
    assert coverages == sorted(coverages, reverse=True)
    last = found[-1]
    assert last is not None
    answered_N = certainty(logits_NK, BARE, last.score) >= last.threshold
    assert last.coverage == answered_N.mean()
    assert last.risk == pytest.approx((logits_NK.argmax(axis=1) != target_N)[answered_N].mean())
    wrong, answered = round(last.risk * answered_N.sum()), answered_N.sum()
    assert binom.cdf(wrong, answered, last.risk_bound) == pytest.approx(0.05 / len(STARTS) / 3)  # three scores
    assert last.risk < last.risk_bound <= 0.05


def test_a_risk_that_no_threshold_meets_is_one_line() -> None:
    with pytest.raises(
        InputError, match=r"^photos: found no threshold that keeps the risk .* 0\.01 % .* raise `max_risk`"
    ) as caught:
        fit_rejection(*answers(500), None, BARE, max_risk=0.0001, source="photos")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(10))
def test_the_bound_that_a_refusal_names_can_be_asked_for(seed: int) -> None:
    logits_NK, target_N = answers(300, seed)
    right_N, score_N = logits_NK.argmax(axis=1) == target_N, certainty(logits_NK, BARE, "max-probability")
    with pytest.raises(InputError, match="found no threshold") as caught:
        risk_threshold(score_N, right_N, 1e-6, source="x")
    (named,) = re.findall(r"starts is ([\d.]+) %", str(caught.value))
    assert risk_threshold(score_N, right_N, float(named) / 100, source="x") in score_N
    with pytest.raises(InputError, match="found no threshold"):
        risk_threshold(score_N, right_N, (float(named) - 0.01) / 100, source="x")


@pytest.mark.parametrize("coverage", [0.5, 0.9, None])
def test_a_coverage_is_met(coverage: float | None) -> None:
    found = fit_rejection(*answers(1000), None, BARE, coverage=coverage, source="x")
    assert found is not None
    assert found.coverage == pytest.approx(0.95 if coverage is None else coverage, abs=1e-3)
    answered = round(1000 * found.coverage)
    assert binom.cdf(round(found.risk * answered), answered, found.risk_bound) == pytest.approx(0.05)  # one threshold
    assert found.outliers is None


def test_everything_answered_needs_no_rule() -> None:
    assert fit_rejection(*answers(200), None, BARE, coverage=1, source="x") is None


def test_outliers_choose_the_score_that_tells_them() -> None:
    """Outliers with small logits of one sharp winner: their probabilities look certain, their logits do not."""
    logits_NK, target_N = answers(500)
    logits_NK += 20
    outliers_OK = np.tile(np.array([[6.0, -6, -6, -6]], np.float32), (300, 1))
    right_N = logits_NK.argmax(axis=1) == target_N
    assert choose_score(logits_NK, right_N, None, BARE).score == "max-probability"
    choice = choose_score(logits_NK, right_N, outliers_OK, BARE)
    assert choice.score in ("max-logit", "energy")
    rows = {row.score: row for row in choice.rows}
    assert (rows[choice.score].auroc_percent, rows[choice.score].fpr95_percent) == (100, 0)
    assert rows["max-probability"].auroc_percent is not None
    assert rows["max-probability"].auroc_percent < 50
    rule = fit_rejection(logits_NK, target_N, outliers_OK, BARE, coverage=0.9, source="x")
    assert rule is not None
    assert (rule.outliers, rule.outliers_answered) == (300, 0)


@pytest.mark.parametrize(
    ("max_risk", "coverage", "words"),
    [
        (0.1, 0.9, "`max_risk` and `coverage` exclude each other"),
        (0.0, None, "`max_risk` 0: is not a share"),
        (1.0, None, "`max_risk` 1: is not a share"),
        (float("nan"), None, "`max_risk` nan"),
        (None, 0.0, "`coverage` 0: is not a share"),
        (None, 1.1, "`coverage` 1.1: is not a share"),
    ],
)
def test_targets_out_of_range_are_refused(max_risk: float | None, coverage: float | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_targets(max_risk, coverage)
