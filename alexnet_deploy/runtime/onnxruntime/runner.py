"""ONNX Runtime on the CPU, and the options of its sessions."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from alexnet_deploy.contract import METADATA_KEY, BatchProfile, ModelContract
from alexnet_deploy.errors import InputError, one_line
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.machine.onnx_session import open_session
from alexnet_deploy.runtime.lowering.cpu_options import exact_integers
from alexnet_deploy.runtime.runner import Steps, compute_step

# Legend: N batch, H height, W width, C channel (RGB), K class


def providers() -> list[str]:
    """Execution providers compiled into the installed package; one may still fail to start."""
    return list(ort.get_available_providers())


def session_options(precision: str, *, threads: int | None = None, concurrency: int = 1, exact: bool = False) -> Any:
    """The options with which an engine of ``precision`` runs; ``exact``: each node as the ONNX standard defines it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # its errors are raised, and shown in one line
    for entry in exact_integers(precision).items():
        options.add_session_config_entry(*entry)
    if threads is not None or concurrency > 1:
        # Concurrent calls share one pool and wait for each other in it; with one thread there is no pool.
        options.intra_op_num_threads = max(1, (threads or cores()) // concurrency)
    if exact or precision.startswith("fp8"):
        # Its extended optimisations compute an FP8 Gemm wrongly (measured with 1.32).
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return options


def model_for_cpu(onnx_path: Path, precision: str) -> Path | bytes:
    """What a session on the CPU should open for an engine of ``precision``: its file, or a faster graph."""
    if not precision.startswith(("int4", "int8", "fp8")):
        return onnx_path  # float16 weights: ONNX Runtime itself makes float32 of them, once
    from alexnet_deploy.runtime.lowering.graph import graph_for_cpu  # with onnx, which other engines do not need

    return graph_for_cpu(onnx_path, precision) or onnx_path


def fixed_batch(session: Any) -> BatchProfile | None:
    """The one batch size that the model of ``session`` takes; None if it takes any."""
    batch = session.get_inputs()[0].shape[0]
    return BatchProfile(batch, batch, batch) if isinstance(batch, int) else None


class OnnxRuntimeRunner:
    """An ONNX model in ONNX Runtime on the CPU."""

    def __init__(
        self,
        onnx_path: Path,
        contract: ModelContract,
        *,
        precision: str = "fp32",
        threads: int | None = None,
        concurrency: int = 1,
        exact: bool = False,
    ) -> None:
        self.contract = contract
        options = session_options(precision, threads=threads, concurrency=concurrency, exact=exact)
        try:
            model = onnx_path if exact else model_for_cpu(onnx_path, precision)
            self._session = open_session(model, options)
        except Exception as exc:  # its exceptions share no public base
            raise InputError(f"{onnx_path}: ONNX Runtime refuses it ({one_line(exc)}); try `runtime` openvino") from exc
        self._path = onnx_path
        self.batch = fixed_batch(self._session)
        self.runtime = "onnxruntime"
        self.device = "cpu"
        self.description = f"ONNX Runtime {ort.__version__} on CPU"

    def recorded_contract(self) -> str | None:
        """The contract in the metadata of the ONNX file, as JSON."""
        found: str | None = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        return found

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits ``[N, K]`` of uint8 RGB pixels ``[N, H, W, 3]``."""
        session = self._session  # one look: another thread may close it
        if session is None:
            raise ValueError("the runner is closed")
        try:
            (logits_NK,) = session.run([self.contract.output_name], {self.contract.input_name: pixels_NHWC})
        except Exception as exc:
            raise InputError(
                f"{self._path}: fails on pixels {pixels_NHWC.shape} ({one_line(exc)}); export it for that batch size"
            ) from exc
        return np.asarray(logits_NK, np.float32)

    def steps(self, pixels_NHWC: NDArray[np.uint8]) -> Steps:
        """One step: the session copies within its call."""
        return compute_step(self, pixels_NHWC)

    def fork(self) -> OnnxRuntimeRunner:
        """The same session: it allows calls from several threads."""
        if self._session is None:
            raise ValueError("the runner is closed")
        return copy.copy(self)

    def close(self) -> None:
        """The session's threads end with the last reference to it."""
        self._session = None
