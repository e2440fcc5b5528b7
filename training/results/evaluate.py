"""Accuracy of a checkpoint on labelled images, by the definitions of ``alexnet-deploy evaluate``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_deploy.evaluation.accuracy import accuracy
from alexnet_deploy.evaluation.answers import Answers
from alexnet_deploy.evaluation.results import Accuracy, Interval
from alexnet_deploy.inference.ten_crops import mean_over_views
from alexnet_deploy.model.architecture import PixelClassifier
from alexnet_deploy.model.checkpoint import Checkpoint
from alexnet_deploy.probabilities import predicted_classes
from alexnet_deploy.progress import Progress, no_progress
from training.data.lists.listing import ImageList
from training.data.loader import eval_batches
from training.loop.device import pick_device, without_tf32

# Legend: N image, V view, M all views of all images, H height, W width, K class, F feature

OnFeatures = Callable[[Tensor, Tensor], None]
"""Gets the uint8 pixels ``[N, H, W, 3]`` of a batch and the features of its images ``[N, F]``, both on the CPU."""


@torch.inference_mode()
def collect_answers(
    checkpoint: Checkpoint,
    images: ImageList,
    *,
    workers: int,
    ten_crop: bool = False,
    on_features: OnFeatures | None = None,
    on_progress: Progress = no_progress,
) -> Answers:
    """The logits (float32) of ``images``, whose class ids are the contract's, in the order of the list.

    With ``ten_crop`` the softmax is averaged over the paper's ten views of each image (``mean_over_views``), as
    ``alexnet-deploy evaluate --ten-crop`` does. ``on_features`` gets what the convolutions give to the dense layers;
    not with ``ten_crop``.
    Raises InputError if an image cannot be read.
    """
    contract = checkpoint.contract
    device = pick_device()
    model = checkpoint.build()
    features: list[Tensor] = []
    if on_features is not None:
        model.classifier.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    classifier = PixelClassifier(model, contract.preprocessing.mean, contract.preprocessing.std).to(device).eval()
    parts: list[NDArray[np.float32]] = []
    targets: list[Tensor] = []
    batch = 8 if ten_crop else 64
    for pixels, targets_N in eval_batches(
        images, contract.preprocessing, batch=batch, workers=workers, ten_crop=ten_crop
    ):
        pixels_NVHWC = pixels if ten_crop else pixels[:, None]
        with without_tf32():
            logits_MK = classifier(pixels_NVHWC.flatten(0, 1).to(device)).cpu().numpy()
        if ten_crop:
            logits_NVK = logits_MK.reshape(*pixels_NVHWC.shape[:2], -1)
            logits_MK = mean_over_views(logits_NVK.swapaxes(0, 1), contract.activation)
        if on_features is not None:
            on_features(pixels, features.pop().float().cpu())
        parts.append(logits_MK)
        targets.append(targets_N)
        on_progress("evaluating", sum(map(len, parts)), len(images.files))
    return Answers(images.files, torch.cat(targets).numpy(), (np.concatenate(parts),), unreadable=())


def evaluate_checkpoint(
    checkpoint: Checkpoint, images: ImageList, *, workers: int, ten_crop: bool = False, confusion: bool = False
) -> dict[str, Any]:
    """Top-1 and top-5 in percent over ``images`` with 95 % intervals, and how well the probabilities fit.

    Parameters and errors are those of ``collect_answers``. The accuracy by class is keyed by class id: labels may
    repeat (ImageNet has two cranes). Its mean counts all classes alike, whatever their size. ``confusion`` adds the
    counts ``[truth][answer]`` over all classes. The confidence is None if a logit is not finite; such an answer counts
    as wrong and is not in the confusion matrix.
    """
    answers = collect_answers(checkpoint, images, workers=workers, ten_crop=ten_crop)
    found = accuracy(answers, 0, checkpoint.contract)
    classes = len(checkpoint.contract.labels)
    right_N = predicted_classes(answers.logits_NK[0]) == answers.target_N
    images_K = np.bincount(answers.target_N, minlength=classes)
    right_K = np.bincount(answers.target_N[right_N], minlength=classes)
    return {
        "images": found.images,
        "views": 10 if ten_crop else 1,
        **summary(found),
        "class_mean_percent": round(100 * float((right_K[images_K > 0] / images_K[images_K > 0]).mean()), 3),
        "top1_percent_by_class": {
            class_id: round(100 * float(right / count), 2)
            for class_id, right, count in zip(checkpoint.contract.class_ids, right_K, images_K, strict=True)
            if count
        },
        **({"confusion": count_confusions(answers, classes).tolist()} if confusion else {}),
    }


def summary(found: Accuracy) -> dict[str, Any]:
    """The numbers of ``found`` as JSON holds them."""

    def ends(interval: Interval) -> list[float]:
        return [round(interval.low, 3), round(interval.high, 3)]

    fit = found.confidence
    return {
        "top1_percent": round(found.top1_percent, 3),
        "top1_interval": ends(found.top1_interval),
        "top5_percent": round(found.top5_percent, 3),
        "top5_interval": ends(found.top5_interval),
        "nll_nats": None if fit is None else round(fit.nll_nats, 5),
        "ece_percent": None if fit is None else round(fit.ece_percent, 3),
    }


def count_confusions(answers: Answers, classes: int) -> NDArray[np.int64]:
    """Number of images by true class and first answer, ``[K, K]``, without answers that are not finite."""
    answer_N = predicted_classes(answers.logits_NK[0])
    finite_N = answer_N >= 0
    flat = np.bincount(answers.target_N[finite_N] * classes + answer_N[finite_N], minlength=classes**2)
    return flat.reshape(classes, classes).astype(np.int64)
