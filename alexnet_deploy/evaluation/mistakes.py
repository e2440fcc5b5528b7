"""Answers -> which classes an engine takes for which, and the images whose true class it found least likely."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.evaluation.answers import Answers
from alexnet_deploy.probabilities import finite_rows, loss_nats, predicted_classes, probabilities

# Legend: N image, K class

MATRIX_CLASSES = 16
"""Rows of a matrix that a screen shows without scrolling; more classes are summed up as others."""
_ROWS = 4096  # per step in float64, as in ``accuracy``


@dataclass(frozen=True, slots=True)
class ClassResult:
    """The images of one class, and how many of them are answered right."""

    target: int
    images: int
    right: int


@dataclass(frozen=True, slots=True)
class Confusion:
    """``images`` images of the class ``truth`` are answered with the class ``answer``; -1: no finite answer."""

    truth: int
    answer: int
    images: int


@dataclass(frozen=True, slots=True)
class Matrix:
    """Number of images by class and answer."""

    truths: tuple[int, ...]
    """Class of each row, in the order of the classes."""
    answers: tuple[int, ...]
    """Class of each column but the last."""
    counts: tuple[tuple[int, ...], ...]
    """The last column has the answers of all other classes, and those that are not finite."""
    left_out: int
    """Classes with images that have no row."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One image; ``answer`` is -1 for an output that is not finite, whose loss is infinite."""

    file: Path
    target: int
    answer: int
    nats: float
    target_probability: float
    answer_probability: float


def class_results(answers: Answers, index: int) -> tuple[ClassResult, ...]:
    """The classes that have images, in their order."""
    right_N = predicted_classes(answers.logits_NK[index]) == answers.target_N
    images_K, right_K = np.bincount(answers.target_N), np.bincount(answers.target_N, right_N)
    return tuple(ClassResult(int(k), int(images_K[k]), int(right_K[k])) for k in np.flatnonzero(images_K))


def confusions(answers: Answers, index: int) -> tuple[Confusion, ...]:
    """All pairs of a class and a wrong answer that occur, the most frequent first.

    With ``class_results`` they are the whole confusion matrix, also of a thousand classes.
    """
    answer_N = predicted_classes(answers.logits_NK[index])
    wrong_N = answer_N != answers.target_N
    pairs, images = np.unique(np.stack([answers.target_N, answer_N])[:, wrong_N], axis=1, return_counts=True)
    found = [Confusion(int(truth), int(answer), int(n)) for (truth, answer), n in zip(pairs.T, images, strict=True)]
    return tuple(sorted(found, key=lambda c: (-c.images, c.truth, c.answer)))


def confusion_matrix(answers: Answers, index: int, *, limit: int = MATRIX_CLASSES) -> Matrix:
    """The matrix of all classes that occur or, if they are more than ``limit``, of those that are confused most."""
    by_class = {each.target: each for each in class_results(answers, index)}
    confused = confusions(answers, index)
    shown = set(by_class) | {each.answer for each in confused if each.answer >= 0}
    if len(shown) > limit:
        shown = set()
        for each in confused:
            pair = {each.truth, each.answer} - {-1}
            if len(shown | pair) <= limit:
                shown |= pair
    columns = tuple(sorted(shown))
    rows = tuple(k for k in columns if k in by_class)
    place = {k: i for i, k in enumerate(columns)}
    counts = {k: [0] * (len(columns) + 1) for k in rows}
    for k in rows:
        counts[k][place[k]] = by_class[k].right
    for each in confused:
        if each.truth in counts:
            counts[each.truth][place.get(each.answer, -1)] += each.images
    return Matrix(rows, columns, tuple(tuple(counts[k]) for k in rows), len(by_class) - len(rows))


def highest_losses(answers: Answers, index: int, contract: ModelContract, limit: int) -> list[Loss]:
    """The ``limit`` images with the highest loss (``loss_nats``) by the probabilities of ``contract``."""
    logits_NK, target_N = answers.logits_NK[index], answers.target_N
    finite_N = finite_rows(logits_NK)
    loss_N = np.full(len(target_N), np.inf)
    usable_N = np.flatnonzero(finite_N)
    for start in range(0, len(usable_N), _ROWS):
        rows = usable_N[start : start + _ROWS]
        loss_N[rows] = loss_nats(logits_NK[rows], target_N[rows], contract)
    worst = np.argsort(-loss_N, kind="stable")[:limit]
    answer_N = predicted_classes(logits_NK)

    def loss_of(i: int) -> Loss:
        target, answer, p, q = int(target_N[i]), int(answer_N[i]), 0.0, 0.0
        if finite_N[i]:
            probability_K: NDArray[np.float64] = probabilities(logits_NK[i : i + 1], contract)[0]
            p, q = float(probability_K[target]), float(probability_K[answer])
        return Loss(answers.files[i], target, answer, float(loss_N[i]), p, q)

    return [loss_of(int(i)) for i in worst]
