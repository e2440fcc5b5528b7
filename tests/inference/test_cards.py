"""An engine on several GPUs, and several calls on one: which are opened, that they overlap, what is released."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_deploy.errors import UnavailableError, UsageError
from alexnet_deploy.inference.engine import open_engine
from alexnet_deploy.runtime import openers
from alexnet_deploy.runtime.select import CALLS_PER_GPU
from tests.helpers.cards import Cards
from tests.helpers.fake_device import FakeDevice
from tests.helpers.fake_tensorrt import FakeMachine, expected_logits
from tests.helpers.models.foreign_models import random_pixels
from tests.helpers.models.onnx_models import CLASSES, SIDE, tiny_model
from tests.helpers.photos import save_photo


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("engine") / "tiny.onnx")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(8):
        save_photo(folder / f"{i}.jpg", (30 * i, 90, 120), i)
    return folder


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cards:
    made = Cards(monkeypatch, tmp_path, count=3)
    made.take_over()
    return made


def live(cards: Cards) -> list[int]:
    return [len(device.live) for device in cards.devices]


@pytest.mark.parametrize(
    ("device", "used"), [(None, [0]), (2, [2]), ([1], [1]), ([2, 0], [2, 0]), ("all", [0, 1, 2])], ids=str
)
def test_the_gpus_that_were_asked_for(device: Any, used: list[int], model: Path, cards: Cards) -> None:
    with open_engine(model, runtime="tensorrt", device=device, verify=False) as engine:
        assert [index for index, count in enumerate(live(cards)) if count] == sorted(used)
        assert len(engine.cards) == len(used)
        pixels = random_pixels(3, SIDE)
        for card in engine.cards:
            np.testing.assert_array_equal(card(pixels), expected_logits(pixels, CLASSES))
        if device is not None:
            assert [card.description[-5:] for card in engine.cards] == [f"GPU {index}" for index in used]
    assert live(cards) == [0, 0, 0]


def test_tensorrt_has_two_contexts_per_gpu_and_all_memory_comes_back(model: Path, photos: Path, cards: Cards) -> None:
    with open_engine(model, runtime="tensorrt", device=[0, 2], verify=False) as engine:
        before = live(cards)
        assert [row.error for row in engine.predict(photos, batch=1)] == [None] * 8
        assert engine.side_by_side() is engine.side_by_side(), "one for all rounds of `watch`"
        kinds = [sum(kind == "stream" for kind, _ in cards.devices[index].live) for index in (0, 2)]
        assert kinds == [CALLS_PER_GPU["tensorrt"]] * 2
        assert live(cards)[0] > before[0]
    assert live(cards) == [0, 0, 0]
    with pytest.raises(UsageError, match="is closed"):
        engine.side_by_side()


def test_contexts_of_one_gpu_overlap(model: Path, photos: Path, cards: Cards) -> None:
    """Each waits for its stream only when the other one has enqueued its copies and its work as well."""
    barrier = threading.Barrier(2, timeout=60)
    waiting: list[int] = []

    class Overlapping(FakeDevice):
        def synchronize(self, stream: int) -> None:
            barrier.wait()
            waiting.append(sum(bool(work) for work in self.queues.values()))
            barrier.wait()
            super().synchronize(stream)

    cards.devices[0] = Overlapping()
    with open_engine(model, runtime="tensorrt", verify=False) as engine:
        rows = list(engine.predict(photos, batch=1))
    assert [Path(row.file).name for row in rows] == [f"{i}.jpg" for i in range(8)]
    assert waiting == [2] * 8, "work of two streams, each time"
    assert not cards.devices[0].live


def test_a_plain_call_within_the_loop_waits_for_its_turn(model: Path, photos: Path, cards: Cards) -> None:
    """The threads of ``predict`` are one batch ahead of the loop, and so may be in the runner that it calls."""
    computing, go_on = threading.Semaphore(0), threading.Event()

    class Slow(FakeDevice):
        def synchronize(self, stream: int) -> None:
            if threading.current_thread().name.startswith("compute"):
                computing.release()
                assert go_on.wait(60)
            super().synchronize(stream)

    cards.devices[0] = Slow()
    pixels = random_pixels(2, SIDE)
    with open_engine(model, runtime="tensorrt", verify=False) as engine, ThreadPoolExecutor(2) as callers:
        rows = callers.submit(lambda: list(engine.predict(photos, batch=1)))
        for _ in range(CALLS_PER_GPU["tensorrt"]):
            assert computing.acquire(timeout=60)
        answer = callers.submit(engine, pixels)
        go_on.set()
        np.testing.assert_array_equal(answer.result(), expected_logits(pixels, CLASSES))
        assert len(rows.result()) == 8


def test_where_there_is_no_room_for_a_second_context_one_computes(model: Path, photos: Path, cards: Cards) -> None:
    class Small(FakeDevice):
        def allocate(self, nbytes: int) -> int:
            if len(self.memory) == 2:
                raise UnavailableError("cudaMalloc: the GPU is out of memory")
            return super().allocate(nbytes)

    cards.devices[:] = [Small(index=index, count=2) for index in range(2)]
    with open_engine(model, runtime="tensorrt", device="all", verify=False) as engine:
        side_by_side = engine.side_by_side()
        assert side_by_side is not None
        assert len(side_by_side.runners) == 2
        assert len(list(engine.predict(photos, batch=1))) == 8
    with open_engine(model, runtime="tensorrt", device=1, verify=False) as engine:
        assert engine.side_by_side() is None
        assert len(list(engine.predict(photos, batch=1))) == 8
    assert [len(device.live) for device in cards.devices] == [0, 0]


def test_one_session_of_onnxruntime_per_gpu(model: Path, photos: Path, cards: Cards) -> None:
    with open_engine(model, runtime="onnxruntime-cuda", device=1, verify=False) as engine:
        assert engine.side_by_side() is None, "two calls of one session cannot replay CUDA graphs"
    with open_engine(model, runtime="onnxruntime", verify=False) as engine:
        expected = list(engine.predict(photos, batch=2))
    with open_engine(model, runtime="onnxruntime-cuda", device="all", verify=False) as engine:
        found = list(engine.predict(photos, batch=2))
    assert [row.file for row in found] == [row.file for row in expected]
    for row, other in zip(found, expected, strict=True):
        # The same kernels, in sessions with another number of threads.
        assert row.top[0].probability == pytest.approx(other.top[0].probability, rel=1e-5)
    assert sorted(cards.sessions) == [0, 1, 2]


def test_if_one_gpu_cannot_open_it_the_others_release_it(model: Path, cards: Cards) -> None:
    cards.devices[2].lost = True
    with pytest.raises(UnavailableError, match=r"^GPU 2: \w+: the GPU stopped"):
        open_engine(model, runtime="tensorrt", device="all", verify=False)
    assert live(cards) == [0, 0, 0]


def test_all_gpus_have_the_runtime_of_the_first(model: Path, cards: Cards, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the answer for a photo would depend on which GPU was free."""
    plain = openers.RUNTIMES["tensorrt"]

    def not_on_the_second(engine: Any, options: Any) -> Any:
        if options.device == 1:
            raise UnavailableError("no plan for it")
        return plain(engine, options)

    monkeypatch.setitem(openers.RUNTIMES, "tensorrt", not_on_the_second)
    with pytest.raises(UnavailableError, match=r"^no plan for it$"):
        open_engine(model, device="all", verify=False)
    assert live(cards) == [0, 0, 0]


def test_the_largest_batch_is_split_for_each_context(model: Path, photos: Path, cards: Cards) -> None:
    with open_engine(model, runtime="tensorrt", device=[0, 1], verify=False) as engine:
        assert len(list(engine.predict([photos] * 1, batch=FakeMachine.batch.max + 3))) == 8


@pytest.mark.parametrize(
    ("device", "runtime", "cause"),
    [
        (0, "openvino", "^`device` names a GPU, and `runtime` openvino runs on the CPU"),
        ([0, 0], "auto", "^`device` 0,0: a GPU is named twice"),
        (-1, "auto", "^`device` -1: is no GPU"),
    ],
)
def test_what_contradicts_itself_is_told_before_anything_is_opened(
    device: Any, runtime: Any, cause: str, cards: Cards
) -> None:
    with pytest.raises(UsageError, match=cause):
        open_engine("no such engine", runtime=runtime, device=device)
    with pytest.raises(UnavailableError, match="`device` 7: this process sees 3 GPUs"):
        open_engine("no such engine", device=7)
