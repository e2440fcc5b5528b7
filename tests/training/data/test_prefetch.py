"""Batches reach the device whole, in order, and not before they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from training.data.loader import Batch
from training.data.prefetch import on_device
from training.loop.device import pick_device


def batches(count: int) -> Iterator[Batch]:
    for number in range(count):
        yield torch.full((8, 64, 64, 3), number, dtype=torch.uint8), torch.full((8,), number)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_all_batches_come_in_order(count: int) -> None:
    found = list(on_device(batches(count), torch.device("cpu")))
    assert [int(pixels.float().mean()) for pixels, _ in found] == [int(targets[0]) for _, targets in found]
    assert len(found) == count


def test_the_device_gets_the_pixels() -> None:
    (pixels, targets), *_ = on_device(batches(1), torch.device("meta"))
    assert (pixels.device.type, targets.device.type) == ("meta", "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("count", [0, 1, 50])
def test_no_copy_overtakes_the_computation(count: int) -> None:
    device = pick_device()
    if device.type != "cuda":
        pytest.skip("no GPU that torch can use")
    sums = []
    for pixels, targets in on_device(batches(count), device):
        busy = torch.randn(2048, 2048, device=device)
        for _ in range(20):  # some milliseconds, in which the next copies are queued
            busy = busy @ busy / 2048
        sums.append((pixels.long().sum() + (busy * 0).nan_to_num().sum().long(), int(targets[0])))
    assert [(int(total), number) for total, number in sums] == [(8 * 64 * 64 * 3 * n, n) for n in range(count)]
