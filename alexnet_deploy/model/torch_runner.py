"""PyTorch on the CPU: a checkpoint without conversion, as the reference for its engines."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_deploy.contract import NEW_DECODING, BatchProfile
from alexnet_deploy.model.architecture import PixelClassifier
from alexnet_deploy.model.checkpoint import load_checkpoint
from alexnet_deploy.runtime.runner import Steps, compute_step

# Legend: N batch, H height, W width, C channel (RGB), K class


class TorchRunner:
    """A checkpoint in PyTorch, in float32; InputError or ArtifactError if it cannot be used."""

    runtime = "torch"
    device = "cpu"
    batch: BatchProfile | None = None

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        """Load ``path``; ``threads`` applies to the whole process, as PyTorch has no other setting."""
        checkpoint = load_checkpoint(path)
        pre = checkpoint.contract.preprocessing
        self.contract = checkpoint.contract.decoded(NEW_DECODING)  # as its export has
        self._classifier: PixelClassifier | None = PixelClassifier(checkpoint.build(), pre.mean, pre.std).eval()
        if threads is not None:
            torch.set_num_threads(threads)
        self.description = f"PyTorch {torch.__version__.partition('+')[0]} on CPU"

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits ``[N, K]`` of uint8 RGB pixels ``[N, H, W, 3]``."""
        assert self._classifier is not None  # closed runners are not called
        with torch.inference_mode():
            logits_NK = self._classifier(torch.from_numpy(pixels_NHWC))
        return np.asarray(logits_NK.numpy(), np.float32)

    def steps(self, pixels_NHWC: NDArray[np.uint8]) -> Steps:
        """One step: nothing is copied to another device."""
        return compute_step(self, pixels_NHWC)

    def fork(self) -> TorchRunner:
        """The same weights: PyTorch allows calls from several threads."""
        return copy.copy(self)

    def close(self) -> None:
        """Release the weights; may be called twice."""
        self._classifier = None
