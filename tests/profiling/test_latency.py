"""Percentiles by hand, and measurements of a runner that takes no time."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import UsageError
from alexnet_deploy.profiling import latency
from alexnet_deploy.profiling.latency import Latency, measure, percentile, samples_for, supported
from alexnet_deploy.profiling.settings import MIN_ITERATIONS, ProfileSettings
from alexnet_deploy.profiling.steady import Run
from tests.helpers.runners import FakeRunner

IDLE = ModelContract("idle", ("a", "b"), ("a", "b"), Preprocessing(8, 8, "stretch", None))


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 20), (51, 30), (25, 10), (26, 20), (75, 30), (76, 40), (99, 40), (100, 40), (0, 10)]
)
def test_percentile_is_the_nearest_rank(percent: float, expected: int) -> None:
    assert percentile([10, 20, 30, 40], percent) == expected
    assert percentile(range(1, 1001), 99.9) == 999, "in binary fractions, 99.9 / 100 * 1000 is above 999"


@given(st.lists(st.integers(1, 10**6), min_size=1).map(sorted), st.floats(0.1, 100).map(lambda p: round(p, 1)))
def test_percentile_is_the_least_sample_that_so_many_do_not_exceed(ordered: list[int], percent: float) -> None:
    found = percentile(ordered, percent)
    assert 1000 * sum(sample <= found for sample in ordered) >= round(10 * percent) * len(ordered)
    assert 1000 * sum(sample < found for sample in ordered) < round(10 * percent) * len(ordered)


@pytest.mark.parametrize("percent", [90, 95, 99, 99.9])
def test_a_percentile_needs_samples_of_which_one_is_likely_above_it(percent: float) -> None:
    """All n lie below it with probability p^n: at most 5 % from ``samples_for`` on, more before."""
    n = samples_for(percent)
    assert (percent / 100) ** n <= 0.05 < (percent / 100) ** (n - 1)
    assert supported([1_000_000] * n, percent) == 1.0
    assert supported([1_000_000] * (n - 1), percent) is None


@pytest.mark.parametrize("concurrency", [1, 3])
def test_measure_reports_what_it_ran(concurrency: int) -> None:
    """Concurrent calls have a fork each, which is closed."""
    runner = FakeRunner(IDLE)
    row = measure(runner, batch=3, duration_s=1e-9, warm_up_s=0, concurrency=concurrency)
    assert row.iterations == len(row.samples_ns) >= MIN_ITERATIONS
    assert row.min_ms == min(row.samples_ns) / 1e6 <= row.median_ms <= row.max_ms == max(row.samples_ns) / 1e6
    assert row.min_ms <= row.mean_ms <= row.max_ms
    assert (row.batch, row.concurrency, row.description) == (3, concurrency, "fake on CPU")
    assert row.images_per_s == pytest.approx(3 * row.throughput_qps)
    assert [set(each.sizes) for each in (runner, *runner.forks)] == [{3}] * concurrency
    assert all(fork.closed for fork in runner.forks)
    assert not runner.closed


def test_numbers_of_known_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = tuple(i * 1_000_000 for i in range(300, 0, -1))
    monkeypatch.setattr(latency, "run_until_steady", lambda *_, **__: Run(samples, 60_000_000_000, 9, 0.125, False))
    assert measure(FakeRunner(IDLE), batch=2) == Latency(
        description="fake on CPU",
        batch=2,
        concurrency=1,
        iterations=300,
        elapsed_s=60.0,
        min_ms=1.0,
        mean_ms=150.5,
        median_ms=150.5,
        p90_ms=270.0,
        p95_ms=285.0,
        p99_ms=297.0,
        p99_9_ms=None,
        max_ms=300.0,
        stdev_ms=pytest.approx(((300**2 - 1) / 12) ** 0.5),  # of the whole population, as trtexec's
        throughput_qps=5.0,
        images_per_s=10.0,
        steady=False,
        window_spread_percent=12.5,
        windows=9,
        samples_ns=samples,
    )


def test_a_fork_that_cannot_be_had_leaves_none_open() -> None:
    class Two(FakeRunner):
        def fork(self) -> FakeRunner:
            if self.forks:
                raise UsageError("no more")
            return super().fork()

    runner = Two(IDLE)
    with pytest.raises(UsageError, match="no more"):
        measure(runner, concurrency=3)
    assert [fork.closed for fork in runner.forks] == [True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "`concurrency` 0: must be 1 or more"),
        ({"iterations": 0}, "`iterations` 0: must be 1 or more"),
        ({"duration_s": 0.0}, "`duration_s` 0s: must be above 0s and at most 3600s"),
        ({"duration_s": -1.0}, "`duration_s` -1"),
        ({"duration_s": float("nan")}, "`duration_s` nan"),
        ({"duration_s": 1e9}, "`duration_s` 1e"),
        ({"warm_up_s": -0.001}, "`warm_up_s` -0.001s: must be within 0s..3600s"),
        ({"warm_up_s": float("nan")}, "`warm_up_s` nan"),
        ({"warm_up_s": 7200.0}, "`warm_up_s` 7200"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    runner = FakeRunner(IDLE)
    for refuse in (partial(measure, runner), ProfileSettings):
        with pytest.raises(UsageError, match=message):
            refuse(**options)
    assert not runner.sizes


def test_batches_out_of_range_are_refused() -> None:
    for batch in (0, -1):
        with pytest.raises(UsageError, match=f"`batch` {batch}: must be 1 or more"):
            measure(FakeRunner(IDLE), batch=batch)
    with pytest.raises(UsageError, match="`batch_sizes` 0: must be 1 or more"):
        ProfileSettings((4, 0))
    with pytest.raises(UsageError, match="`batch_sizes`: must hold at least one number"):
        ProfileSettings(())


def test_every_field_says_its_unit() -> None:
    plain = {"description", "batch", "concurrency", "iterations", "steady", "windows"}
    units = ("_ms", "_s", "_qps", "_ns", "_percent")
    assert all(f.name in plain or f.name.endswith(units) for f in dataclasses.fields(Latency))
