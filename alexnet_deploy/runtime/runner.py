"""The interface of every runtime, and ``AnyBatch``, the only place that splits and pads batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import BatchProfile, ModelContract
from alexnet_deploy.errors import ArtifactError, InputError, UnavailableError, UsageError

# Legend: N batch, H height, W width, C channel (RGB), K class

Steps = Generator[str, None, NDArray[np.float32]]
"""One call, step by step: yields the name of each step when it has ended, returns the logits ``[N, K]``."""


MakePixels = Callable[[ExitStack, tuple[int, ...]], NDArray[np.uint8]]
"""Makes memory for pixels of a shape, which is freed with the stack: no view of it may be used afterwards."""


class single_caller:
    """Refuse a second call during the block: the two would share buffers and could get each other's logits."""

    __slots__ = ("_engine", "_running")

    def __init__(self, running: threading.Lock, engine: object) -> None:
        self._running = running
        self._engine = engine

    def __enter__(self) -> None:
        if not self._running.acquire(blocking=False):
            raise UsageError(f"{self._engine}: is used by another thread; give each thread its own `fork()`")

    def __exit__(self, *exc_info: object) -> None:
        self._running.release()


class Runner(Protocol):
    """One engine, ready to run on one device, for one thread at a time; ``fork`` returns one for another thread."""

    contract: ModelContract
    runtime: str
    """A key of ``openers.RUNTIMES``, or ``"torch"``."""
    device: str
    """``"cpu"``, or the compute capability of the GPU, such as ``"sm89"``."""
    description: str
    """For people only: runtime, version, device, such as ``OpenVINO 2026.4.1 on CPU``."""
    batch: BatchProfile | None
    """Batch sizes that one call accepts; None: any."""

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits ``[N, K]`` of uint8 RGB pixels ``[N, H, W, 3]``; the caller owns the result."""

    def steps(self, pixels_NHWC: NDArray[np.uint8]) -> Steps:
        """The same call, for a timer: ``"host-to-device"``, ``"compute"``, ``"device-to-host"``.

        Each step ends before the next one starts, so the whole can take longer than a plain call. A runtime that does
        not copy, or does not separate copying from computing, has only the step ``"compute"``.
        """

    def fork(self) -> Runner:
        """Another request of the same loaded engine, for another thread; only the weights are shared.

        The caller closes it, before this one.
        """

    def close(self) -> None:
        """Release device memory and threads; may be called twice."""


def make_pixels_of(runner: object) -> MakePixels | None:
    """Memory that decoders fill and ``runner`` copies to its GPU as it is; None where there is no such copy."""
    make: MakePixels | None = getattr(runner, "make_pixels", None)
    return make


def compute_step(runner: Runner, pixels_NHWC: NDArray[np.uint8]) -> Steps:
    """``Runner.steps`` of a runtime with one step."""
    logits_NK = runner(pixels_NHWC)
    yield "compute"
    return logits_NK


class AnyBatch:
    """A Runner of any N >= 1: splits what exceeds the engine's ``max``, repeats the last image up to its ``min``."""

    batch: BatchProfile | None = None

    def __init__(self, runner: Runner, name: str, *, failed: threading.Event | None = None) -> None:
        """``name`` is the engine's, for errors; ``failed`` is for ``fork``: whether the device failed in a call."""
        self._runner = runner
        self._name = name
        self._failed = failed or threading.Event()
        self.contract = runner.contract
        self.runtime = runner.runtime
        self.device = runner.device
        self.description = runner.description
        self.plan: str | None = getattr(runner, "plan", None)
        """File name of the TensorRT plan that runs; None: another runtime."""
        self.card: str = getattr(runner, "card", "")
        """Name of the model of GPU that it runs on; empty: a CPU, or unknown."""
        self.make_pixels = make_pixels_of(runner)

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits ``[N, K]`` of uint8 RGB pixels ``[N, H, W, 3]``; the caller owns the result."""
        with self._noticing():
            if self._runner.batch is None:
                return self._checked(self._runner(pixels_NHWC), pixels_NHWC)
            parts = self._parts(pixels_NHWC)
            return _joined([self._checked(self._runner(part_NHWC), part_NHWC)[:count] for part_NHWC, count in parts])

    def steps(self, pixels_NHWC: NDArray[np.uint8]) -> Steps:
        """The steps of each call of the engine, one after the other."""
        logits = []
        for part_NHWC, count in self._parts(pixels_NHWC):
            with self._noticing():
                part_NK = yield from self._runner.steps(part_NHWC)
            logits.append(self._checked(part_NK, part_NHWC)[:count])
        return _joined(logits)

    def _checked(self, logits_NK: NDArray[np.float32], pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The runtime's result; refused if it is not what the contract promises, whatever the file declares."""
        rows, outputs = len(pixels_NHWC), self.contract.outputs
        if logits_NK.shape[1:] != (outputs,):
            raise ArtifactError(
                f"{self._name}: returns {list(logits_NK.shape)} for {rows} images, but its contract has {outputs} "
                f"{'classes' if self.contract.features is None else 'features'}: the model does not compute what it "
                "declares; make it again"
            )
        if len(logits_NK) != rows:
            raise InputError(
                f"{self._name}: {self.description} answers {len(logits_NK)} of {rows} images; choose another `runtime`"
            )
        return logits_NK

    def _parts(self, pixels_NHWC: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.uint8], int]]:
        """Pixels that the engine accepts, and how many of them belong to the request."""
        profile = self._runner.batch or BatchProfile(1, 1, max(len(pixels_NHWC), 1))
        for start in range(0, max(len(pixels_NHWC), 1), profile.max):
            part_NHWC = pixels_NHWC[start : start + profile.max]
            count = len(part_NHWC)
            if 0 < count < profile.min:
                part_NHWC = np.concatenate([part_NHWC, np.repeat(part_NHWC[-1:], profile.min - count, axis=0)])
            yield part_NHWC, count

    def fork(self) -> AnyBatch:
        """Another request of the same engine, of any batch size."""
        with self._noticing():
            return AnyBatch(self._runner.fork(), self._name, failed=self._failed)

    def close(self) -> None:
        """Close the runner inside; may be called twice. A device that failed may refuse: that is no second error."""
        with suppress(UnavailableError) if self._failed.is_set() else nullcontext():
            self._runner.close()

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except UnavailableError:
            self._failed.set()
            raise


def batch_sizes_of(runner: Runner) -> BatchProfile | None:
    """The batch sizes that one call of the engine in ``runner`` computes; None: any."""
    return runner._runner.batch if isinstance(runner, AnyBatch) else runner.batch


def batch_near(runner: Runner, wanted: int) -> int:
    """The number of images near to ``wanted`` that ``runner`` computes without filling up a call with repeated ones."""
    profile = batch_sizes_of(runner)
    if profile is None:
        return wanted
    return max(wanted, profile.min) if profile.max > wanted else wanted // profile.max * profile.max


def _joined(logits: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return logits[0] if len(logits) == 1 else np.concatenate(logits)
