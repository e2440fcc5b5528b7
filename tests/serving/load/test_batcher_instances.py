"""Several engines behind one batcher: they share what waits, and one that fails is no fault of the others."""

from __future__ import annotations

import asyncio

import pytest

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.serving.refusals import EngineError
from tests.helpers.batching import HOUR, Engine, Watched, ask, run, soon


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
