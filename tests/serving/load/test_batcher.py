"""The batcher: what runs together, whose answer is whose, and what happens to those who leave or come too late."""

from __future__ import annotations

import asyncio
import errno
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.serving.engines.batcher import Batcher
from alexnet_deploy.serving.metrics import Metrics
from alexnet_deploy.serving.refusals import BusyError, EngineError, NotReadyError
from tests.helpers.batching import HOUR, Engine, Watched, ask, run, soon


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


def test_the_queues_before_and_after_a_reload_are_one_number() -> None:
    async def body() -> None:
        metrics, old, new = Metrics(), Engine(is_open=False), Engine()
        before, after = (
            Batcher([e], max_batch=4, max_delay_s=0.0, max_queue=9, observer=metrics.of_model("m")) for e in (old, new)
        )
        running = asyncio.create_task(ask(before, 1))
        await old.has_started()
        waiting = asyncio.create_task(ask(before, 2, 3))
        await soon(lambda: b'queue_images{model="m"} 2.0' in metrics.text())
        assert await ask(after, 4) == [4]
        assert b'queue_images{model="m"} 2.0' in metrics.text()
        old.gate.set()
        await asyncio.gather(running, waiting)
        assert b'queue_images{model="m"} 0.0' in metrics.text()
        await asyncio.gather(before.close(), after.close())

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


class _FullDisk(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_requests_of_a_failed_batch_end_even_if_the_log_cannot_be_written() -> None:
    async def body() -> None:
        engine = Engine()
        engine.fails = RuntimeError("a bug")
        batcher = Watched(engine)
        async with asyncio.timeout(60):
            with pytest.raises(EngineError, match="the engine failed"):
                await ask(batcher, 1)
        with pytest.raises(OSError, match="No space left"):
            await batcher.close()

    log, handler = logging.getLogger("alexnet_deploy.serving.engines.queued"), _FullDisk()
    log.addHandler(handler)
    try:
        run(body)
    finally:
        log.removeHandler(handler)


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
