"""A runner on a GPU that the user chose by its number."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.runtime.cuda.device import Device, open_device
from alexnet_deploy.runtime.runner import Runner, Steps

# Legend: N batch, H height, W width, C channel (RGB), K class


def open_on_card(index: int, open_runner: Callable[[Device], Runner]) -> OnCard:
    """The runner that ``open_runner`` opens on GPU ``index``; raises what it raises, and UnavailableError."""
    device = open_device(index)
    try:
        return OnCard(device, lambda: open_runner(device))
    except BaseException:
        device.close()
        raise


class OnCard:
    """A runner that does everything with its GPU current, whichever thread calls, and whose errors name that GPU.

    TensorRT, ONNX Runtime and CUDA work on the GPU that is current for the calling thread, which is number 0 unless
    somebody changed it, and some of them leave another one behind.
    """

    def __init__(
        self, device: Device, open_runner: Callable[[], Runner], *, failed: threading.Event | None = None
    ) -> None:
        """For ``open_on_card`` and ``fork``, which passes on whether the GPU has ``failed``."""
        self._device, self._owns_device = device, failed is None
        self._failed = failed or threading.Event()
        with self._current():
            self._runner = open_runner()
        self.contract = self._runner.contract
        self.runtime = self._runner.runtime
        self.device = self._runner.device
        self.batch = self._runner.batch
        self.description = f"{self._runner.description}, GPU {device.index}"
        self.plan: str | None = getattr(self._runner, "plan", None)
        """See ``AnyBatch.plan``."""

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``Runner``."""
        with self._current():
            return self._runner(pixels_NHWC)

    def steps(self, pixels_NHWC: NDArray[np.uint8]) -> Steps:
        """See ``Runner.steps``; between two steps the thread has the GPU that it had before."""
        steps = self._runner.steps(pixels_NHWC)
        try:
            while True:
                with self._current():
                    try:
                        name = next(steps)
                    except StopIteration as ended:
                        logits_NK: NDArray[np.float32] = ended.value
                        return logits_NK
                yield name
        finally:
            steps.close()

    def fork(self) -> OnCard:
        """See ``Runner.fork``: on the same GPU."""
        return OnCard(self._device, self._runner.fork, failed=self._failed)

    def close(self) -> None:
        """See ``Runner.close``. A GPU that failed may refuse: that is no second error."""
        with contextlib.ExitStack() as stack:
            if self._failed.is_set():
                stack.enter_context(contextlib.suppress(UnavailableError))
            if self._owns_device:
                stack.callback(self._device.close)
            with self._current():
                self._runner.close()

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        try:
            with self._device.current():
                yield
        except UnavailableError as exc:
            self._failed.set()
            raise UnavailableError(f"GPU {self._device.index}: {exc.cause}", exc.fix) from exc
