"""LoadGen's sample library and system under test, without LoadGen."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError
from alexnet_deploy.profiling.mlperf.system import (
    MAX_SAMPLE_BYTES,
    PERFORMANCE_SAMPLES,
    SampleLibrary,
    SystemUnderTest,
    batch_sizes,
)
from tests.helpers.models.onnx_models import TINY_CONTRACT
from tests.helpers.photos import save_photo
from tests.helpers.runners import FakeRunner

PRE = TINY_CONTRACT.preprocessing


@given(st.integers(1, 1000))
def test_batch_sizes_are_few_and_start_at_one(most: int) -> None:
    sizes = batch_sizes(most)
    assert (sizes[0], sizes[-1]) == (1, most)
    assert all(a < b <= 2 * a for a, b in pairwise(sizes))


def test_random_samples_are_bounded_and_repeat() -> None:
    samples, again = SampleLibrary((), PRE, 7), SampleLibrary((), PRE, 7)
    assert samples.total == samples.at_once == PERFORMANCE_SAMPLES
    for each in (samples, again):
        each.load([4, 2, 4])
    assert (samples.pixels([4, 2]) == again.pixels([4, 2])).all()
    large = SampleLibrary([Path("any")] * 5000, Preprocessing(1024, 1024, "stretch", None), 0)
    assert large.total == 5000
    assert large.at_once * large.image_bytes <= MAX_SAMPLE_BYTES


def test_loaded_images_are_given_in_any_order_and_neighbours_without_a_copy(tmp_path: Path) -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    for k, colour in enumerate(colours):
        save_photo(tmp_path / f"{k}.jpg", colour, seed=k)
    (tmp_path / "3.jpg").write_bytes(b"no image")
    samples = SampleLibrary([tmp_path / f"{k}.jpg" for k in range(4)], PRE, 0)
    samples.load([2, 0, 1, 3, 2, 0])  # MultiStream's padding: the first ones again
    for order in ([2, 0, 1], [0, 2], [1], [1, 1]):
        means = samples.pixels(order).mean(axis=(1, 2))
        assert means.argmax(axis=1).tolist() == order
    assert np.shares_memory(samples.pixels([2, 0]), samples.pixels([0, 1]))
    assert list(samples.unreadable) == [3]
    assert "3.jpg: is not an image" in samples.unreadable[3]
    assert not samples.pixels([3]).any()
    with pytest.raises(InputError, match=r"is not an image of a known format, .*; of 1 images none can be read"):
        samples.load([3, 3])


class HeldRunner(FakeRunner):
    """Waits to be released, then fails."""

    def __init__(self) -> None:
        super().__init__(TINY_CONTRACT)
        self.entered = threading.Event()
        self.released = threading.Event()

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits_NK = super().__call__(pixels_NHWC)
        if threading.current_thread() is threading.main_thread():  # prepare
            return logits_NK
        self.entered.set()
        self.released.wait()
        raise InputError("it broke")


def queries(count: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(id=i, index=i) for i in range(count)]


def test_threads_share_what_waits_and_report_what_fails() -> None:
    samples = SampleLibrary((), PRE, 0)
    samples.load(range(64))
    failures: list[BaseException] = []
    failed = threading.Semaphore(0)

    def on_failure(exc: BaseException) -> None:
        failures.append(exc)
        failed.release()

    first, second = HeldRunner(), HeldRunner()
    system = SystemUnderTest([first, second], samples, on_failure)
    system.prepare(6)
    assert first.sizes == second.sizes == [1, 2, 4, 6]
    system.issue(queries(1))  # to one of the two; the other is alone with the rest
    while not (first.entered.is_set() or second.entered.is_set()):
        first.entered.wait(0.01)
    busy, idle = (first, second) if first.entered.is_set() else (second, first)
    system.issue(queries(5))
    idle.entered.wait()
    assert (busy.sizes[4:], idle.sizes[4:]) == ([1], [4])
    for held in (first, second):
        held.released.set()
        assert failed.acquire(timeout=60)
    assert [str(exc) for exc in failures] == ["it broke"] * 2
