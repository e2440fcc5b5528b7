"""fp32 ONNX -> fp16, int8, int8+fp16, fp8 ONNX: precision is a graph transform, the builder only obeys it.

``fp16.py`` and ``qdq.py`` are the transforms, ``ranges.py`` measures what int8 and fp8 must represent; the stages
here are functions from file to file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.calibration import METHODS_FOR, Method
from alexnet_deploy.errors import InputError, UnavailableError, UsageError
from alexnet_deploy.fp16 import halve
from alexnet_deploy.onnx_file import load_onnx, name_nodes, save_onnx
from alexnet_deploy.qdq import Quantized, insert_qdq, quantizable


def to_fp16(onnx_path: Path, out: Path, *, keep: frozenset[str] = frozenset()) -> Path:
    """Convert weights and activations to float16; input and logits keep their types, nodes in ``keep`` float32."""
    model = load_onnx(onnx_path)
    unknown = keep - {node.name for node in model.graph.node}
    if unknown:
        raise UsageError(f"{onnx_path}: has no node named {min(unknown)}; see the names with: alexnet-deploy inspect")
    return save_onnx(halve(model, keep=keep), out)


def method_for(kind: Quantized, method: Method | None) -> Method:
    """``method``, or the default of ``kind`` for None; UsageError where the two do not fit."""
    fitting = METHODS_FOR[kind]
    if method is not None and method not in fitting:
        raise UsageError(f"--calibration-method {method}: does not fit {kind}; choose one of {', '.join(fitting)}")
    return method or fitting[0]


def to_quantized(
    onnx_path: Path,
    out: Path,
    *,
    kind: Quantized,
    batches: Callable[[], Iterator[NDArray[np.uint8]]],
    method: Method | None = None,
    high: Literal["fp32", "fp16"] = "fp32",
    exclude: str | None = None,
) -> dict[str, float]:
    """Insert Q/DQ around every Conv, Gemm and MatMul with constant weights; return each tensor's threshold.

    ``batches`` yields the calibration pixels and is called once a pass. ``high`` is the type of everything that is
    not quantised. Nodes whose name matches the regular expression ``exclude`` stay as they are. ``out`` is written
    atomically. Raises InputError for a model that is quantised already or has nothing to quantise.
    """
    method = method_for(kind, method)
    try:
        from alexnet_deploy.ranges import tensor_thresholds
    except ImportError as exc:
        raise UnavailableError(
            f"--{kind}: calibration runs in ONNX Runtime, which is not installed; pip install 'alexnet-deploy[cpu]'"
        ) from exc
    model = load_onnx(onnx_path)
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise InputError(f"{onnx_path}: is quantised already; give the float model")
    name_nodes(model)  # below, a node is known by its name
    nodes = quantizable(model, kind, exclude)
    if not nodes:
        raise InputError(f"{onnx_path}: has no Conv, Gemm or MatMul to quantise; check --exclude")
    tensors = tuple(dict.fromkeys(node.input[0] for node in nodes))
    thresholds = tensor_thresholds(model, tensors, batches, method)
    insert_qdq(model, nodes, thresholds, kind)
    if high == "fp16":
        model = halve(model)
    save_onnx(model, out)
    return thresholds
