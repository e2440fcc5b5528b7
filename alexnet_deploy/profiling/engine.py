"""One engine measured in its own process: loading, the first call, then each batch size."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from alexnet_deploy.adoption.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.bundle.store import STORE, resolve_engine
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import UnavailableError, UsageError
from alexnet_deploy.files import atomic_file
from alexnet_deploy.machine.cpu import describe_machine
from alexnet_deploy.machine.gpu import open_gpu
from alexnet_deploy.machine.watch import MachineConditions, MachineWatch, Reading, watch_for
from alexnet_deploy.profiling.card_roofline import CardRoofline, card_roofline
from alexnet_deploy.profiling.isolated import IsolatedProcess
from alexnet_deploy.profiling.latency import Latency, measure, random_pixels
from alexnet_deploy.profiling.settings import ProfileSettings
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.select import PassedOver, SelectedRunner, open_runner

TIMES_SCHEMA = 1

Mark = Literal["ok", "unstable", "invalid"]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The latency at one batch size, and the conditions on the machine during the measurement."""

    latency: Latency
    machine: MachineConditions

    @property
    def mark(self) -> Mark:
        """``invalid``: something disturbed it; ``unstable``: no disturbance is known, but it did not settle."""
        if self.machine.invalid:
            return "invalid"
        return "ok" if self.latency.steady else "unstable"

    @property
    def gpu_energy_j_per_image(self) -> float | None:
        """What the whole GPU used, for all processes; None on the CPU, and where the GPU does not report it."""
        energy_j = self.machine.gpu_energy_j
        # Of all threads; the time between two windows is a reading of the counters long.
        return None if energy_j is None else energy_j / (self.latency.batch * self.latency.iterations)

    def to_dict(self) -> dict[str, Any]:
        """Without the samples; units are in the names."""
        numbers = _fields(self.latency, without={"description", "concurrency", "samples_ns"})
        numbers["gpu_energy_j_per_image"] = self.gpu_energy_j_per_image
        return numbers | {"mark": self.mark, "machine": dataclasses.asdict(self.machine)}


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """The times and memory of one engine, in a process that did nothing else."""

    name: str
    precision: str
    runner: str
    """Runtime, version, device."""
    passed_over: tuple[PassedOver, ...]
    unused_gpu: bool
    """Of ``open_runner``, as ``passed_over`` is."""
    settings: ProfileSettings
    load_s: float
    """From the engine's files to one that can be called, including the import of the runtime's library."""
    first_call_ms: float
    """The very first call, with the first batch size; it includes everything that a runtime delays until then."""
    peak_rss_bytes: int | None
    """The most host memory that the process held; None if the system does not report it."""
    rows: tuple[BatchResult, ...]
    card: CardRoofline | None = None
    """The ceilings of the GPU that it ran on; None on a CPU, and for a card that is not known."""

    def to_dict(self) -> dict[str, Any]:
        """Without the samples; units are in the names."""
        return (
            {"engine": self.name}
            | _fields(self, without={"name", "unused_gpu", "settings", "rows", "card"})
            | {"passed_over": [str(each) for each in self.passed_over]}
            | _fields(self.settings, without={"batch_sizes"})
            | {"card": None if self.card is None else dataclasses.asdict(self.card)}
            | {"batches": [row.to_dict() | self._of_card(row) for row in self.rows]}
        )

    def _of_card(self, row: BatchResult) -> dict[str, Any]:
        return {} if self.card is None else self.card.fields(row.latency.batch, row.latency.images_per_s)


def _fields(of: Latency | EngineProfile | ProfileSettings, *, without: set[str]) -> dict[str, Any]:
    return {field.name: getattr(of, field.name) for field in dataclasses.fields(of) if field.name not in without}


def profile(
    engine: str | Path | None = None,
    settings: ProfileSettings | None = None,
    *,
    store: str | Path = STORE,
    import_options: ImportOptions = NO_IMPORT_OPTIONS,
) -> EngineProfile:
    """Measure latency and throughput of ``engine`` in its own process, by the rules of ``latency``.

    ``engine`` is a bundle (path, or name in ``store``), an ``.onnx`` file, or None for the newest bundle of ``store``;
    ``import_options`` describe an ONNX of another tool. Raises the errors of ``open_engine`` and ``profile_engine``.
    """
    name = None if engine is None else str(engine)
    with resolve_engine(name, Path(store), import_options, features=True) as found:
        return profile_engine(found, settings)


