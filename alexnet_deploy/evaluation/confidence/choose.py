"""Which way of calibrating fits best: all of them by cross-validation, and the one whose fit is stored."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.evaluation.calibration_error import debiased_error
from alexnet_deploy.evaluation.confidence.methods import METHODS, Fitted, Method
from alexnet_deploy.evaluation.confidence.record import MethodRow
from alexnet_deploy.probabilities import probabilities

# Legend: N image, K class

FOLDS = 10
SIMPLEST = "temperature"
"""Chosen unless another one is better by more than chance."""
_MOST_VALUES = 20_000_000
"""Logits that the methods are fitted to: 20,000 images of 1,000 classes, 160 MB in float64. More change nothing."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The rows of all methods, and the contract with the fit of the chosen one."""

    rows: tuple[MethodRow, ...]
    chosen: str
    contract: ModelContract


def choose_method(
    logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], contract: ModelContract, *, seed: int = 0
) -> Choice:
    """Fit every method of ``METHODS`` and choose by the loss on images that a fit has not seen.

    Each image is judged once, by the fit to the other nine tenths. Of the methods that keep the ranking of the classes,
    the one of the lowest mean negative log likelihood is chosen, and then fitted to all images; but the temperature
    alone is preferred to one that is not better by more than one standard error of the difference (Breiman et al.
    1984, Classification and regression trees, section 3.4.3).
    """
    bare = contract.uncalibrated()
    images = len(target_N)
    most = max(_MOST_VALUES // logits_NK.shape[1], 1000)
    if images > most:
        kept = np.linspace(0, images - 1, most).astype(np.int64)
        logits_NK, target_N = logits_NK[kept], target_N[kept]
    fold_N = np.random.default_rng(seed).permutation(len(target_N)) % FOLDS
    losses = {}
    rows = []
    fits = {}
    for name, method in METHODS.items():
        losses[name], top_N = _cross_validated(method, logits_NK, target_N, bare, fold_N)
        fits[name] = method(logits_NK, target_N, bare)
        error = None if top_N is None else debiased_error(top_N, logits_NK.argmax(axis=1) == target_N)
        rows.append(
            MethodRow(
                method=name,
                keeps_ranking=fits[name].contract is not None,
                nll_nats=float(losses[name].mean()),
                ece_percent=None if error is None else error.percent,
                ece_interval=None if error is None else error.interval,
            )
        )
    chosen = _chosen(losses, fits)
    found = fits[chosen].contract
    assert found is not None
    return Choice(tuple(rows), chosen, found)


def _chosen(losses: dict[str, NDArray[np.float64]], fits: dict[str, Fitted]) -> str:
    best = min((name for name, fit in fits.items() if fit.contract is not None), key=lambda name: losses[name].mean())
    gain_N = losses[SIMPLEST] - losses[best]
    return best if gain_N.mean() > gain_N.std() / math.sqrt(len(gain_N)) else SIMPLEST


def _cross_validated(
    method: Method,
    logits_NK: NDArray[np.float32],
    target_N: NDArray[np.int64],
    bare: ModelContract,
    fold_N: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """The loss of each image and the probability of its answer, by the fit to the other folds.

    None for the latter where a method changes answers.
    """
    loss_N, top_N = np.empty(len(target_N)), np.empty(len(target_N))
    keeps = True
    for fold in range(FOLDS):
        held_N = fold_N == fold
        fitted = method(logits_NK[~held_N], target_N[~held_N], bare)
        loss_N[held_N] = fitted.loss(logits_NK[held_N], target_N[held_N])
        if fitted.contract is None:
            keeps = False
        else:
            top_N[held_N] = probabilities(logits_NK[held_N], fitted.contract).max(axis=1)
    return loss_N, top_N if keeps else None
