"""Turns are taken in a fair order, and none is lost by those who leave."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.serving.protocol.turns import Caller, Turns

A, A2, B = Caller.of("ipv4:10.0.0.1:5001"), Caller.of("ipv4:10.0.0.1:5002"), Caller.of("ipv6:[::1]:5001")


async def in_line(turns: Turns, *callers: Caller) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(turns.acquire(caller)) for caller in callers]
    await asyncio.sleep(0)  # each is at its place now
    return tasks


async def served(turns: Turns, tasks: list[asyncio.Task[None]]) -> list[int]:
    """Who gets the turns that are given back one by one, by number."""
    order: list[int] = []
    for _ in tasks:
        turns.release()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        order += [number for number, task in enumerate(tasks) if task.done() and number not in order]
    return order


def test_hosts_take_turns_and_then_connections() -> None:
    async def body() -> None:
        turns = Turns(1)
        await turns.acquire(A)
        tasks = await in_line(turns, A, A, A, A2, B, B)
        assert await served(turns, tasks) == [0, 4, 3, 5, 1, 2]

    asyncio.run(body())


@given(
    st.lists(st.tuples(st.sampled_from([A, A2, B]), st.sampled_from(["stays", "leaves", "leaves as it comes"]))),
    st.integers(1, 3),
)
def test_no_turn_is_lost_or_given_twice(calls: list[tuple[Caller, str]], count: int) -> None:
    async def body() -> None:
        turns = Turns(count)

        async def call(caller: Caller) -> None:
            await turns.acquire(caller)
            await asyncio.sleep(0)
            turns.release()

        for _ in range(count):
            await turns.acquire(B)
        tasks = [asyncio.create_task(call(caller)) for caller, _ in calls]
        await asyncio.sleep(0)
        for moment in ("leaves", "leaves as it comes"):
            for task, (_, does) in zip(tasks, calls, strict=True):
                if does == moment:
                    task.cancel()
            if moment == "leaves":
                for _ in range(count):
                    turns.release()
        async with asyncio.timeout(5):
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert [each for each, (_, does) in zip(ended, calls, strict=True) if does == "stays" and each] == []
            for _ in range(count):  # all are free again, and no more than these
                await turns.acquire(A)
        (late,) = await in_line(turns, A)
        assert not late.done()
        late.cancel()

    asyncio.run(body())


def test_who_has_more_calls_than_one_that_waits() -> None:
    async def body() -> None:
        turns = Turns(1)
        await turns.acquire(A)
        calls = Counter(dict.fromkeys(A.groups, 1))
        assert not turns.is_awaited_by_less(A, calls), "nobody waits"
        (own,) = await in_line(turns, A)
        assert not turns.is_awaited_by_less(A, calls | Counter(dict.fromkeys(A.groups, 5))), "its own call"
        (second,) = await in_line(turns, A2)
        assert not turns.is_awaited_by_less(A, calls), "A2 would have as many as A has now"
        assert turns.is_awaited_by_less(A, calls + calls), "one each afterwards"
        second.cancel()
        own.cancel()

    asyncio.run(body())
