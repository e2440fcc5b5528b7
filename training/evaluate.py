"""Accuracy of a checkpoint on a labelled folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from alexnet_deploy.checkpoint import Checkpoint
from alexnet_deploy.models import PixelClassifier
from training.data import list_folder, plain_batches


@torch.inference_mode()
def evaluate_checkpoint(checkpoint: Checkpoint, data: Path, *, workers: int) -> dict[str, Any]:
    """Top-1 and top-5 in percent (float32) over ``data``, whose class folders are among the contract's class ids.

    The accuracy by class is keyed by class id: labels may repeat (ImageNet has two cranes).
    """
    contract = checkpoint.contract
    listing = list_folder(data, class_ids=contract.class_ids)
    classifier = PixelClassifier(checkpoint.build(), contract.preprocessing.mean, contract.preprocessing.std).eval()
    k = min(5, len(contract.labels))
    hits, targets = [], []
    for pixels_NHWC, targets_N in plain_batches(listing, contract.preprocessing, batch=64, workers=workers):
        top_NK = classifier(pixels_NHWC).topk(k).indices
        hits.append(top_NK == targets_N[:, None])
        targets.append(targets_N)
    hit_NK, target_N = torch.cat(hits), torch.cat(targets)
    per_class = {
        class_id: round(100 * hit_NK[target_N == index, 0].float().mean().item(), 2)
        for index, class_id in enumerate(contract.class_ids)
        if (target_N == index).any()
    }
    return {
        "images": len(target_N),
        "top1_percent": round(100 * hit_NK[:, 0].float().mean().item(), 3),
        "top5_percent": round(100 * hit_NK.any(1).float().mean().item(), 3),
        "top1_percent_by_class": per_class,
    }
