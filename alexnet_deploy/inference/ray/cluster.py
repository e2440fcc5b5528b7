"""Ray itself: a cluster joined or started, and parts answered by its workers. The one module that imports Ray."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pickle
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.data.exceptions import SystemException, UserCodeException
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from alexnet_deploy.errors import UnavailableError, one_line
from alexnet_deploy.inference.ray.engine_files import EngineFiles
from alexnet_deploy.inference.ray.parts import Part
from alexnet_deploy.inference.ray.probe import LOCAL
from alexnet_deploy.inference.ray.worker import PartAnswer, PartWorker, WorkerSettings
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.machine.process import losing_text

_log = logging.getLogger(__name__)
MAX_CPUS = 4
"""Of one worker: one Python process decodes no faster with more."""
TRIES = 4
"""Of one part. An image that kills its decoder would otherwise end worker after worker."""

STOP_S = 30
"""The longest wait for Ray Data's threads; they end within a second of an idle machine."""


@dataclass(frozen=True, slots=True)
class Workers:
    """How many workers a cluster has room for, and what each one takes."""

    count: int
    cpus: int
    gpus: int
    machines: int


@contextmanager
def joined(address: str, *, quiet: bool) -> Iterator[None]:
    """Join the cluster at ``address``, or start one on this machine, and leave it at the end.

    With ``quiet`` neither Ray's log nor its reports on workers reach the terminal: what they mean for the run is an
    error of ours. ``prepare`` comes first. Raises UnavailableError where Ray cannot start, or its cluster fails.
    """
    with contextlib.ExitStack() as stack:
        if quiet:
            stack.enter_context(_quiet())
        options: dict[str, Any] = {"log_to_driver": not quiet, "logging_level": logging.CRITICAL if quiet else None}
        if address == LOCAL:
            options |= {"num_cpus": cores(), "include_dashboard": False}
        stack.callback(ray.shutdown)
        try:
            ray.init(address=address, **{key: value for key, value in options.items() if value is not None})
        except Exception as exc:  # a node that is too slow to start is a bare Exception
            _log.debug("the error in full", exc_info=True)
            raise UnavailableError(f"`ray` {address}: Ray does not start ({_cause(exc)}); try 'ray status'") from exc
        interrupted = stack.enter_context(_noting_interrupts())
        try:
            yield
        except Exception as exc:
            if interrupted.is_set():
                raise KeyboardInterrupt from exc
            if not isinstance(exc, ray.exceptions.RayError | SystemException | UserCodeException):
                raise
            _log.debug("the error in full", exc_info=True)
            raise UnavailableError(f"Ray failed ({_cause(exc)}); go on with `resume`") from exc


