"""Answers -> how often an engine is right, how well its probabilities fit, and how a second engine differs from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.calibration import Score
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.evaluation.answers import Answers
from alexnet_deploy.evaluation.calibration_error import calibration_error, debiased_error, reliability_bins
from alexnet_deploy.evaluation.results import Accuracy, AccuracyDelta, ClassDelta, Confidence, ReliabilityBin, Selective
from alexnet_deploy.evaluation.selective import aurc, auroc, fpr_at_95, risk_curve
from alexnet_deploy.evaluation.statistics import PairedCounts, wilson_percent
from alexnet_deploy.probabilities import certainty, finite_rows, loss_nats, predicted_classes, probabilities

# Legend: N image, O outlier, K class

_ROWS = 4096  # per step in float64: all of ImageNet's validation images at once would need gigabytes


def accuracy(answers: Answers, index: int, contract: ModelContract, outliers: Answers | None = None) -> Accuracy:
    """Return the accuracy of engine ``index``; ``contract`` is the engine's, for its probabilities and its rule.

    ``outliers`` are the answers of the same engines to images that show none of the classes.
    """
    logits_NK = answers.logits_NK[index]
    images = len(answers.target_N)
    rank_N = _rank_of_target(logits_NK, answers.target_N)
    top1, top5 = int((rank_N == 0).sum()), int((rank_N < 5).sum())
    not_finite = int((~finite_rows(logits_NK)).sum())

    def by(rules: ModelContract) -> Confidence | None:
        return None if not_finite else confidence(logits_NK, answers.target_N, rules)

    return Accuracy(
        images=images,
        top1_percent=100 * top1 / images,
        top1_interval=wilson_percent(top1, images),
        top5_percent=100 * top5 / images,
        top5_interval=wilson_percent(top5, images),
        not_finite=not_finite,
        confidence=by(contract),
        uncalibrated=by(contract.uncalibrated()),
        selective=None
        if not_finite or contract.activation == "sigmoid"
        else _selective(logits_NK, answers.target_N, contract, None if outliers is None else outliers.logits_NK[index]),
    )


def accuracy_delta(answers: Answers, first: int, second: int) -> AccuracyDelta:
    """Compare engine ``second`` with engine ``first``."""
    target_N = answers.target_N
    answer_a_N, answer_b_N = predicted_classes(answers.logits_NK[first]), predicted_classes(answers.logits_NK[second])
    right_a_N, right_b_N = answer_a_N == target_N, answer_b_N == target_N
    counts = PairedCounts.of(right_a_N, right_b_N)
    images_K = np.bincount(target_N)
    right_a_K, right_b_K = np.bincount(target_N, right_a_N), np.bincount(target_N, right_b_N)
    classes = [
        ClassDelta(int(k), int(n), 100 * float(right_a_K[k] / n), 100 * float(right_b_K[k] / n))
        for k, n in enumerate(images_K)
        if n
    ]
    return AccuracyDelta(
        images=len(target_N),
        agreement_percent=100 * float((answer_a_N == answer_b_N).mean()),
        lost=counts.lost,
        won=counts.won,
        points=counts.points,
        points_interval=counts.points_interval,
        mcnemar_p=counts.mcnemar_p,
        classes=tuple(sorted(classes, key=lambda c: (c.points, -c.images, c.target))),
    )


def confidence(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], contract: ModelContract) -> Confidence:
    """Measure the probabilities that ``contract`` gives; all logits must be finite."""
    loss_N, first_N = np.empty(len(target_N)), np.empty(len(target_N))
    for i in range(0, len(target_N), _ROWS):
        rows = slice(i, i + _ROWS)
        loss_N[rows] = loss_nats(logits_NK[rows], target_N[rows], contract)
        first_N[rows] = probabilities(logits_NK[rows], contract).max(axis=1)
    right_N = logits_NK.argmax(axis=1) == target_N
    debiased = debiased_error(first_N, right_N)
    return Confidence(
        contract.temperature,
        float(loss_N.mean()),
        100 * calibration_error(first_N, right_N),
        debiased.percent,
        debiased.interval,
    )


def _selective(
    logits_NK: NDArray[np.float32],
    target_N: NDArray[np.int64],
    contract: ModelContract,
    outlier_logits_OK: NDArray[np.float32] | None,
) -> Selective:
    """Measure the rule of ``contract``, or without one its probabilities; an outlier that is not finite is left out."""
    rule = contract.rejection
    score: Score = "max-probability" if rule is None else rule.score
    score_N, right_N = certainty(logits_NK, contract, score), logits_NK.argmax(axis=1) == target_N
    answered_N = np.ones(len(target_N), bool) if rule is None else score_N >= rule.threshold
    answered, right = int(answered_N.sum()), int((answered_N & right_N).sum())
    found = Selective(
        score=score,
        threshold=None if rule is None else rule.threshold,
        coverage_percent=100 * answered / len(target_N),
        accuracy_percent=100 * right / answered if answered else None,
        accuracy_interval=wilson_percent(right, answered) if answered else None,
        aurc_percent=100 * aurc(score_N, right_N),
        curve=risk_curve(score_N, right_N),
    )
    if outlier_logits_OK is None or not len(usable_OK := outlier_logits_OK[finite_rows(outlier_logits_OK)]):
        return found
    outlier_O = certainty(usable_OK, contract, score)
    return replace(
        found,
        outliers=len(usable_OK),
        auroc_percent=100 * auroc(score_N, outlier_O),
        fpr95_percent=100 * fpr_at_95(score_N, outlier_O),
        outliers_unknown_percent=None if rule is None else 100 * float((outlier_O < rule.threshold).mean()),
    )


def reliability(
    logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], contract: ModelContract
) -> tuple[ReliabilityBin, ...]:
    """Return how often first answers are right, binned by their probability; all logits must be finite."""
    first_N = probabilities(logits_NK, contract).max(axis=1)
    return reliability_bins(first_N, logits_NK.argmax(axis=1) == target_N)


def _rank_of_target(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the classes that rank before the true one; all of them if a logit is not finite."""
    target_logit_N1 = np.take_along_axis(logits_NK, target_N[:, None], axis=1)
    before_NK = (logits_NK > target_logit_N1) | (
        (logits_NK == target_logit_N1) & (np.arange(logits_NK.shape[1]) < target_N[:, None])
    )
    rank_N: NDArray[np.int64] = np.where(finite_rows(logits_NK), before_NK.sum(axis=1), max(5, logits_NK.shape[1]))
    return rank_N
