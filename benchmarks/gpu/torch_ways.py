"""The checkpoint in torch, as its makers advise for a GPU: eager, torch.compile, and a captured CUDA graph.

Every way takes the same uint8 pixels from page-locked memory, normalises them on the device and returns float32 logits
to page-locked memory, as our runners do. Algorithms of cuDNN are chosen by trying them (``cudnn.benchmark``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet_deploy.model.architecture import AlexNet, PixelClassifier
from alexnet_deploy.model.checkpoint import Checkpoint, load_weights

Pixels = NDArray[np.uint8]
Call = Callable[[Pixels], NDArray[np.float32]]
"""Logits ``[N, K]`` of pixels ``[N, H, W, 3]``; the result is overwritten by the next call."""
TYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16}


class Computed(nn.Module):
    """``model`` in another type, with float32 at its input and output."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model.to(dtype), dtype

    def forward(self, x_NCHW: Tensor) -> Tensor:
        logits_NK: Tensor = self.model(x_NCHW.to(self.dtype)).float()
        return logits_NK


def network(checkpoint: Checkpoint, precision: str, device: torch.device) -> PixelClassifier:
    """The checkpoint for inference in ``precision``, one of ``TYPES``."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
    pre = checkpoint.contract.preprocessing
    model = AlexNet(checkpoint.arch)
    model.load_state_dict(checkpoint.weights)
    whole = PixelClassifier(Computed(model, TYPES[precision]), pre.mean, pre.std)
    return whole.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def opened(way: str, weights: Path | None, precision: str, device: torch.device) -> Callable[[int], Call]:
    """A function from a batch size to the call for it, warmed up; ``weights`` None: the shipped ones."""
    checkpoint = load_weights(weights)
    pre = checkpoint.contract.preprocessing
    module = network(checkpoint, precision, device)
    forward: Callable[[Tensor], Tensor] = module
    if way == "compile":
        # Of torch's modes the one for latency: it replays CUDA graphs of the kernels that it generates.
        forward = torch.compile(module, mode="reduce-overhead", dynamic=False)

    def prepared(count: int) -> Call:
        shape = (count, pre.height, pre.width, 3)
        there = torch.zeros(shape, dtype=torch.uint8, device=device)
        if way == "cuda-graph":
            return _copied(_captured(forward, there), there, count)
        with torch.inference_mode():
            for _ in range(3):  # torch.compile records its graph in the second call
                forward(there)
        return _copied(lambda: forward(there), there, count)

    return prepared


def _captured(forward: Callable[[Tensor], Tensor], there: Tensor) -> Callable[[], Tensor]:
    """``forward(there)`` as a CUDA graph (docs.pytorch.org, "CUDA Graphs"): warmed up on a stream of its own first."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.inference_mode():
        for _ in range(3):
            forward(there)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        logits_NK = forward(there)

    def replay() -> Tensor:
        graph.replay()
        return logits_NK

    return replay


def _copied(compute: Callable[[], Tensor], there: Tensor, count: int) -> Call:
    """Pixels to ``there``, ``compute``, logits back; ends when they have arrived."""
    on_cuda = there.device.type == "cuda"
    pixels_NHWC = torch.empty(there.shape, dtype=torch.uint8, pin_memory=on_cuda)
    source_NHWC = pixels_NHWC.numpy()
    with torch.inference_mode():
        logits_NK = torch.empty(compute().shape, dtype=torch.float32, pin_memory=on_cuda)
    result_NK: NDArray[np.float32] = logits_NK.numpy()

    def call(given_NHWC: Pixels) -> NDArray[np.float32]:
        np.copyto(source_NHWC, given_NHWC)
        with torch.inference_mode():
            there.copy_(pixels_NHWC, non_blocking=on_cuda)
            logits_NK.copy_(compute(), non_blocking=on_cuda)
        if on_cuda:
            torch.cuda.current_stream().synchronize()
        return result_NK

    return call
