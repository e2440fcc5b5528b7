"""Accuracy of a checkpoint on a labelled folder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alexnet_deploy.model.architecture import PixelClassifier
from alexnet_deploy.model.checkpoint import Checkpoint
from training.data.listing import ImageList
from training.data.loader import eval_batches
from training.loop.device import pick_device, without_tf32


def mean_probability(logits_NVK: Tensor) -> Tensor:
    """Softmax over the classes, averaged over the views: ``[N, K]``.

    In float64, so very unlikely classes keep their order instead of all becoming 0.
    """
    return logits_NVK.double().softmax(2).mean(1)


@torch.inference_mode()
def evaluate_checkpoint(
    checkpoint: Checkpoint, images: ImageList, *, workers: int, ten_crop: bool = False, confusion: bool = False
) -> dict[str, Any]:
    """Top-1 and top-5 in percent (float32) over ``images``, whose class ids are the contract's.

    With ``ten_crop`` the softmax is averaged over the paper's ten views of each image. The accuracy by class is
    keyed by class id: labels may repeat (ImageNet has two cranes). ``confusion`` adds the counts ``[truth][answer]``
    over all classes.
    """
    contract = checkpoint.contract
    device = pick_device()
    classifier = PixelClassifier(checkpoint.build(), contract.preprocessing.mean, contract.preprocessing.std)
    classifier.to(device).eval()
    k = min(5, len(contract.labels))
    hits, targets, answers = [], [], []
    batch = 8 if ten_crop else 64
    for pixels, targets_N in eval_batches(
        images, contract.preprocessing, batch=batch, workers=workers, ten_crop=ten_crop
    ):
        pixels_NVHWC = pixels if ten_crop else pixels[:, None]
        with without_tf32():
            logits_MK = classifier(pixels_NVHWC.flatten(0, 1).to(device)).cpu()  # M: all views of all images
        top_NK = mean_probability(logits_MK.unflatten(0, pixels_NVHWC.shape[:2])).topk(k).indices
        hits.append(top_NK == targets_N[:, None])
        targets.append(targets_N)
        answers.append(top_NK[:, 0])
    hit_NK, target_N = torch.cat(hits), torch.cat(targets)
    per_class = {
        class_id: round(100 * hit_NK[target_N == index, 0].float().mean().item(), 2)
        for index, class_id in enumerate(contract.class_ids)
        if (target_N == index).any()
    }
    counts = {}
    if confusion:
        classes = len(contract.labels)
        flat = torch.bincount(target_N * classes + torch.cat(answers), minlength=classes**2)
        counts = {"confusion": flat.reshape(classes, classes).tolist()}
    return {
        "images": len(target_N),
        "views": 10 if ten_crop else 1,
        "top1_percent": round(100 * hit_NK[:, 0].float().mean().item(), 3),
        "top5_percent": round(100 * hit_NK.any(1).float().mean().item(), 3),
        "top1_percent_by_class": per_class,
        **counts,
    }
