"""OpenVINO on the CPU, the default where there is no GPU: the fastest runtime measured there."""

from __future__ import annotations

import copy
import functools
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import BatchProfile, ModelContract
from alexnet_deploy.errors import InputError
from alexnet_deploy.files import text_path
from alexnet_deploy.machine.cpu import saturates_int8
from alexnet_deploy.runtime.openvino_concat import quantise_before_concat
from alexnet_deploy.runtime.runner import Steps, compute_step, single_caller

# OpenVINO also runs without this package, which sends usage data from a fork of the process. The fork can deadlock
# beside our threads; it then outlives a process that is killed, and keeps its standard error open.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino as ov  # noqa: E402
from openvino.passes import ConstantFolding, Manager  # noqa: E402

# Legend: N batch, H height, W width, C channel (RGB), K class

_log = logging.getLogger(__name__)

DESCRIPTION = f"OpenVINO {ov.__version__.split('-')[0]} on CPU"


class OpenVinoRunner:
    """An ONNX model in OpenVINO."""

    runtime = "openvino"
    device = "cpu"
    description = DESCRIPTION

    def __init__(
        self, onnx_path: Path, contract: ModelContract, *, threads: int | None = None, concurrency: int = 1
    ) -> None:
        self.contract = contract
        compiled = compiled_model(onnx_path, threads=threads, concurrency=concurrency)
        self._path = onnx_path
        # Where a Reshape inside fixes the batch, only the output has it. More images than that need not fail, but once
        # such a model is freed, the next one that runs in the process ends it with a segfault (2026.4).
        ends = (compiled.input(contract.input_name), compiled.output(contract.output_name))
        dimensions = [end.partial_shape[0] for end in ends]
        size = next((dimension.get_length() for dimension in dimensions if dimension.is_static), None)
        self.batch = None if size is None else BatchProfile(size, size, size)
        self._compiled: Any = compiled
        self._output: Any = ends[1]
        self._pixels: Any = None  # the request points into it until the next call
        self._request: Any = compiled.create_infer_request()
        self._running = threading.Lock()

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits ``[N, K]`` of uint8 RGB pixels ``[N, H, W, 3]``; UsageError while another thread runs it."""
        if self._request is None:
            raise ValueError("the runner is closed")
        # OpenVINO itself raises an error at most times; at others a thread gets the logits of the other one's images.
        with single_caller(self._running, self._path):
            try:
                # A dictionary of arrays does the same, but takes some 4 % longer for one image of a small engine.
                self._pixels = ov.Tensor(np.require(pixels_NHWC, np.uint8, ["C", "W"]), shared_memory=True)
                self._request.set_input_tensor(self._pixels)
                self._request.infer(share_outputs=True)
                logits_NK = np.array(self._request.get_tensor(self._output).data, np.float32)
            except RuntimeError as exc:
                raise InputError(
                    f"{self._path}: fails on pixels {pixels_NHWC.shape} ({reason(exc)}); export it for that batch size"
                ) from exc
        if len(logits_NK) != len(pixels_NHWC):
            # It does not fail by itself, but returns the result of an earlier call.
            raise InputError(
                f"{self._path}: answers {len(logits_NK)} of {len(pixels_NHWC)} images; export it for any batch"
            )
        return logits_NK

    def steps(self, pixels_NHWC: NDArray[np.uint8]) -> Steps:
        """One step: nothing is copied to another device."""
        return compute_step(self, pixels_NHWC)

    def fork(self) -> OpenVinoRunner:
        """Another request of the same compiled model."""
        if self._compiled is None:
            raise ValueError("the runner is closed")
        other = copy.copy(self)
        other._request = self._compiled.create_infer_request()
        other._pixels = None
        other._running = threading.Lock()
        return other

    def close(self) -> None:
        """Threads and memory of the model and its requests end with the last reference to them."""
        self._request = self._compiled = self._output = self._pixels = None


def compiled_model(onnx_path: Path, *, threads: int | None = None, concurrency: int = 1, counters: bool = False) -> Any:
    """The model as the runner runs it, optionally with performance counters; InputError if OpenVINO refuses it.

    For any batch. A second model for batch 1 alone gives the same bits and takes 1 to 3 % less time per call, but as
    long to compile and as much memory as the first: compiled models do not share weights (2026.4).
    """
    config: dict[str, str | int | bool] = {
        "PERFORMANCE_HINT": "LATENCY",
        # Without this hint a CPU with bf16 units may compute an fp32 engine in bf16.
        "INFERENCE_PRECISION_HINT": "f32",
        # Else it rounds the activations in front of int4 and int8 weights to int8, in groups of 32.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    if concurrency > 1:
        config["NUM_STREAMS"] = concurrency
    if counters:
        config["PERF_COUNT"] = True
    try:
        with text_path(onnx_path) as name:
            model = _core().read_model(name)
        quantise_before_concat(model)
        if saturates_int8() and _multiply_in_float32(model):
            _log.debug("%s: OpenVINO multiplies in float32: its int8 kernels overflow on this processor", onnx_path)
        return _core().compile_model(model, "CPU", config)
    except RuntimeError as exc:
        raise InputError(f"{onnx_path}: OpenVINO refuses it ({reason(exc)}); try `runtime` onnxruntime") from exc


def _multiply_in_float32(model: Any) -> bool:
    """Let the layers of a ``model`` with quantised activations read weights in float32; whether it is such a model.

    The activations are still rounded. OpenVINO takes its int8 kernels only for quantised weights, and has none that are
    exact where ``saturates_int8``: there its logits for ``alexnet-int8`` were off by up to 31 % of their range, and are
    by 1 % with this (2026.4).
    """
    if all(node.get_type_name() != "FakeQuantize" for node in model.get_ops()):
        return False
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)
    return True


@functools.cache
def _core() -> ov.Core:
    """One core for the process, never freed.

    A core's CPU plugin gives the thread an alternate signal stack and, when freed, restores the earlier one. If cores
    are not freed in reverse order, that one is freed memory, and the next Ctrl-C kills the process (2026.4).
    """
    return ov.Core()


def devices() -> list[str]:
    """Devices that OpenVINO sees, such as ``CPU``."""
    return list(_core().available_devices)


def reason(exc: Exception) -> str:
    """OpenVINO's message on one line."""
    return str(exc).strip().splitlines()[-1][:200]  # the lines before it name OpenVINO's own source files