def profile_engine(engine: Engine, settings: ProfileSettings | None = None) -> EngineProfile:
    """Measure ``engine`` in its own process, which ends with this call, or with this process.

    Raises UsageError for a batch size outside the engine's profile, the errors of ``measure_engine``, and
    UnavailableError with the engine and the signal if the process was killed or crashed.
    """
    settings = settings or ProfileSettings()
    check_batch_sizes(engine, settings.batch_sizes)
    # The first run of an engine compares the runtime with a reference, whose time and memory are not the engine's.
    with IsolatedProcess(engine.name) as process:
        card = process.call(try_engine, engine, settings)
    with IsolatedProcess(engine.name) as process:
        return dataclasses.replace(process.call(measure_engine, engine, settings), card=card)


def try_engine(engine: Engine, settings: ProfileSettings) -> CardRoofline | None:
    """Open and close ``engine`` as ``measure_engine`` will, and return the roofline of the GPU that it ran on.

    Raises the errors of ``open_runner``.
    """
    with closing(_open(engine, settings).runner) as runner:
        runtime, device = runner.runtime, runner.device
    gpu = None if device == "cpu" else open_gpu(index=settings.device or 0)
    return None if gpu is None else card_roofline(engine, runtime, device, gpu.card(), tf32=settings.tf32)


def _open(engine: Engine, settings: ProfileSettings) -> SelectedRunner:
    return open_runner(
        engine,
        settings.runtime,
        threads=settings.threads,
        concurrency=settings.concurrency,
        tf32=settings.tf32,
        eager=True,
        device=settings.device,
    )


def check_batch_sizes(engine: Engine, batch_sizes: Sequence[int], parameter: str = "batch_sizes") -> None:
    """UsageError for a size that the engine was not built for: a runner would silently split or pad it."""
    profile, fix = engine.batch, "build it again with another `min_batch` or `max_batch`"
    if profile is None:
        from alexnet_deploy.onnx_graph.onnx_file import fixed_batch, load_onnx

        size, fix = fixed_batch(load_onnx(engine.onnx_path)), "export it for any batch"
        profile = None if size is None else BatchProfile(size, size, size)
    for batch in batch_sizes:
        if profile is not None and not profile.min <= batch <= profile.max:
            raise UsageError(
                f"`{parameter}` {batch}: {engine.name} has a profile of {profile.min}..{profile.max}; choose one "
                f"within it, or {fix}"
            )


def measure_engine(engine: Engine, settings: ProfileSettings) -> EngineProfile:
    """Load ``engine`` and measure it in this process, whose peak memory is then the engine's.

    Raises the errors of ``open_runner`` and the runner, and UnavailableError if the memory does not suffice.
    """
    started = time.perf_counter_ns()
    selected = _open(engine, settings)
    loaded = time.perf_counter_ns()
    with closing(selected.runner) as runner:
        watch = watch_for(runner.device, settings.device or 0)
        try:
            pixels_NHWC = random_pixels(runner, settings.batch_sizes[0])
            before = time.perf_counter_ns()
            runner(pixels_NHWC)
            first_call_ns = time.perf_counter_ns() - before
            rows = tuple(_measure_batch(runner, batch, settings, watch) for batch in settings.batch_sizes)
        except MemoryError as exc:
            raise UnavailableError(
                f"{engine.name}: batch {max(settings.batch_sizes)} does not fit into memory; choose smaller ones "
                "in `batch_sizes`"
            ) from exc
        return EngineProfile(
            name=engine.name,
            precision=engine.precision,
            runner=runner.description,
            passed_over=selected.passed_over,
            unused_gpu=selected.unused_gpu,
            settings=settings,
            load_s=(loaded - started) / 1e9,
            first_call_ms=first_call_ns / 1e6,
            peak_rss_bytes=peak_rss_bytes(),
            rows=rows,
        )


def _measure_batch(runner: Runner, batch: int, settings: ProfileSettings, watch: MachineWatch) -> BatchResult:
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
    return BatchResult(latency, watch.judge(readings[-latency.windows - 1 :]))


def peak_rss_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """The peak memory of this process."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux inherits ru_maxrss from the process that started this one; the kernel's own peak starts at 0.
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def write_times(path: Path, profiles: Sequence[EngineProfile]) -> None:
    """Write every sample as JSON; the file appears whole, or stays as it was.

    It holds ``schema``, ``created``, ``machine`` and ``engines``, each from ``EngineProfile.to_dict``, with one more
    field per batch: ``samples_ns``, the nanoseconds of each call that counts, in the order in which they ended. Raises
    UnavailableError where ``path`` cannot be written; ``check_file`` finds that out before the measurement.
    """
    engines = [profile.to_dict() for profile in profiles]
    for profile, engine in zip(profiles, engines, strict=True):
        for row, batch in zip(profile.rows, engine["batches"], strict=True):
            batch["samples_ns"] = row.latency.samples_ns
    created = datetime.now(UTC).isoformat(timespec="seconds")
    raw = {"schema": TIMES_SCHEMA, "created": created, "machine": describe_machine(), "engines": engines}
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(raw, allow_nan=False) + "\n", encoding="utf-8")
