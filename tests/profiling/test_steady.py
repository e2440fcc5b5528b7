"""When a run has settled, on a clock that the calls themselves move; and several threads at once, on a real one."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable

import hypothesis.strategies as st
import pytest
from hypothesis import given

from alexnet_deploy.profiling import steady
from alexnet_deploy.profiling.steady import MAX_SPREAD, MAX_WINDOWS, WINDOWS, Run, run_until_steady, spread

MS = 1_000_000


class Clock:
    """Calls take the times that they are told, and no time passes but theirs."""

    def __init__(self, times_ns: Iterable[int]) -> None:
        self.now_ns = 0
        self._times = iter(times_ns)

    def call(self) -> None:
        self.now_ns += next(self._times)

    def run(self, monkeypatch: pytest.MonkeyPatch, **options: float | Callable[[], object]) -> Run:
        given = {"duration_s": 0.3, "warm_up_s": 0.05, "iterations": 3} | options
        with monkeypatch.context() as patch:
            patch.setattr(steady.time, "perf_counter_ns", lambda: self.now_ns)
            return run_until_steady([self.call], **given)  # type: ignore[arg-type]


def test_a_steady_run_takes_the_duration_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Clock(itertools.repeat(10 * MS)).run(monkeypatch)
    assert run == Run((10 * MS,) * 30, 300 * MS, WINDOWS, 0.0, True)


@pytest.mark.parametrize(
    "before_ms",
    [[900, 50], [1, 50, *[40] * 3, *[20] * 5]],
    ids=["first call and warm-up", "a clock that is still going up"],
)
def test_what_went_before_the_windows_that_agree_is_dropped(
    monkeypatch: pytest.MonkeyPatch, before_ms: list[int]
) -> None:
    times_ns = itertools.chain((ms * MS for ms in before_ms), itertools.repeat(10 * MS))
    run = Clock(times_ns).run(monkeypatch)
    assert run.steady
    assert run.samples_ns == (10 * MS,) * 30


def test_a_run_that_never_settles_ends_and_keeps_every_window(monkeypatch: pytest.MonkeyPatch) -> None:
    growing = (int(10 * MS * 1.02**i) for i in itertools.count())
    run = Clock(growing).run(monkeypatch)
    assert not run.steady
    assert run.windows == MAX_WINDOWS
    assert run.spread > MAX_SPREAD
    assert run.elapsed_ns == sum(run.samples_ns) >= 3 * 300 * MS


def test_one_late_call_is_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Clock(itertools.cycle([10 * MS] * 9 + [60 * MS])).run(monkeypatch)
    assert run.steady
    assert 60 * MS in run.samples_ns


@pytest.mark.parametrize(("iterations", "least"), [(1, 3), (3, 3), (10, 12), (100, 102)])
def test_every_window_has_its_share_of_the_calls(monkeypatch: pytest.MonkeyPatch, iterations: int, least: int) -> None:
    run = Clock(itertools.repeat(1000 * MS)).run(monkeypatch, iterations=iterations)
    assert len(run.samples_ns) == least


def test_between_is_outside_of_the_time_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(itertools.repeat(10 * MS))
    seen: list[int] = []

    def between() -> None:
        seen.append(clock.now_ns)
        clock.now_ns += 777 * MS

    run = clock.run(monkeypatch, between=between)
    assert run.elapsed_ns == 300 * MS
    assert len(seen) == WINDOWS + 1


@given(st.lists(st.integers(1, 10**9), min_size=WINDOWS), st.integers(2, 1000))
def test_spread_knows_no_unit_and_no_order_of_the_last_windows(medians: list[int], factor: int) -> None:
    assert spread(medians) >= 0
    assert spread([m * factor for m in medians]) == pytest.approx(spread(medians))
    assert spread(medians[-WINDOWS:][::-1]) == spread(medians)


class Meeting:
    """Its first call returns when those of all others have come, so it never would in one thread."""

    barrier = threading.Barrier(3)

    def __init__(self, fail_after: int | None = None) -> None:
        self.calls = 0
        self.threads: set[int] = set()
        self.fail_after = fail_after

    def __call__(self) -> None:
        if self.calls == 0:
            self.barrier.wait(timeout=30)
        self.calls += 1
        self.threads.add(threading.get_ident())
        if self.calls == self.fail_after:
            raise RuntimeError("the engine is gone")


def test_calls_are_made_at_the_same_time_and_all_count() -> None:
    before = threading.active_count()
    calls = [Meeting() for _ in range(3)]
    run = run_until_steady(calls, duration_s=0.03, warm_up_s=0, iterations=300)
    assert calls[0].threads == {threading.get_ident()}
    assert all(call.threads.isdisjoint(calls[0].threads) for call in calls[1:])
    assert sum(call.calls for call in calls) >= len(run.samples_ns) >= 300
    assert threading.active_count() == before


@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize("after", [1, 5])
def test_one_that_fails_ends_them_all(which: int, after: int) -> None:
    before = threading.active_count()
    calls = [Meeting(after if i == which else None) for i in range(3)]
    with pytest.raises(RuntimeError, match="the engine is gone"):
        run_until_steady(calls, duration_s=60, warm_up_s=0, iterations=1)
    assert threading.active_count() == before
