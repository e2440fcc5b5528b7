"""Batches that an engine does not accept are split and padded, and nothing else changes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.contract import BatchProfile, ModelContract, Preprocessing
from alexnet_deploy.runtime.any_batch import AnyBatch
from alexnet_deploy.runtime.runner import Runner
from tests.helpers.runners import FakeRunner, run_steps

SIDE = 4
LABELS = tuple(map(str, range(20)))
CONTRACT = ModelContract("fake", LABELS, LABELS, Preprocessing(SIDE, SIDE, "stretch", None))


class FirstPixel(FakeRunner):
    """The class is the value of the image's first pixel."""

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        super().__call__(pixels_NHWC)
        assert self.batch is None or self.batch.min <= len(pixels_NHWC) <= self.batch.max
        return np.eye(20, dtype=np.float32)[pixels_NHWC[:, 0, 0, 0]]


def numbered(count: int) -> NDArray[np.uint8]:
    return np.arange(count, dtype=np.uint8).repeat(SIDE * SIDE * 3).reshape(count, SIDE, SIDE, 3)


@given(
    count=st.integers(1, 20),
    profile=st.tuples(st.integers(1, 5), st.integers(1, 9)).map(lambda p: BatchProfile(p[0], max(p), max(p))),
)
def test_calls_are_split_and_padded_and_so_are_their_steps(count: int, profile: BatchProfile) -> None:
    inner = FirstPixel(CONTRACT, profile)
    runner: Runner = AnyBatch(inner)
    assert runner(numbered(count)).argmax(axis=1).tolist() == list(range(count))
    assert runner.batch is None
    assert sum(inner.sizes) - count < profile.min  # the padding, of the last call only
    sizes = inner.sizes.copy()
    names, logits_NK = run_steps(runner.steps(numbered(count)))
    assert logits_NK.argmax(axis=1).tolist() == list(range(count))
    assert inner.sizes == 2 * sizes
    assert names == ["compute"] * len(sizes)


def test_the_rest_is_that_of_the_runner_inside() -> None:
    inner = FirstPixel(CONTRACT, BatchProfile(4, 4, 4))
    runner = AnyBatch(inner)
    assert runner.contract is inner.contract
    assert (runner.runtime, runner.device, runner.description) == ("fake", "cpu", "fake on CPU")
    assert runner.fork()(numbered(3)).shape == (3, 20)
    assert inner.forks[0].sizes == [4]
    runner.close()
    assert inner.closed
