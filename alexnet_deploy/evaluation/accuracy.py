"""Answers -> how often an engine is right, how well its probabilities fit, and how a second engine differs from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import Activation, ModelContract
from alexnet_deploy.evaluation.answers import Answers
from alexnet_deploy.evaluation.results import Accuracy, AccuracyDelta, ClassDelta, Confidence, ReliabilityBin
from alexnet_deploy.evaluation.statistics import PairedCounts, wilson_percent
from alexnet_deploy.probabilities import activate, finite_rows, loss_nats, predicted_classes

# Legend: N image, K class, B bin

BINS = 15
"""As in Guo et al. 2017 (arXiv:1706.04599), so that numbers and diagrams compare with published ones."""
_ROWS = 4096  # per step in float64: all of ImageNet's validation images at once would need gigabytes


def accuracy(answers: Answers, index: int, contract: ModelContract) -> Accuracy:
    """Return the accuracy of engine ``index``; ``contract`` is the engine's, for its probabilities."""
    logits_NK = answers.logits_NK[index]
    images = len(answers.target_N)
    rank_N = _rank_of_target(logits_NK, answers.target_N)
    top1, top5 = int((rank_N == 0).sum()), int((rank_N < 5).sum())
    not_finite = int((~finite_rows(logits_NK)).sum())

    def at(temperature: float) -> Confidence | None:
        return None if not_finite else confidence(logits_NK, answers.target_N, temperature, contract.activation)

    return Accuracy(
        images=images,
        top1_percent=100 * top1 / images,
        top1_interval=wilson_percent(top1, images),
        top5_percent=100 * top5 / images,
        top5_interval=wilson_percent(top5, images),
        not_finite=not_finite,
        confidence=at(contract.temperature),
        uncalibrated=at(1.0),
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


def confidence(
    logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], temperature: float, activation: Activation
) -> Confidence:
    """Measure the probabilities at ``temperature``; all logits must be finite."""
    loss_N, first_N = np.empty(len(target_N)), np.empty(len(target_N))
    for i in range(0, len(target_N), _ROWS):
        rows = slice(i, i + _ROWS)
        loss_N[rows] = loss_nats(logits_NK[rows], target_N[rows], activation, temperature)
        first_N[rows] = activate(logits_NK[rows], activation, temperature).max(axis=1)
    ece = calibration_error(first_N, logits_NK.argmax(axis=1) == target_N)
    return Confidence(temperature, float(loss_N.mean()), 100 * ece)


def reliability(
    logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], temperature: float, activation: Activation
) -> tuple[ReliabilityBin, ...]:
    """Return how often first answers are right, binned by their probability; all logits must be finite."""
    first_N = activate(logits_NK, activation, temperature).max(axis=1)
    return reliability_bins(first_N, logits_NK.argmax(axis=1) == target_N)


def reliability_bins(
    confidence_N: NDArray[np.float64], right_N: NDArray[np.bool_], bins: int = BINS
) -> tuple[ReliabilityBin, ...]:
    """Sort answers into ``bins`` bins of equal width.

    ``confidence_N`` is the probability (0..1) of each first answer, ``right_N`` whether it is the true class.
    """
    edges = np.arange(bins + 1) / bins
    bin_N = _bin_of(confidence_N, bins)
    images_B = np.bincount(bin_N, minlength=bins)
    right_B = np.bincount(bin_N, right_N, minlength=bins)
    confidence_B = np.bincount(bin_N, confidence_N, minlength=bins)
    return tuple(
        ReliabilityBin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            images=int(n),
            accuracy_percent=100 * float(right_B[i] / n) if n else None,
            confidence_percent=100 * float(confidence_B[i] / n) if n else None,
        )
        for i, n in enumerate(images_B)
    )


def calibration_error(confidence_N: NDArray[np.float64], right_N: NDArray[np.bool_], bins: int = BINS) -> float:
    """Return the expected calibration error, 0..1: the mean |accuracy - confidence| of the bins, weighted by images."""
    gap_B = np.bincount(_bin_of(confidence_N, bins), right_N - confidence_N, minlength=bins)
    return float(np.abs(gap_B).sum()) / len(confidence_N)


def _rank_of_target(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the classes that rank before the true one; all of them if a logit is not finite."""
    target_logit_N1 = np.take_along_axis(logits_NK, target_N[:, None], axis=1)
    before_NK = (logits_NK > target_logit_N1) | (
        (logits_NK == target_logit_N1) & (np.arange(logits_NK.shape[1]) < target_N[:, None])
    )
    rank_N: NDArray[np.int64] = np.where(finite_rows(logits_NK), before_NK.sum(axis=1), max(5, logits_NK.shape[1]))
    return rank_N


def _bin_of(confidence_N: NDArray[np.float64], bins: int) -> NDArray[np.intp]:
    return np.digitize(confidence_N, np.arange(1, bins) / bins, right=True)
