"""From the logits of a batch to one Prediction per file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.images.sources import Source
from alexnet_deploy.inference.batches import PixelBatch
from alexnet_deploy.inference.prediction import Answer, Outputs, Prediction
from alexnet_deploy.probabilities import finite_rows, probabilities, unknown

# Legend: N image, K class

S = TypeVar("S", bound=Path | Source)
_NOT_FINITE = "the model's output is not finite; try an engine of higher precision"


def predictions_of(
    read: PixelBatch[S],
    logits_NK: NDArray[np.float32] | None,
    contract: ModelContract,
    top_k: int,
    threshold: float | None = None,
    outputs: Outputs = "top",
) -> list[Prediction]:
    """One Prediction per file of ``read``; ``logits_NK`` belong to its pixels (None: no file could be decoded)."""
    if outputs != "top":
        return _full_predictions(read, logits_NK, contract, outputs)
    answers = iter([] if logits_NK is None else top_answers(logits_NK, contract, top_k))
    marks = _unknown_marks(logits_NK, contract)
    predictions = []
    for file, error in zip(read.files, read.errors, strict=True):
        top, mark = ((), None) if error else (next(answers), next(marks))
        if not (top or error):
            error = f"{file}: {_NOT_FINITE}"
        if threshold is not None:
            top = tuple(answer for answer in top if answer.probability >= threshold)
        predictions.append(Prediction(str(file), top, error, unknown=mark))
    return predictions


def _full_predictions(
    read: PixelBatch[S], logits_NK: NDArray[np.float32] | None, contract: ModelContract, outputs: Outputs
) -> list[Prediction]:
    """``predictions_of`` with a number for each class."""
    finite_N = iter([] if logits_NK is None else finite_rows(logits_NK).tolist())
    values: Iterator[list[float]] = iter([])
    if logits_NK is not None:
        usable_NK = logits_NK[finite_rows(logits_NK)]
        values = iter((usable_NK if outputs == "logits" else probabilities(usable_NK, contract)).tolist())
    marks = _unknown_marks(logits_NK, contract)
    predictions = []
    for file, error in zip(read.files, read.errors, strict=True):
        mark = None if error else next(marks)
        if error is None and not next(finite_N):
            error = f"{file}: {_NOT_FINITE}"
        predictions.append(Prediction(str(file), (), error, outputs, None if error else tuple(next(values)), mark))
    return predictions


def _unknown_marks(logits_NK: NDArray[np.float32] | None, contract: ModelContract) -> Iterator[bool | None]:
    """For each row whether its answer is unknown; None without a rule and for a row that is not finite."""
    if logits_NK is None or contract.rejection is None:
        return repeat(None)
    finite_N = finite_rows(logits_NK)
    marks: list[bool | None] = [None] * len(logits_NK)
    found = unknown(logits_NK[finite_N], contract)
    assert found is not None
    for i, mark in zip(np.flatnonzero(finite_N).tolist(), found.tolist(), strict=True):
        marks[i] = mark
    return iter(marks)


def top_answers(logits_NK: NDArray[np.float32], contract: ModelContract, top_k: int) -> list[tuple[Answer, ...]]:
    """The ``top_k`` most likely classes of each row, ties by index; an empty tuple for a row that is not finite.

    Probabilities are those of the contract, in float64.
    """
    finite_N = finite_rows(logits_NK)
    usable_NK = np.where(finite_N[:, None], logits_NK, np.float32(0))
    probabilities_NK = probabilities(usable_NK, contract)
    order_NK = np.argsort(-usable_NK, axis=1, kind="stable")[:, :top_k]
    return [
        tuple(Answer(int(k), contract.labels[k], float(row[k])) for k in order) if finite else ()
        for row, order, finite in zip(probabilities_NK, order_NK, finite_N, strict=True)
    ]
