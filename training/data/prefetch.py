"""Batches on the device that computes, the next one copied while this one is computed."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from training.data.loader import Batch


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """``batches``, with their pixels on ``device``; the targets stay where they are.

    On CUDA the copy runs from pinned memory on a stream of its own, one batch ahead, so neither the loader nor the
    computation waits for it. An error of the loader then comes a batch early.
    """
    if device.type == "cuda":
        return _ahead(batches, device)
    return ((pixels_NHWC.to(device), targets_N) for pixels_NHWC, targets_N in batches)


def _ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # missing in torch's stub

    def begin() -> Batch | None:
        batch = next(batches, None)
        if batch is None:
            return None
        pixels_NHWC, targets_N = batch
        with torch.cuda.stream(copies):
            # torch keeps pinned memory from being used again until the copies from it have ended.
            return pixels_NHWC.pin_memory().to(device, non_blocking=True), targets_N

    following = begin()
    while following is not None:
        pixels_NHWC, targets_N = following
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copies)  # before the next copy is queued, for which it would wait as well
        pixels_NHWC.record_stream(computing)  # made on the other stream: else its memory could be given away too soon
        following = begin()
        yield pixels_NHWC, targets_N
