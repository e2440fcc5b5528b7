"""Confused classes and the highest losses, by hand, and a matrix that stays readable with a thousand classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.evaluation.answers import Answers
from alexnet_deploy.evaluation.mistakes import (
    ClassResult,
    Confusion,
    class_results,
    confusion_matrix,
    confusions,
    highest_losses,
)
from tests.helpers.answers import given_answers

NAMES = ("cat", "dog", "cow")
CONTRACT = ModelContract("any", NAMES, NAMES)


def answered(targets: list[int], answers: list[int], classes: int) -> Answers:
    """Answers of one engine; -1: not finite."""
    logits_NK = np.zeros((len(answers), classes))
    for row_K, answer in zip(logits_NK, answers, strict=True):
        row_K[answer] = np.nan if answer < 0 else 1
    return given_answers(targets, logits_NK)


def test_pairs_by_hand_the_most_frequent_first() -> None:
    found = answered([0, 0, 0, 1, 1, 2], [0, 1, 1, 2, -1, 2], 3)
    assert confusions(found, 0) == (Confusion(0, 1, 2), Confusion(1, -1, 1), Confusion(1, 2, 1))
    assert class_results(found, 0) == (ClassResult(0, 3, 1), ClassResult(1, 2, 0), ClassResult(2, 1, 1))
    matrix = confusion_matrix(found, 0)
    assert (matrix.truths, matrix.answers, matrix.left_out) == ((0, 1, 2), (0, 1, 2), 0)
    assert matrix.counts == ((1, 2, 0, 0), (0, 0, 1, 1), (0, 0, 1, 0)), "what is not finite is in the last column"


def test_no_mistake_no_pair() -> None:
    found = answered([0, 1], [0, 1], 3)
    assert confusions(found, 0) == ()
    assert confusion_matrix(found, 0).counts == ((1, 0, 0), (0, 1, 0))


def test_an_answer_outside_the_folders_has_a_column_and_no_row() -> None:
    matrix = confusion_matrix(answered([0, 0], [0, 2], 3), 0)
    assert (matrix.truths, matrix.answers, matrix.counts) == ((0,), (0, 2), ((1, 1, 0),))


def test_of_a_thousand_classes_those_that_are_confused_most_are_shown() -> None:
    rng = np.random.default_rng(0)
    targets = [*range(1000)] * 2 + [7] * 30 + [900] * 20
    answers = [int(k) for k in rng.integers(0, 1000, 2000)] + [8] * 30 + [901] * 20
    matrix = confusion_matrix(answered(targets, answers, 1000), 0, limit=6)
    assert {7, 8, 900, 901} <= set(matrix.answers)
    assert len(matrix.answers) <= 6
    assert matrix.left_out == 1000 - len(matrix.truths)
    row = matrix.counts[matrix.truths.index(7)]
    assert (row[matrix.answers.index(8)], sum(row)) == (30, 32), "others are in the last column"


@given(st.data(), st.integers(2, 8), st.integers(1, 30), st.integers(2, 9))
def test_every_image_of_a_row_is_in_it(data: st.DataObject, classes: int, images: int, limit: int) -> None:
    targets = data.draw(st.lists(st.integers(0, classes - 1), min_size=images, max_size=images))
    answers = data.draw(st.lists(st.integers(-1, classes - 1), min_size=images, max_size=images))
    found = answered(targets, answers, classes)
    matrix = confusion_matrix(found, 0, limit=limit)
    assert len(matrix.answers) <= max(limit, 2)
    for truth, counts in zip(matrix.truths, matrix.counts, strict=True):
        of_class = [answer for target, answer in zip(targets, answers, strict=True) if target == truth]
        assert counts[:-1] == tuple(of_class.count(k) for k in matrix.answers)
        assert sum(counts) == len(of_class)
    results, pairs = class_results(found, 0), confusions(found, 0)
    assert sum(each.right for each in results) + sum(each.images for each in pairs) == images


def test_losses_by_hand_what_is_not_finite_first() -> None:
    found = given_answers([0, 1, 0, 2], [[2, 0, 0], [2, 0, 0], [0, 0, 0], [np.nan, 0, 0]])
    losses = highest_losses(found, 0, CONTRACT, 3)
    assert [int(loss.file.stem) for loss in losses] == [3, 1, 2]
    assert (losses[0].answer, losses[0].nats, losses[0].target_probability) == (-1, math.inf, 0)
    total = math.exp(2) + 2
    assert losses[1].nats == pytest.approx(math.log(total))
    assert losses[1].target_probability == pytest.approx(1 / total)
    assert (losses[1].answer, losses[1].answer_probability) == (0, pytest.approx(math.exp(2) / total))


def test_losses_are_by_the_calibrated_probabilities() -> None:
    found = given_answers([1], [[2, 0, 0]])
    (loss,) = highest_losses(found, 0, ModelContract("any", NAMES, NAMES, temperature=2.0), 5)
    assert loss.nats == pytest.approx(math.log(math.e + 2))
