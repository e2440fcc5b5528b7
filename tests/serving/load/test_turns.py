"""Turns are taken in a fair order, and none is lost by those who leave."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.serving.protocol.admission.places import Places
from alexnet_deploy.serving.protocol.admission.turns import Caller, Turns
from alexnet_deploy.serving.refusals import BusyError

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


def test_how_many_wait_that_have_fewer_calls() -> None:
    async def body() -> None:
        turns = Turns(1)
        await turns.acquire(A)
        calls = Counter(dict.fromkeys(A.groups, 1))
        assert turns.count_waiting_with_less(A, calls) == 0, "nobody waits"
        tasks = await in_line(turns, A)
        assert turns.count_waiting_with_less(A, calls) == 0, "its own call"
        tasks += await in_line(turns, A2, A2, B)
        assert turns.count_waiting_with_less(A, calls) == 2, "another connection of the host, and another host"
        assert turns.count_waiting_with_less(B, calls) == 0, "the other host has calls, B has none"
        for task in tasks:
            task.cancel()

    asyncio.run(body())


def test_a_host_or_connection_takes_no_more_places_than_it_leaves() -> None:
    """Of 100: a connection alone 34, since then 66 are free and 32 would be for its host; a host by many of them 50."""
    for callers, most in ((itertools.repeat(A), 34), (map(connection, itertools.count()), 50)):
        places = Places(100)
        with ExitStack() as open_calls:
            taken = list(take_all(places, callers, open_calls))
            assert len(taken) == most
            with pytest.raises(BusyError, match=r"has \d+ calls open and its host \d+, .* wait for some to end"):
                open_calls.enter_context(places.taken_by(taken[-1]))
            open_calls.enter_context(places.taken_by(B))
        with ExitStack() as again:
            assert len(list(take_all(places, itertools.repeat(B), again))) == 34, "all were given back"


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=99), st.integers(16, 60))
def test_there_is_a_place_for_a_host_that_comes_new(calls: list[tuple[int, int]], count: int) -> None:
    """Three hosts take 15 of 16 at most."""
    places = Places(count)
    with ExitStack() as open_calls:
        for host, number in calls:
            with suppress(BusyError):
                open_calls.enter_context(places.taken_by(Caller.of(f"ipv4:10.0.0.{host}:{number}")))
        open_calls.enter_context(places.taken_by(B))


def connection(number: int) -> Caller:
    return Caller.of(f"ipv4:10.0.0.1:{number}")


def take_all(places: Places, callers: Iterable[Caller], open_calls: ExitStack) -> Iterator[Caller]:
    """Those of ``callers`` that get a place, up to the first that does not."""
    for caller in callers:
        try:
            open_calls.enter_context(places.taken_by(caller))
        except BusyError:
            return
        yield caller
