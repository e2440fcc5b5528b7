"""Callbacks that TensorRT calls while it builds: to report progress, to stop at Ctrl-C, to write the plan to disk.

An exception must not leave such a callback: TensorRT prints it, goes on, and even reports success. So each callback
keeps the error, and ``plans`` raises it when TensorRT has returned.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from alexnet_deploy.progress import Progress

PROGRESS_STEPS = 1000
"""Parts into which the work of one build is divided for ``on_progress``."""


@contextlib.contextmanager
def defer_interrupt() -> Iterator[threading.Event]:
    """Set the event at Ctrl-C or SIGTERM during the block, and do at its end what the signal did before.

    An exception raised at once would come at the first bytecode of a callback, before any ``try`` of ours. A signal
    that is ignored, or ends the process, goes on doing so.
    """
    interrupt = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt  # only the main thread handles signals
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    previous = {number: handler for number, handler in handlers.items() if callable(handler)}
    arrived: list[int] = []

    def note(number: int, frame: object) -> None:
        arrived.append(number)
        interrupt.set()

    for each in previous:
        signal.signal(each, note)
    try:
        yield interrupt
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
        if arrived:
            signal.raise_signal(arrived[0])


@dataclass(slots=True)
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildMonitor:
    """Follows the build for one target through its nested phases. TensorRT may call from several threads."""

    def __init__(self, target: str, on_progress: Progress, interrupt: threading.Event) -> None:
        self._stage = f"TensorRT {target}"
        self._on_progress = on_progress
        self._interrupt = interrupt
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()
        self._best = 0.0
        self.failure: BaseException | None = None

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._phases[phase] = _Phase(parent, steps)

    def finish(self, phase: str) -> None:
        with self._lock:
            self._phases.pop(phase, None)

    def step(self, phase: str, index: int) -> bool:
        """Report the share of the build that is done, which never falls; False asks TensorRT to stop."""
        with self._lock:
            if phase in self._phases:
                self._phases[phase].done = index + 1
            self._best = max(self._best, self._share(phase))
            try:
                self._report(self._best)
            except BaseException as exc:  # any error must wait until TensorRT has returned
                self.failure = self.failure or exc
        return self.failure is None and not self._interrupt.is_set()

    def complete(self) -> None:
        """Report the end of a successful build: the last step that TensorRT reports is below 1."""
        self._report(1.0)

    def raise_failure(self) -> None:
        """Raise the error that a callback kept; call this when TensorRT has returned."""
        if self._interrupt.is_set():
            raise KeyboardInterrupt
        if self.failure is not None:
            raise self.failure

    def _report(self, share: float) -> None:
        self._on_progress(self._stage, round(share * PROGRESS_STEPS), PROGRESS_STEPS)

    def _share(self, phase: str) -> float:
        share = 0.0
        level = self._phases.get(phase)
        while level is not None:
            share = min(1.0, (level.done + share) / max(level.steps, 1))
            level = self._phases.get(level.parent or "")
        return share


def progress_monitor(api: Any, monitor: BuildMonitor) -> Any:
    """``monitor`` as TensorRT's IProgressMonitor."""

    class Monitor(api.IProgressMonitor):  # type: ignore[misc]  # the base comes from an untyped library
        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)

        phase_start = staticmethod(monitor.start)
        step_complete = staticmethod(monitor.step)
        phase_finish = staticmethod(monitor.finish)

    return Monitor()


def stream_writer(api: Any, stream: BinaryIO, monitor: BuildMonitor) -> Any:
    """``stream`` as TensorRT's IStreamWriter; a failed write goes to ``monitor.failure``."""

    class Writer(api.IStreamWriter):  # type: ignore[misc]  # the base comes from an untyped library
        def __init__(self) -> None:
            api.IStreamWriter.__init__(self)

        def write(self, data: bytes) -> int:
            try:
                return stream.write(data)
            except OSError as exc:
                monitor.failure = monitor.failure or exc
                return 0

    return Writer()
