"""One engine measured in this process: loading, the first call, then each batch size, with the machine watched."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import UnavailableError, UsageError
from alexnet_deploy.files import atomic_file
from alexnet_deploy.machine.watch import MachineWatch, Reading, Watched, describe_machine, watch_for
from alexnet_deploy.profiling.latency import (
    DURATION_S,
    MIN_ITERATIONS,
    WARM_UP_S,
    Latency,
    check_numbers,
    measure,
    random_pixels,
)
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.select import open_runner

TIMES_SCHEMA = 1

Mark = Literal["ok", "unstable", "invalid"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure; UsageError names the flag of a number out of range."""

    batches: tuple[int, ...] = (1,)
    concurrency: int = 1
    """Threads that call at the same time."""
    runtime: str = "auto"
    threads: int | None = None
    """Of the runtime, in all; None: its own choice."""
    duration_s: float = DURATION_S
    warm_up_s: float = WARM_UP_S
    iterations: int = MIN_ITERATIONS

    def __post_init__(self) -> None:
        for batch in self.batches:
            check_numbers(
                batch=batch,
                duration_s=self.duration_s,
                warm_up_s=self.warm_up_s,
                iterations=self.iterations,
                concurrency=self.concurrency,
            )
        if not self.batches:
            raise UsageError("--batch: takes at least one number, such as 1,8,32")


@dataclass(frozen=True, slots=True)
class Row:
    """One batch size, and what the machine did meanwhile."""

    latency: Latency
    machine: Watched

    @property
    def mark(self) -> Mark:
        """``invalid``: something else took part; ``unstable``: nothing is known to have, and it did not settle."""
        if self.machine.invalid:
            return "invalid"
        return "ok" if self.latency.steady else "unstable"

    def to_dict(self) -> dict[str, Any]:
        """Without the samples; units are in the names."""
        numbers = _fields(self.latency, without={"description", "concurrency", "samples_ns"})
        return numbers | {"mark": self.mark, "machine": dataclasses.asdict(self.machine)}


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """What one engine took, in a process that did nothing else."""

    name: str
    precision: str
    runner: str
    """Runtime, version, device."""
    passed_over: tuple[str, ...]
    """Why each runtime that would have come before it was not taken."""
    settings: Settings
    load_s: float
    """From the engine's files to one that can be called; the import of the runtime's library is part of it."""
    first_call_ms: float
    """The first call of all, with the first of the batch sizes; what a runtime puts off until then is part of it."""
    peak_rss_bytes: int | None
    """The most memory the process held, of the host; None where the system does not tell."""
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """Without the samples; units are in the names."""
        return (
            {"engine": self.name}
            | _fields(self, without={"name", "settings", "rows"})
            | _fields(self.settings, without={"batches"})
            | {"batches": [row.to_dict() for row in self.rows]}
        )


def _fields(of: Latency | EngineProfile | Settings, *, without: set[str]) -> dict[str, Any]:
    return {field.name: getattr(of, field.name) for field in dataclasses.fields(of) if field.name not in without}


def refuse_batches(engine: Engine, batches: Sequence[int]) -> None:
    """UsageError for a size that the engine was not made for: a runner would split or pad it in silence."""
    profile, fix = engine.batch, "build it again with another --min-batch or --max-batch"
    if profile is None:
        from alexnet_deploy.onnx_graph.onnx_file import fixed_batch, load_onnx

        size, fix = fixed_batch(load_onnx(engine.onnx_path)), "export it for any batch"
        profile = None if size is None else BatchProfile(size, size, size)
    for batch in batches:
        if profile is not None and not profile.min <= batch <= profile.max:
            raise UsageError(
                f"--batch {batch}: {engine.name} has a profile of {profile.min}..{profile.max}; choose within, or {fix}"
            )


def profile_here(engine: Engine, settings: Settings) -> EngineProfile:
    """Load ``engine`` and measure it in this process, whose peak memory is then the engine's.

    Raises what ``open_runner`` and the runner raise, UnavailableError where the memory does not suffice.
    """
    started = time.perf_counter_ns()
    opened = open_runner(engine, settings.runtime, threads=settings.threads, streams=settings.concurrency)
    loaded = time.perf_counter_ns()
    with closing(opened.runner) as runner:
        watch = watch_for(runner.description)
        try:
            pixels_NHWC = random_pixels(runner, settings.batches[0])
            before = time.perf_counter_ns()
            runner(pixels_NHWC)
            first_call_ns = time.perf_counter_ns() - before
            rows = tuple(_row(runner, batch, settings, watch) for batch in settings.batches)
        except MemoryError as exc:
            raise UnavailableError(
                f"{engine.name}: batch {max(settings.batches)} does not fit into memory; choose a smaller --batch"
            ) from exc
        return EngineProfile(
            name=engine.name,
            precision=engine.precision,
            runner=runner.description,
            passed_over=opened.passed_over,
            settings=settings,
            load_s=(loaded - started) / 1e9,
            first_call_ms=first_call_ns / 1e6,
            peak_rss_bytes=peak_rss_bytes(),
            rows=rows,
        )


def _row(runner: Runner, batch: int, settings: Settings, watch: MachineWatch) -> Row:
    readings: list[Reading] = []
    latency = measure(
        runner,
        batch=batch,
        duration_s=settings.duration_s,
        warm_up_s=settings.warm_up_s,
        iterations=settings.iterations,
        concurrency=settings.concurrency,
        between=lambda: readings.append(watch.read()),
    )
    return Row(latency, watch.judge(readings[-latency.windows - 1 :]))


def peak_rss_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """The most memory that this process has held."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux hands ru_maxrss on from the process that started this one; the kernel's own mark starts anew.
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


@contextmanager
def export_times(path: Path) -> Iterator[Callable[[Sequence[EngineProfile]], None]]:
    """Yield the function that writes every sample as JSON; the file appears, whole, when the block ends.

    It holds ``schema``, ``created``, ``machine`` and ``engines``, each as ``EngineProfile.to_dict`` has it; its batches
    have ``samples_ns``, too: the nanoseconds of each call that counts, in the order in which they ended. Raises
    UsageError or UnavailableError before the block where ``path`` cannot be written.
    """
    if path.exists() and not path.is_file():
        raise UsageError(f"--export-times {path}: is not a plain file; name a file")

    def write(profiles: Sequence[EngineProfile]) -> None:
        raw = {
            "schema": TIMES_SCHEMA,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": describe_machine(),
            "engines": [
                profile.to_dict()
                | {"batches": [row.to_dict() | {"samples_ns": row.latency.samples_ns} for row in profile.rows]}
                for profile in profiles
            ],
        }
        temporary.write_text(json.dumps(raw, allow_nan=False) + "\n", encoding="utf-8")

    with atomic_file(path) as temporary:
        yield write
