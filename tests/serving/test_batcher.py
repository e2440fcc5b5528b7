"""The batcher: what runs together, whose answer is whose, and what happens to those who leave or come too late."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.serving.engines.batcher import Batcher, Computed
from alexnet_deploy.serving.refusals import BusyError, EngineError, NotReadyError

HOUR = 3600.0


class Engine:
    """Logits are the first value of each image, and its double. Waits for ``gate``; keeps the sizes of its batches."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)
        self.sizes: list[int] = []
        self.observed: list[int] = []
        self.fails: Exception | None = None
        self.queue: list[int] = []
        self.threads: set[int] = set()
        if is_open:
            self.gate.set()

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.sizes.append(len(pixels_NHWC))
        self.threads.add(threading.get_ident())
        self.started.release()
        assert self.gate.wait(60)
        if self.fails is not None:
            raise self.fails
        first_N = pixels_NHWC[:, 0, 0, 0].astype(np.float32)
        return np.stack([first_N, 2 * first_N], axis=1)

    def batch(self, images: int, compute_s: float) -> None:
        self.observed.append(images)
        assert compute_s >= 0

    def queue_length(self) -> int:
        return self.queue[-1]

    async def has_started(self) -> None:
        await asyncio.to_thread(self.started.acquire)


class Watched(Batcher):
    """A batcher of one ``Engine``, which also is its observer."""

    def __init__(
        self,
        engine: Engine,
        *,
        instances: int = 1,
        others: Sequence[Engine] = (),
        alone: Engine | None = None,
        batches: Sequence[NDArray[np.uint8] | None] = (),
        max_batch: int = 4,
        max_delay_s: float = 0.0,
        max_queue: int = 100,
    ) -> None:
        class Observer:
            batch = staticmethod(engine.batch)
            queue = staticmethod(engine.queue.append)

        super().__init__(
            [*[engine] * instances, *others],
            alone=alone,
            batches=batches,
            max_batch=max_batch,
            max_delay_s=max_delay_s,
            max_queue=max_queue,
            observer=Observer(),
        )


def pixels(*values: int) -> NDArray[np.uint8]:
    return np.array(values, np.uint8).reshape(-1, 1, 1, 1)


async def ask(batcher: Batcher, *values: int) -> list[float]:
    with batcher.reserve(len(values)) as place:
        computed: Computed = await batcher.compute(place, pixels(*values))
    assert computed.logits_NK[:, 1].tolist() == [2 * v for v in computed.logits_NK[:, 0]]
    return computed.logits_NK[:, 0].tolist()


async def soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(body())


def test_what_comes_while_a_batch_runs_becomes_the_next_batch() -> None:
    async def body() -> None:
        engine = Engine(is_open=False)
        batcher = Watched(engine)
        first = asyncio.create_task(ask(batcher, 1))
        await engine.has_started()
        others = [asyncio.create_task(ask(batcher, value)) for value in (2, 3, 4)]
        await soon(lambda: engine.queue_length() == 3)
        engine.gate.set()
        assert await asyncio.gather(first, *others) == [[1], [2], [3], [4]]
        assert engine.sizes == engine.observed == [1, 3]
        await batcher.close()

    run(body)


def test_a_request_that_is_alone_does_not_wait_for_others() -> None:
    async def body() -> None:
        engine = Engine()
        batcher = Watched(engine, max_delay_s=HOUR)
        assert await ask(batcher, 7) == [7]
        assert await ask(batcher, 8) == [8]
        await batcher.close()

    run(body)


def test_images_that_come_together_run_together() -> None:
    async def body() -> None:
        engine = Engine()
        batcher = Watched(engine, max_delay_s=HOUR)
        assert await asyncio.gather(*(ask(batcher, value) for value in (1, 2, 3))) == [[1], [2], [3]]
        assert engine.sizes == [3]
        await batcher.close()

    run(body)


