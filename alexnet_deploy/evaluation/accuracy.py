"""Answers -> how often an engine is right, how well its probabilities fit, and how a second engine differs from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.evaluation.answers import Answers
from alexnet_deploy.evaluation.reliability import calibration_error
from alexnet_deploy.evaluation.statistics import Interval, count_pairs, mcnemar_p, wilson_percent
from alexnet_deploy.inference.probabilities import finite_rows, log_softmax, predicted_classes

# Legend: N image, K class

_ROWS = 4096  # at once in float64: all of ImageNet's validation images would need gigabytes


@dataclass(frozen=True, slots=True)
class Confidence:
    """How well softmax(logits / ``temperature``) predicts how often the answer is right.

    ``nll_nats`` is the mean negative log likelihood of the true class. ``ece_percent`` is the expected calibration
    error over 15 bins of equal width (Guo et al. 2017, On calibration of modern neural networks, section 2).
    """

    temperature: float
    nll_nats: float
    ece_percent: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of images whose class is the first, or among the first five answers; equal logits rank by class number."""

    images: int
    top1_percent: float
    top1_interval: Interval
    top5_percent: float
    top5_interval: Interval
    not_finite: int
    """Images with a NaN or infinite logit: they count as wrong."""
    confidence: Confidence | None
    """At the contract's temperature; None if a logit is not finite."""
    uncalibrated: Confidence | None
    """At temperature 1."""


@dataclass(frozen=True, slots=True)
class ClassDelta:
    """Top-1 of one class in both engines."""

    target: int
    images: int
    first_percent: float
    second_percent: float

    @property
    def points(self) -> float:
        """Second minus first: negative where the second engine is right less often."""
        return self.second_percent - self.first_percent


@dataclass(frozen=True, slots=True)
class AccuracyDelta:
    """How the answers of a second engine differ from those of a first one on the same images."""

    images: int
    agreement_percent: float
    """Share of images with the same first answer, right or wrong."""
    lost: int
    """Images that are right in the first engine, wrong in the second."""
    won: int
    """Images that are wrong in the first engine, right in the second."""
    points: float
    """Top-1 of the second minus top-1 of the first."""
    points_interval: Interval
    mcnemar_p: float
    classes: tuple[ClassDelta, ...]
    """The classes that have images, the one that lost most points first."""


def accuracy(answers: Answers, index: int, contract: ModelContract) -> Accuracy:
    """Return the accuracy of engine ``index``; ``contract`` is its own, for the temperature."""
    logits_NK = answers.logits_NK[index]
    images = len(answers.target_N)
    rank_N = _rank_of_target(logits_NK, answers.target_N)
    top1, top5 = int((rank_N == 0).sum()), int((rank_N < 5).sum())
    not_finite = int((~finite_rows(logits_NK)).sum())
    return Accuracy(
        images=images,
        top1_percent=100 * top1 / images,
        top1_interval=wilson_percent(top1, images),
        top5_percent=100 * top5 / images,
        top5_interval=wilson_percent(top5, images),
        not_finite=not_finite,
        confidence=None if not_finite else confidence(logits_NK, answers.target_N, contract.temperature),
        uncalibrated=None if not_finite else confidence(logits_NK, answers.target_N, 1.0),
    )


def accuracy_delta(answers: Answers, first: int, second: int) -> AccuracyDelta:
    """Compare engine ``second`` with engine ``first``."""
    target_N = answers.target_N
    answer_a_N, answer_b_N = predicted_classes(answers.logits_NK[first]), predicted_classes(answers.logits_NK[second])
    right_a_N, right_b_N = answer_a_N == target_N, answer_b_N == target_N
    counts = count_pairs(right_a_N, right_b_N)
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
        mcnemar_p=mcnemar_p(counts.lost, counts.won),
        classes=tuple(sorted(classes, key=lambda c: (c.points, -c.images, c.target))),
    )


def confidence(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], temperature: float) -> Confidence:
    """Measure the probabilities at ``temperature``; all logits must be finite."""
    log_true_N, log_first_N = np.empty(len(target_N)), np.empty(len(target_N))
    for i in range(0, len(target_N), _ROWS):
        rows = slice(i, i + _ROWS)
        log_NK = log_softmax(logits_NK[rows], temperature)
        log_true_N[rows] = np.take_along_axis(log_NK, target_N[rows, None], axis=1)[:, 0]
        log_first_N[rows] = log_NK.max(axis=1)
    ece = calibration_error(np.exp(log_first_N), logits_NK.argmax(axis=1) == target_N)
    return Confidence(temperature, -float(log_true_N.mean()), 100 * ece)


def _rank_of_target(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the classes that rank before the true one; all of them if a logit is not finite."""
    target_logit_N1 = np.take_along_axis(logits_NK, target_N[:, None], axis=1)
    before_NK = (logits_NK > target_logit_N1) | (
        (logits_NK == target_logit_N1) & (np.arange(logits_NK.shape[1]) < target_N[:, None])
    )
    rank_N: NDArray[np.int64] = np.where(finite_rows(logits_NK), before_NK.sum(axis=1), max(5, logits_NK.shape[1]))
    return rank_N
