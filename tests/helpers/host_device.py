"""A fake GPU whose memory has real addresses, so that ONNX Runtime on the CPU can be bound to it as to a real one."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.machine.onnx_session import open_session
from alexnet_deploy.runtime.onnxruntime.cuda import CudaSession
from alexnet_deploy.runtime.onnxruntime.cuda_runner import OnnxRuntimeCudaRunner
from alexnet_deploy.runtime.onnxruntime.runner import session_options
from tests.helpers.fake_device import FakeDevice
from tests.helpers.models.onnx_models import TINY_CONTRACT


class HostDevice(FakeDevice):
    """A ``FakeDevice`` whose pointers are addresses of host memory."""

    def allocate(self, nbytes: int) -> int:
        self._call("allocate")
        content = bytearray(nbytes)
        pointer = ctypes.addressof((ctypes.c_uint8 * nbytes).from_buffer(content))
        self.live.add(("memory", pointer))
        self.memory[pointer] = content
        return pointer


class RecordingSession:
    """A session of ONNX Runtime on the CPU that notes the graph of each run, and how often and where a graph ran.

    A graph replays the addresses that it was captured with: a run of the same number with another binding is an error.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self.graphs: list[str | None] = []
        self.sizes: list[int] = []
        self.error: Exception | None = None
        self._captured: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, outputs: Any, feeds: dict[str, Any], options: Any = None) -> Any:
        self._note(options, None)
        self.sizes.append(len(next(iter(feeds.values()))))
        return self._session.run(outputs, feeds, options)

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        self._note(options, binding)
        self._session.run_with_iobinding(binding, options)
        self.sizes.append(binding.get_outputs()[0].shape()[0])

    def _note(self, options: Any, binding: Any) -> None:
        if self.error is not None:
            raise self.error
        graph = None if options is None else options.get_run_config_entry("gpu_graph_id")
        self.graphs.append(graph)
        if graph not in (None, "-1"):
            assert binding is not None, "a graph without bound memory would replay freed addresses"
            assert self._captured.setdefault(graph, binding) is binding, "the graph was captured with other memory"


def cuda_runner_on_host(
    onnx_path: Path,
    contract: ModelContract,
    *,
    device: FakeDevice | None = None,
    graphs: bool = True,
    whole: bool = True,
) -> tuple[OnnxRuntimeCudaRunner, RecordingSession]:
    """The runner for CUDA, with a session on the CPU and a device with its memory (or without a device)."""
    session = RecordingSession(open_session(onnx_path, session_options("fp32", threads=1)))
    opened = CudaSession(session, whole, graphs and whole)
    return OnnxRuntimeCudaRunner(opened, contract, onnx_path, device=device, on="cpu"), session


def pixels(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Images for ``TINY_CONTRACT``."""
    pre = TINY_CONTRACT.preprocessing
    return np.random.default_rng(seed).integers(0, 256, (count, pre.height, pre.width, 3), np.uint8)
