"""ONNX Runtime on an NVIDIA GPU, with the onnxruntime-gpu package."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import DeployError, InputError, UnavailableError, one_line
from alexnet_deploy.machine.packages import onnxruntime_version
from alexnet_deploy.runtime.cuda.captures import present
from alexnet_deploy.runtime.cuda.device import Device, gpu_memory, open_device
from alexnet_deploy.runtime.cuda.errors import gpu_error
from alexnet_deploy.runtime.cuda.memory import shared_pixels
from alexnet_deploy.runtime.onnxruntime.bound_session import BoundSession, SharedState, fits, with_padding
from alexnet_deploy.runtime.onnxruntime.cuda import CudaSession, open_on_cuda
from alexnet_deploy.runtime.onnxruntime.runner import fixed_batch, session_options
from alexnet_deploy.runtime.runner import MakePixels, Steps, compute_step, single_caller

_log = logging.getLogger(__name__)


def open_cuda_runner(
    onnx_path: Path,
    contract: ModelContract,
    *,
    precision: str = "fp32",
    concurrency: int = 1,
    tf32: bool = False,
    device: Device | None = None,
) -> OnnxRuntimeCudaRunner:
    """Open an ONNX model on ``device``, which is closed with it, or else on the first GPU.

    ``tf32`` allows float32 products with ten bits of mantissa.

    Raises UnavailableError if CUDA does not start or the GPU has too little memory, InputError if ONNX Runtime refuses
    the model.
    """
    with present():
        return _open_runner(onnx_path, contract, precision, concurrency, tf32, device)


def _open_runner(
    onnx_path: Path, contract: ModelContract, precision: str, concurrency: int, tf32: bool, device: Device | None
) -> OnnxRuntimeCudaRunner:
    index = 0 if device is None else device.index
    try:
        opened = open_on_cuda(
            onnx_path, lambda: session_options(precision), precision, tf32=tf32, graphs=concurrency == 1, index=index
        )
    except DeployError:
        raise
    except Exception as exc:  # its exceptions share no public base
        raise gpu_error(str(onnx_path), exc, memory=partial(gpu_memory, index)) or InputError(
            f"{onnx_path}: ONNX Runtime refuses it ({one_line(exc)}); try `runtime` openvino"
        ) from exc
    if not opened.whole:
        _log.warning(
            "%s: CUDA has no kernel for some of its nodes: they run on the CPU, and tensors are copied to and fro",
            onnx_path.name,
        )
    return OnnxRuntimeCudaRunner(opened, contract, onnx_path, tf32=tf32, device=device or _device())


def _device() -> Device | None:
    """The GPU for copies of our own; None without cuda-python and PyCUDA, where the session copies."""
    try:
        return open_device()
    except UnavailableError as exc:
        _log.debug("input and output are not bound: %s", exc)
        return None


class OnnxRuntimeCudaRunner:
    """An ONNX model in ONNX Runtime on CUDA."""

    def __init__(
        self,
        opened: CudaSession,
        contract: ModelContract,
        onnx_path: Path,
        *,
        tf32: bool = False,
        device: Device | None = None,
        shared: SharedState | None = None,
        on: str = "cuda",
    ) -> None:
        """For ``open_cuda_runner`` and ``fork``, which shares the state of its session; ``on`` is for tests."""
        self.contract = contract
        self._path, self._tf32, self._device, self._on = onnx_path, tf32, device, on
        self._opened: CudaSession | None = opened
        self._index = opened.index
        self._session = opened.session
        self._owns_device = shared is None
        self._shared = shared or SharedState(captures=opened.graphs, graphs=opened.graphs)
        self._running = threading.Lock()
        self.batch = fixed_batch(self._session)
        self.runtime = "onnxruntime-cuda"
        self.device = device.capability if device is not None else "cuda"
        self.card = device.card if device is not None else ""
        more = " with TF32" * tf32 + ", some nodes on the CPU" * (not opened.whole)
        self.description = f"ONNX Runtime {onnxruntime_version()} on CUDA{more}"
        # Nodes on the CPU would need a copy back to where the bound memory is.
        self._bound: BoundSession | None = None
        self.make_pixels: MakePixels | None = None
        with ExitStack() as resources:
            resources.enter_context(present())
            if device is not None and opened.whole and fits(self._session, contract):
                self._bound = BoundSession(self._session, device, contract, self._shared, on=on)
                self.make_pixels = partial(shared_pixels, device)
            self._resources = resources.pop_all()

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits ``[N, K]`` of uint8 RGB pixels ``[N, H, W, 3]``.

        Raises UnavailableError if the GPU fails, InputError if ONNX Runtime refuses the pixels.
        """
        with self._call(pixels_NHWC) as session:
            if self._bound is not None:
                return self._bound(pixels_NHWC)
            padded_NHWC = with_padding(pixels_NHWC, self._shared.padded(len(pixels_NHWC)))
            feeds = {self.contract.input_name: padded_NHWC}
            (logits_NK,) = session.run([self.contract.output_name], feeds, self._shared.options())
            self._shared.note(len(padded_NHWC))
            return np.asarray(logits_NK, np.float32)[: len(pixels_NHWC)]

    def steps(self, pixels_NHWC: NDArray[np.uint8]) -> Steps:
        """Copy, compute, copy back; only ``"compute"`` where the session copies within its call."""
        self._open()
        if self._bound is None:
            return (yield from compute_step(self, pixels_NHWC))
        with self._call(pixels_NHWC):
            return (yield from self._bound.steps(pixels_NHWC))

    def fork(self) -> OnnxRuntimeCudaRunner:
        """The same session with buffers of its own. From now on no call is a CUDA graph: those are for one thread."""
        opened = self._opened
        if opened is None:
            raise ValueError("the runner is closed")
        self._shared.graphs = False
        return OnnxRuntimeCudaRunner(
            opened,
            self.contract,
            self._path,
            tf32=self._tf32,
            device=self._device,
            shared=self._shared,
            on=self._on,
        )

    def close(self) -> None:
        """Release device and page-locked memory; the session ends with the last reference to it."""
        with ExitStack() as each:
            if self._owns_device and self._device is not None:
                each.callback(self._device.close)
            each.enter_context(self._resources)  # present until the session is gone
            if (bound := self._bound) is not None:
                each.callback(bound.close)
            self._bound = self._session = self._opened = None

    def _open(self) -> Any:
        session = self._session  # one look: another thread may close it
        if session is None:
            raise ValueError("the runner is closed")
        return session

    @contextmanager
    def _call(self, pixels_NHWC: NDArray[np.uint8]) -> Iterator[Any]:
        """The session for one call, whose errors name the GPU's fault, or else the model's."""
        session = self._open()
        with single_caller(self._running, self.description):
            try:
                yield session
            except DeployError:
                raise
            except Exception as exc:  # its exceptions share no public base
                raise gpu_error(self._path.name, exc, memory=partial(gpu_memory, self._index)) or InputError(
                    f"{self._path}: fails on pixels {pixels_NHWC.shape} ({one_line(exc)}); use another `runtime`"
                ) from exc