def test_requests_are_joined_where_the_engine_wants_their_pixels() -> None:
    joined = np.zeros((4, 1, 1, 1), np.uint8)
    inside: list[bool] = []

    class Looking(Engine):
        def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
            inside.append(np.shares_memory(pixels_NHWC, joined))
            return super().__call__(pixels_NHWC)

    async def body() -> None:
        engine = Looking(is_open=False)
        batcher = Watched(engine, batches=[joined])
        first = asyncio.create_task(ask(batcher, 1))
        await engine.has_started()
        others = [asyncio.create_task(ask(batcher, *values)) for values in ((2, 3), (4,), (5, 6, 7))]
        await soon(lambda: batcher._queued == 6)
        engine.gate.set()
        assert await first == [1]
        assert await asyncio.gather(*others) == [[2, 3], [4], [5, 6, 7]]
        await batcher.close()
        assert engine.sizes == [1, 4, 2]

    run(body)
    assert inside == [False, True, False]  # one request alone stays where it is


def test_a_batch_waits_for_nobody_when_it_is_full() -> None:
    async def body() -> None:
        engine = Engine()
        batcher = Watched(engine, max_batch=2, max_delay_s=HOUR)
        with batcher.reserve(1):  # never decoded
            assert await asyncio.gather(ask(batcher, 1), ask(batcher, 2)) == [[1], [2]]
        assert engine.sizes == [2]
        await batcher.close()

    run(body)


def test_the_oldest_waits_no_longer_than_the_delay() -> None:
    async def body() -> None:
        engine = Engine()
        batcher = Watched(engine, max_delay_s=0.001)
        with batcher.reserve(1):  # never decoded
            assert await ask(batcher, 1) == [1]
        await batcher.close()

    run(body)


def test_a_request_larger_than_the_batch_is_split() -> None:
    async def body() -> None:
        engine = Engine()
        batcher = Watched(engine)
        assert await ask(batcher, *range(10)) == list(range(10))
        assert engine.sizes == [4, 4, 2]
        await batcher.close()

    run(body)


def test_a_full_queue_refuses_at_once_and_takes_again_when_there_is_room() -> None:
    async def body() -> None:
        engine = Engine(is_open=False)
        batcher = Watched(engine, max_queue=2)
        running = asyncio.create_task(ask(batcher, 1))
        await engine.has_started()
        waiting = asyncio.create_task(ask(batcher, 2, 3))
        await soon(lambda: engine.queue_length() == 2)
        with pytest.raises(BusyError, match="2 of 2 images wait, and this request has 1"):
            await ask(batcher, 4)
        engine.gate.set()
        assert await running == [1]
        assert await waiting == [2, 3]
        assert await ask(batcher, 4) == [4]
        assert engine.queue_length() == 0
        await batcher.close()

    run(body)


def test_whoever_leaves_frees_the_place_and_is_not_computed() -> None:
    async def body() -> None:
        engine = Engine(is_open=False)
        batcher = Watched(engine, max_queue=2)
        running = asyncio.create_task(ask(batcher, 1))
        await engine.has_started()
        leaving = asyncio.create_task(ask(batcher, 2, 3))
        await soon(lambda: engine.queue_length() == 2)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert engine.queue_length() == 0
        staying = asyncio.create_task(ask(batcher, 4))
        await soon(lambda: engine.queue_length() == 1)
        running.cancel()  # it is being computed: nobody waits for its row
        engine.gate.set()
        assert await staying == [4]
        assert engine.sizes == [1, 1]
        await batcher.close()

    run(body)


