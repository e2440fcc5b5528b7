"""Callbacks that TensorRT calls while it builds: to report progress, to stop at Ctrl-C, to write the plan to disk.

An exception must not leave such a callback: TensorRT prints it, goes on, and even reports success. So each callback
keeps the error, and ``plans`` raises it when TensorRT has returned.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO


@dataclass(slots=True)
class Interrupt:
    """Whether Ctrl-C was pressed."""

    pressed: bool = False


@contextlib.contextmanager
def defer_interrupt() -> Iterator[Interrupt]:
    """Note Ctrl-C during the block and raise KeyboardInterrupt at its end.

    Raised at once, it would come at the first bytecode of a callback, before any ``try`` of ours.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt  # only the main thread handles signals
        return

    def note(*_: object) -> None:
        interrupt.pressed = True

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, previous)
        if interrupt.pressed:
            raise KeyboardInterrupt


@dataclass(slots=True)
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildMonitor:
    """Follows one build through its nested phases. TensorRT may call from several threads."""

    def __init__(self, report: Callable[[float], None], interrupt: Interrupt) -> None:
        self._report = report
        self.interrupt = interrupt
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
        """Report the share of the build that is done (0..1, never falling); False asks TensorRT to stop."""
        with self._lock:
            if phase in self._phases:
                self._phases[phase].done = index + 1
            self._best = max(self._best, self._share(phase))
            try:
                self._report(self._best)
            except BaseException as exc:  # whatever it is, it must wait until TensorRT has returned
                self.failure = self.failure or exc
        return self.failure is None and not self.interrupt.pressed

    def complete(self) -> None:
        """Report the end of a successful build: TensorRT's own last step is below 1."""
        self._report(1.0)

    def raise_failure(self) -> None:
        """Raise what a callback kept; call it when TensorRT has returned."""
        if self.interrupt.pressed:
            raise KeyboardInterrupt
        if self.failure is not None:
            raise self.failure

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

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            monitor.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return monitor.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            monitor.finish(phase_name)

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
