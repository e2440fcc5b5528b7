"""fp32 ONNX -> fp16, int8, int8+fp16, fp8 ONNX: precision is a graph transform, the builder only obeys it.

``fp16.py`` and ``qdq.py`` are the transforms, ``ranges.py`` measures what int8 and fp8 must represent and
``thresholds.py`` decides where they clip; the stages here are functions from file to file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from alexnet_deploy.errors import InputError, UnavailableError, UsageError
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, name_nodes, refuse_nan, save_onnx
from alexnet_deploy.precision.calibration_cache import CalibrationCache
from alexnet_deploy.precision.fp16 import halve
from alexnet_deploy.precision.qdq import Quantized, insert_qdq, quantizable
from alexnet_deploy.precision.thresholds import METHODS_FOR, Method


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


@dataclass(frozen=True, slots=True)
class Quantization:
    """What ``to_quantized`` made its scales of, by tensor, and whether the values came from the cache."""

    weights_sha256: str
    largest_by_tensor: dict[str, float]
    threshold_by_tensor: dict[str, float]
    from_cache: bool


def to_quantized(
    onnx_path: Path,
    out: Path,
    *,
    kind: Quantized,
    batches: Callable[[], Iterator[NDArray[np.uint8]]],
    method: Method | None = None,
    high: Literal["fp32", "fp16"] = "fp32",
    exclude: str | None = None,
    cache: CalibrationCache | None = None,
    source: str | None = None,
) -> Quantization:
    """Insert Q/DQ around every Conv, Gemm and MatMul with constant weights, by the table of ``qdq.py``.

    ``batches`` yields the calibration pixels and is called once a pass; not at all where ``cache`` knows the values.
    ``high`` is the type of everything that is not quantised. Nodes whose name matches the regular expression
    ``exclude`` stay as they are. ``out`` is written atomically. Raises InputError for a model that is quantised
    already, has broken weights or nothing to quantise (they call it ``source``, else by its path), and for a tensor
    that the images do not vary.
    """
    model, nodes, made = calibrated(
        onnx_path, kind=kind, batches=batches, method=method, exclude=exclude, cache=cache, source=source
    )
    insert_qdq(model, nodes, made.threshold_by_tensor, kind)
    if high == "fp16":
        model = halve(model)
    save_onnx(model, out)
    return made


def calibrated(
    onnx_path: Path,
    *,
    kind: Quantized,
    batches: Callable[[], Iterator[NDArray[np.uint8]]],
    method: Method | None = None,
    exclude: str | None = None,
    cache: CalibrationCache | None = None,
    source: str | None = None,
) -> tuple[onnx.ModelProto, list[onnx.NodeProto], Quantization]:
    """The float model with every node named, its nodes to quantise, and the thresholds: all that Q/DQ needs.

    Arguments and errors are those of ``to_quantized``.
    """
    method = method_for(kind, method)
    try:
        from alexnet_deploy.precision.ranges import observe, thresholds_of
    except ImportError as exc:
        raise UnavailableError(
            f"--{kind}: calibration runs in ONNX Runtime, which is not installed; pip install 'alexnet-deploy[cpu]'"
        ) from exc
    source = source or str(onnx_path)
    model = load_onnx(onnx_path)
    weights = weights_sha256(model)
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise InputError(f"{source}: is quantised already; give the float model")
    name_nodes(model)  # below, a node is known by its name
    nodes = quantizable(model, kind, exclude)
    if not nodes:
        halved = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
        why = "is float16 already; give the float32 model" if halved else "has no layer to quantise; check --exclude"
        raise InputError(f"{source}: {why}")
    refuse_nan(model, source)
    _refuse_infinite_weights(model, nodes, source)
    # Those of all that could be quantised: one pass then serves every method, type and --exclude.
    observed_tensors = _inputs(quantizable(model, "int8"))
    histograms = method != "max"
    observed = cache.load(weights, observed_tensors, histograms=histograms) if cache else None
    from_cache = observed is not None
    if observed is None:
        observed = observe(model, observed_tensors, batches, histograms=histograms)
        if cache:
            cache.save(weights, observed)
    thresholds = thresholds_of(model, observed, _inputs(nodes), method)
    made = Quantization(weights, {name: observed[name].largest for name in thresholds}, thresholds, from_cache)
    return model, nodes, made


def weights_sha256(model: onnx.ModelProto) -> str:
    """SHA-256 of what the model computes: its graph with the weights, opsets and functions; no metadata of the file."""
    parts = (*sorted(model.opset_import, key=lambda opset: opset.domain), *model.functions, model.graph)
    digest = hashlib.sha256()
    for part in parts:
        raw = part.SerializeToString(deterministic=True)
        digest.update(len(raw).to_bytes(8))
        digest.update(raw)
    return digest.hexdigest()


def _inputs(nodes: list[onnx.NodeProto]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(node.input[0] for node in nodes))


def _refuse_infinite_weights(model: onnx.ModelProto, nodes: list[onnx.NodeProto], source: str) -> None:
    operands = {name for node in nodes for name in node.input[1:]}
    for tensor in model.graph.initializer:
        if tensor.name in operands and np.isinf(numpy_helper.to_array(tensor)).any():
            raise InputError(f"{source}: weight {tensor.name} holds infinity; export the model from a sound checkpoint")