@contextmanager
def _noting_interrupts() -> Iterator[threading.Event]:
    """Set by Ctrl-C, which acts as usual: the workers get it as well, and their end may be seen first."""
    noted = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.set()
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Ray prints from the terminal: Python's log, C++'s to descriptor 2, and reports on workers.

    ``sys.stderr`` stays what it was. The reports go to the standard output, which this run does not use.
    """
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.stderr.flush()
    kept = losing_text(os.dup(2), sys.stderr.encoding, close=True)
    with open(os.devnull, "w") as nowhere, kept:
        os.dup2(nowhere.fileno(), 2)
        try:
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(kept):
                yield
        finally:
            os.dup2(kept.fileno(), 2)


def count_workers(*, per_gpu: bool) -> Workers:
    """Workers for all machines that are alive: one per GPU, or one per ``MAX_CPUS`` cores.

    UnavailableError if there is room for none.
    """
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if per_gpu:
        gpus = [int(found.get("GPU", 0)) for found in alive]
        if not any(gpus):
            raise UnavailableError("the cluster has no GPU; choose another `runtime`, or add a machine that has one")
        cpus = min(int(found.get("CPU", 0)) // count for found, count in zip(alive, gpus, strict=True) if count)
        return Workers(sum(gpus), max(1, min(cpus, 2 * MAX_CPUS)), 1, sum(map(bool, gpus)))
    sizes = [int(found.get("CPU", 0)) for found in alive if found.get("CPU", 0) >= 1]
    if not sizes:
        raise UnavailableError("the cluster has no CPU to offer; add a machine with 'ray start'")
    cpus = min(MAX_CPUS, *sizes)
    return Workers(sum(size // cpus for size in sizes), cpus, 0, len(sizes))


class _Starts:
    """Counts how often each part was begun, in a process that outlives the workers."""

    def __init__(self) -> None:
        self._of: Counter[int] = Counter()

    def begin(self, start: int) -> int:
        self._of[start] += 1
        return self._of[start]


class _Actor:
    """``PartWorker`` for Ray Data: rows of bytes in, rows of bytes out."""

    def __init__(self, settings: WorkerSettings, files: list[Any], starts: Any) -> None:
        self._worker = PartWorker(settings, ray.get(files[0]))
        self._starts = starts

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part: Part = pickle.loads(row["part"])
        if ray.get(self._starts.begin.remote(part.start)) > TRIES:
            # Ray itself would go on for ever: it cannot tell an image that ends each worker from a machine that dies.
            answer = PartAnswer(
                part.start,
                problem=f"a worker died {TRIES} times at images {part.start + 1} to {part.stop}; give it more memory, "
                "or leave out the image that ends it",
            )
        else:
            answer = self._worker(part)
        return {"answer": pickle.dumps(answer), "machine": ray.util.get_node_ip_address()}


def answers(
    parts: Iterable[Part], settings: WorkerSettings, files: EngineFiles, workers: Workers
) -> Generator[tuple[str, PartAnswer], None, None]:
    """The address of the machine and the answer for each part, in the order in which they are ready.

    A part whose worker dies is given to another one, up to ``TRIES`` times in all. The engine is sent once per machine.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    rows = [{"part": pickle.dumps(part)} for part in parts]
    engine = ray.put(files)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    # Where several nodes share an address, "here" may be another one. If it dies, the count begins anew elsewhere.
    survives = {"max_restarts": -1, "max_task_retries": -1}
    starts = ray.remote(_Starts).options(num_cpus=0, scheduling_strategy=here, **survives).remote()
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _Actor,
        fn_constructor_args=(settings, [engine], starts),  # in a list Ray sends the reference, not 200 MB each time
        compute=ActorPoolStrategy(size=min(workers.count, len(rows))),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
    )
    others = set(threading.enumerate())
    blocks = iter(data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    try:
        for block in blocks:
            for row in block.to_pylist():
                yield row["machine"], pickle.loads(row["answer"])
    finally:
        blocks.close()
        _wait_for(set(threading.enumerate()) - others)


def _wait_for(threads: Iterable[threading.Thread]) -> None:
    """Wait for the threads in which Ray Data pulls blocks; one that asks Ray after its end ends the process, silently.

    The one named ``Prefetcher`` is left out: after an early stop it sleeps for good (Ray 2.60).
    """
    until = time.monotonic() + STOP_S
    for thread in threads:
        if thread.name != "Prefetcher":
            thread.join(max(0, until - time.monotonic()))


def _cause(exc: BaseException) -> str:
    """What went wrong first, out of Ray's message, which may hold the traces of all processes that passed it on."""
    traces = str(exc).split("\nThe above exception was the direct cause of the following exception:\n")
    if len(traces) == 1:
        said = [line for line in str(exc).splitlines() if line.strip()][-1:]
    else:  # the last trace is Ray's own wrapper with advice on how to configure Ray
        lines = [line for line in traces[-2].splitlines() if line.strip() and "ray::" not in line]
        said = list(itertools.takewhile(lambda line: not line.startswith(" "), reversed(lines)))[::-1]
    return one_line(" ".join(said) or type(exc).__name__, 200)