@pytest.mark.parametrize("failure", [UnavailableError("out of memory"), RuntimeError("a bug")])
def test_a_failing_engine_answers_its_batch_and_goes_on(failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        engine = Engine()
        engine.fails = failure
        batcher = Watched(engine)
        with pytest.raises(EngineError, match="the engine failed"):
            await ask(batcher, *range(9))
        engine.fails = None
        assert await ask(batcher, 1) == [1]
        assert engine.queue_length() == 0
        await batcher.close()

    run(body)
    assert str(failure) in caplog.text


def test_closing_answers_what_waits_and_refuses_what_comes() -> None:
    async def body() -> None:
        engine = Engine(is_open=False)
        batcher = Watched(engine, max_delay_s=HOUR)
        running = asyncio.create_task(ask(batcher, 1))
        await engine.has_started()
        waiting = asyncio.create_task(ask(batcher, 2))
        await soon(lambda: engine.queue_length() == 1)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(NotReadyError):
            await ask(batcher, 3)
        engine.gate.set()
        assert await asyncio.gather(running, waiting) == [[1], [2]]
        await closing

    run(body)


@given(
    requests=st.lists(st.tuples(st.lists(st.integers(0, 255), min_size=1, max_size=9), st.booleans()), max_size=12),
    max_batch=st.integers(1, 5),
    instances=st.integers(1, 3),
    has_alone=st.booleans(),
)
def test_every_request_gets_its_own_rows_whoever_leaves(
    requests: list[tuple[list[int], bool]], max_batch: int, instances: int, has_alone: bool
) -> None:
    async def body() -> None:
        engine = Engine()
        alone = engine if has_alone else None
        batcher = Watched(engine, instances=instances, alone=alone, max_batch=max_batch, max_queue=200)
        tasks = [asyncio.create_task(ask(batcher, *values)) for values, _ in requests]
        await asyncio.sleep(0)
        for task, (_, leaves) in zip(tasks, requests, strict=True):
            if leaves:
                task.cancel()
        for task, (values, leaves) in zip(tasks, requests, strict=True):
            if not leaves:
                assert await task == values
        await batcher.close()
        assert not engine.queue or engine.queue_length() == 0
        assert all(size <= max_batch for size in engine.sizes)

    run(body)


def test_instances_run_at_the_same_time_and_share_what_waits() -> None:
    async def body() -> None:
        engine = Engine(is_open=False)
        batcher = Watched(engine, instances=2, max_delay_s=HOUR)
        answers = [asyncio.create_task(ask(batcher, value)) for value in (1, 2, 3, 4)]
        await engine.has_started()
        await engine.has_started()  # while the first one still runs
        assert engine.sizes == [2, 2]
        later = [asyncio.create_task(ask(batcher, value)) for value in (5, 6)]
        await soon(lambda: engine.queue_length() == 2)
        engine.gate.set()
        assert await asyncio.gather(*answers, *later) == [[1], [2], [3], [4], [5], [6]]
        await batcher.close()

    run(body)


def test_a_request_above_the_batch_is_spread_over_the_instances() -> None:
    async def body() -> None:
        engine = Engine(is_open=False)
        batcher = Watched(engine, instances=3, max_batch=4)
        answer = asyncio.create_task(ask(batcher, *range(9)))
        for _ in range(3):
            await engine.has_started()
        assert engine.sizes == [3, 3, 3]
        engine.gate.set()
        assert await answer == list(range(9))
        await batcher.close()

    run(body)


def test_a_failing_instance_goes_on_with_the_next_batch() -> None:
    async def body() -> None:
        engine = Engine()
        batcher = Watched(engine, instances=2)
        engine.fails = UnavailableError("no memory")
        failed = await asyncio.gather(*(ask(batcher, value) for value in (1, 2, 3)), return_exceptions=True)
        assert all(isinstance(each, EngineError) for each in failed)
        engine.fails = None
        assert await asyncio.gather(*(ask(batcher, value) for value in (4, 5, 6))) == [[4], [5], [6]]
        await batcher.close()

    run(body)


@pytest.fixture
def an_hour_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet_deploy.serving.engines.batcher._AWAY_S", HOUR)


@pytest.mark.usefixtures("an_hour_away")
def test_a_gpu_that_is_lost_does_not_draw_the_requests_from_the_others() -> None:
    """It is free again at once, while the others compute."""

    async def body() -> None:
        good, lost = Engine(), Engine()
        lost.fails = UnavailableError("GPU 1: it is lost")
        batcher = Watched(good, others=[lost])
        answers = [(await asyncio.gather(ask(batcher, value), return_exceptions=True))[0] for value in range(20)]
        failed = [answer for answer in answers if isinstance(answer, EngineError)]
        assert len(failed) == len(lost.sizes) <= 1
        assert len(good.sizes) >= 19
        await batcher.close()

    run(body)


@pytest.mark.usefixtures("an_hour_away")
def test_the_last_gpu_is_tried_with_every_batch() -> None:
    async def body() -> None:
        first, second = Engine(), Engine()
        first.fails = second.fails = UnavailableError("no memory")
        batcher = Watched(first, others=[second])
        for value in range(9):
            with pytest.raises(EngineError):
                await ask(batcher, value)
        assert sorted([len(first.sizes), len(second.sizes)]) == [1, 8]
        first.fails = second.fails = None
        assert await ask(batcher, 1) == [1]
        await batcher.close()

    run(body)


def test_each_instance_is_called_in_one_thread() -> None:
    """As CUDA graphs of ONNX Runtime need it."""

    async def body() -> None:
        engines = [Engine(is_open=False) for _ in range(3)]
        batcher = Watched(engines[0], others=engines[1:], max_batch=1)
        asked = asyncio.gather(*(ask(batcher, value) for value in range(3)))
        for engine in engines:
            await engine.has_started()
            engine.gate.set()
        await asked
        await asyncio.gather(*(ask(batcher, value) for value in range(60)))
        assert [len(engine.threads) for engine in engines] == [1, 1, 1]
        assert len(set.union(*(engine.threads for engine in engines))) == 3
        await batcher.close()

    run(body)


def test_a_few_get_the_engine_with_all_threads_and_those_who_come_meanwhile_wait_for_it() -> None:
    async def body() -> None:
        sharing, alone = Engine(), Engine(is_open=False)
        batcher = Watched(sharing, instances=2, alone=alone)
        first = asyncio.create_task(ask(batcher, 1))
        await alone.has_started()
        others = [asyncio.create_task(ask(batcher, value)) for value in (2, 3)]
        await soon(lambda: sharing.queue_length() == 2)
        alone.gate.set()
        assert await asyncio.gather(first, *others) == [[1], [2], [3]]
        assert (alone.sizes, sharing.sizes) == ([1, 2], [])
        await batcher.close()

    run(body)


def test_a_full_batch_is_shared_by_the_instances() -> None:
    async def body() -> None:
        sharing, alone = Engine(is_open=False), Engine()
        batcher = Watched(sharing, instances=2, alone=alone, max_batch=4, max_delay_s=HOUR)
        answers = [asyncio.create_task(ask(batcher, value)) for value in (1, 2, 3, 4)]
        for _ in range(2):
            await sharing.has_started()
        later = asyncio.create_task(ask(batcher, 5))
        await soon(lambda: sharing.queue_length() == 1)
        sharing.gate.set()
        assert await asyncio.gather(*answers, later) == [[1], [2], [3], [4], [5]]
        assert sharing.sizes[:2] == [2, 2]
        await batcher.close()

    run(body)


def test_beside_an_image_that_is_decoded_an_instance_with_its_share_of_threads_runs() -> None:
    async def body() -> None:
        sharing, alone = Engine(), Engine()
        batcher = Watched(sharing, instances=2, alone=alone)
        with batcher.reserve(1):
            assert await ask(batcher, 1) == [1]
        assert await ask(batcher, 2) == [2]
        assert (sharing.sizes, alone.sizes) == ([1], [1])
        await batcher.close()

    run(body)


def test_the_engine_with_all_threads_may_fail_and_runs_again() -> None:
    async def body() -> None:
        sharing, alone = Engine(), Engine()
        batcher = Watched(sharing, instances=2, alone=alone)
        alone.fails = UnavailableError("no memory")
        with pytest.raises(EngineError):
            await ask(batcher, 1)
        alone.fails = None
        assert await ask(batcher, 2) == [2]
        assert (sharing.sizes, alone.sizes) == ([], [1, 1])
        await batcher.close()

    run(body)
