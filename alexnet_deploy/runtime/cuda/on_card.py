"""A runner on a GPU that the user chose by its number."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.runtime.cuda.device import Device, open_device
from alexnet_deploy.runtime.runner import Runner, Steps, make_pixels_of

# Legend: N batch, H height, W width, C channel (RGB), K class


def open_on_card(index: int | None, open_runner: Callable[[Device | None], Runner]) -> Runner:
    """The runner that ``open_runner`` opens on GPU ``index``; None leaves the choice to it, which is the first.

    Raises what ``open_runner`` raises, and UnavailableError.
    """
    if index is None:
        return open_runner(None)
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

    def __init__(self, device: Device, open_runner: Callable[[], Runner], *, owns_device: bool = True) -> None:
        """For ``open_on_card``, and for ``fork``, which does not close ``device``."""
        self._device, self._owns_device = device, owns_device
        with self._current():
            self._runner = open_runner()
        self.contract = self._runner.contract
        self.runtime = self._runner.runtime
        self.device = self._runner.device
        self.batch = self._runner.batch
        self.description = f"{self._runner.description}, GPU {device.index}"
        self.plan: str | None = getattr(self._runner, "plan", None)
        """See ``AnyBatch.plan``."""
        self.card: str = getattr(self._runner, "card", "")
        self.make_pixels = make_pixels_of(self._runner)

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
        return OnCard(self._device, self._runner.fork, owns_device=False)

    def close(self) -> None:
        """See ``Runner.close``."""
        with contextlib.ExitStack() as stack:
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
            raise UnavailableError(f"GPU {self._device.index}: {exc.cause}", exc.fix) from exc
