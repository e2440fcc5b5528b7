"""From the logits of ten views to those of their picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import Activation
from alexnet_deploy.images.ten_crops import VIEWS, view
from alexnet_deploy.probabilities import finite_rows, log_sigmoid, log_softmax
from alexnet_deploy.runtime.runner import Runner

# Legend: V view, N picture, M view of any picture, H height, W width, C channel (RGB), K class


def ten_crop_logits(runner: Runner, pictures_NHWC: NDArray[np.uint8], *, batch: int) -> NDArray[np.float32]:
    """Logits ``[N, K]`` of the averaged probabilities (``mean_over_views``); each call has at most ``batch`` views.

    ``pictures_NHWC`` are those of ``picture_for_crops``. ``batch`` pictures are ten calls of ``batch`` views, so
    that an engine of a fixed batch size has none to fill up. Memory holds the views of one call.
    """
    pre, pictures = runner.contract.preprocessing, len(pictures_NHWC)
    count = VIEWS * pictures
    views_MHWC = np.empty((min(batch, count), pre.height, pre.width, 3), np.uint8)
    logits = []
    for start in range(0, count, batch):
        size = min(batch, count - start)
        for i in range(size):
            number, picture = divmod(start + i, pictures)
            views_MHWC[i] = view(pictures_NHWC[picture], number, pre)
        logits.append(runner(views_MHWC[:size]))
    return mean_over_views(np.concatenate(logits).reshape(VIEWS, pictures, -1), runner.contract.activation)


def mean_over_views(logits_VNK: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    """Logits ``[N, K]`` whose probabilities are the average of those of the views, as in the paper (section 4.1).

    The probabilities that are averaged are not calibrated; the contract's calibration applies to the result, as to the
    logits of a single view. Softmax leaves a constant of each row open: it is such that equal views give their own
    logits. A picture with a logit that is not finite gets NaN.
    """
    finite_N = finite_rows(logits_VNK.swapaxes(0, 1).reshape(logits_VNK.shape[1], -1))
    usable_VNK = np.where(finite_N[:, None], logits_VNK, np.float32(0)).astype(np.float64)
    views, pictures, classes = usable_VNK.shape
    flat_MK = usable_VNK.reshape(-1, classes)

    def log_of_sum(log_MK: NDArray[np.float64]) -> NDArray[np.float64]:
        # As logarithms, very unlikely classes keep their order.
        total_NK: NDArray[np.float64] = np.logaddexp.reduce(log_MK.reshape(views, pictures, classes), axis=0)
        return total_NK

    if activation == "sigmoid":
        mean_NK = log_of_sum(log_sigmoid(flat_MK)) - log_of_sum(log_sigmoid(-flat_MK))
    else:
        log_MK = log_softmax(flat_MK)
        constant_M = flat_MK[:, 0] - log_MK[:, 0]
        mean_NK = log_of_sum(log_MK) - np.log(views) + constant_M.reshape(views, pictures).mean(axis=0)[:, None]
    mean_NK[~finite_N] = np.nan
    return mean_NK.astype(np.float32)
