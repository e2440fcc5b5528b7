"""fp32 ONNX -> ONNX of any other precision, from file to file.

``fp16.py``, ``qdq.py`` and ``weights.py`` edit the graph. In ``calibration``, ``ranges.py`` measures the ranges for
int8 and fp8, ``thresholds.py`` chooses where to clip them, and ``moments.py`` measures what weights alone are rounded
by; ``rounding.py`` rounds them. A TensorRT builder then follows the types of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from alexnet_deploy.adoption.operators.opset import at_our_opset
from alexnet_deploy.contract import Precision
from alexnet_deploy.errors import InputError, ProofError, UnavailableError, UsageError, one_line
from alexnet_deploy.onnx_graph.element_types import is_quantised
from alexnet_deploy.onnx_graph.onnx_file import (
    initializers,
    load_onnx,
    name_nodes,
    refuse_nan,
    save_onnx,
    weights_sha256,
)
from alexnet_deploy.precision.calibration.cache import CalibrationCache
from alexnet_deploy.precision.fp16 import cast_to_float16
from alexnet_deploy.precision.qdq import insert_qdq, quantizable
from alexnet_deploy.precision.types import (
    Method,
    QuantizedType,
    float_type,
    instead_of_float16,
    is_weights_only,
    method_for,
    quantized_type,
)
from alexnet_deploy.precision.weights import WeightQuantiser, dense_inputs
from alexnet_deploy.verification.float16_range import LARGEST, describe_overflow

Batches = Callable[[], Iterator[NDArray[np.uint8]]]
"""Starts a pass over the calibration pixels ``[N, H, W, 3]`` each time it is called."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The results of a calibration, by tensor, and whether the values came from the cache.

    Without entries where weights alone are quantised.
    """

    weights_sha256: str
    """Of the float32 model."""
    largest_by_tensor: dict[str, float]
    """The largest magnitude over all images."""
    threshold_by_tensor: dict[str, float]
    """The magnitude of the largest quantised number."""
    from_cache: bool


@dataclass(frozen=True, slots=True)
class Quantiser:
    """A float32 model with every node named, its nodes to quantise, and how each of them is quantised."""

    model: onnx.ModelProto
    nodes: list[onnx.NodeProto]
    calibration: Calibration
    _insert: Callable[[onnx.ModelProto, Sequence[onnx.NodeProto]], None]

    def quantise(self, model: onnx.ModelProto, names: Collection[str]) -> None:
        """Quantise the nodes ``names`` of ``model``, in place; it is the model, or a copy with copies of nodes."""
        self._insert(model, [node for node in model.graph.node if node.name in names])


def to_fp16(onnx_path: Path, out: Path, *, keep: frozenset[str] = frozenset(), source: str | None = None) -> Path:
    """Convert weights and activations to float16; input and logits keep their types, nodes in ``keep`` float32.

    Errors call the model ``source`` (None: its path).
    """
    model = load_onnx(onnx_path)
    unknown = keep - {node.name for node in model.graph.node}
    if unknown:
        raise UsageError(f"{onnx_path}: has no node named {min(unknown)}; see the names with: alexnet-deploy inspect")
    return _save_float16(model, out, keep=keep, source=source or str(onnx_path))


def _save_float16(model: onnx.ModelProto, out: Path, *, source: str, keep: frozenset[str] = frozenset()) -> Path:
    try:
        return save_onnx(cast_to_float16(model, keep=keep), out)
    except InputError as exc:
        raise InputError(f"{source}: {exc}") from exc
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        # An operator whose schema allows float16 may still consist of others that do not.
        raise InputError(f"{source}: has no float16 form ({one_line(exc, 160)}); build it without fp16") from exc


def to_quantized(
    onnx_path: Path,
    out: Path,
    *,
    precision: Precision,
    batches: Batches | None,
    method: Method | None = None,
    exclude: str | None = None,
    cache: CalibrationCache | None = None,
    source: str | None = None,
) -> Calibration:
    """Quantise every Conv, Gemm and MatMul with constant weights, by the tables of ``qdq.py`` and ``weights.py``.

    ``precision`` is int8 or fp8, with +fp16 if everything else becomes float16, or a type of weights alone. ``batches``
    is called once per pass, and not at all if ``cache`` holds the values; None rounds weights alone to nearest. Nodes
    whose name matches the regular expression ``exclude`` stay unchanged. ``out`` is written atomically. Errors call the
    model ``source`` (None: its path). Raises InputError for a model that is already quantised, has broken weights or
    nothing to quantise, for a weight that exceeds the float16 it becomes, and for a tensor that has the same value on
    all images; ProofError for a tensor that exceeds the float16 it becomes.
    """
    dtype = quantized_type(precision)
    if dtype is None:
        raise UsageError(f"precision {precision}: does not quantise; choose int8, fp8, int8-weights or int4")
    found = calibrate(
        onnx_path,
        dtype=dtype,
        batches=batches,
        method=method,
        exclude=exclude,
        cache=cache,
        source=source,
        float16=float_type(precision) == "fp16",
    )
    if float_type(precision) == "fp16":
        _refuse_overflow(found, source or str(onnx_path), precision)
    model = found.model
    found.quantise(model, {node.name for node in found.nodes})
    if float_type(precision) == "fp16":
        _save_float16(model, out, source=source or str(onnx_path))
    else:
        save_onnx(model, out)
    return found.calibration


def calibrate(
    onnx_path: Path,
    *,
    dtype: QuantizedType,
    batches: Batches | None,
    method: Method | None = None,
    exclude: str | None = None,
    cache: CalibrationCache | None = None,
    source: str | None = None,
    float16: bool = False,
) -> Quantiser:
    """The quantiser of a float32 model, calibrated. Arguments and errors are those of ``to_quantized``.

    ``float16`` is for a model whose other numbers become float16, the scales and the dequantised weights with them.
    """
    method = method_for(dtype, method)
    source = source or str(onnx_path)
    model = load_onnx(onnx_path)
    weights = weights_sha256(model)
    if any(map(is_quantised, model.graph.node)):
        raise InputError(f"{source}: is already quantised; give the float model")
    # Blocks of int4, fp8 and float16 scales need newer opsets than a model with our contract may have.
    model = at_our_opset(model, Path(source))
    name_nodes(model)  # the code below finds nodes by name
    nodes = quantizable(model, dtype, exclude)
    if not nodes:
        is_float16 = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
        kind = "dense layer" if dtype == "int4" else "layer"
        advice = "check `exclude`" if exclude else "build int8-weights" if dtype == "int4" else "build fp32 or fp16"
        nothing = f"has no {kind} to quantise; {advice}"
        why = "is float16; give the float32 model" if is_float16 else nothing
        raise InputError(f"{source}: {why}")
    refuse_nan(model, source)
    _refuse_large_weights(model, nodes, dtype, source, float16=float16 or is_weights_only(dtype))
    if is_weights_only(dtype):
        insert = _weights_alone(model, nodes, dtype, batches)
        return Quantiser(model, nodes, Calibration(weights, {}, {}, False), insert)
    if batches is None:
        raise ValueError(f"{dtype} needs calibration images")
    try:
        from alexnet_deploy.precision.calibration.ranges import choose_thresholds, observe
    except ImportError as exc:
        raise _no_runtime(dtype) from exc
    # All tensors that could be quantised: one pass then serves every method, type and exclusion.
    tensors = _inputs(quantizable(model, "int8"))
    histograms = method != "max"
    observed = cache.load(weights, tensors, histograms=histograms) if cache else None
    from_cache = observed is not None
    if observed is None:
        observed = observe(model, tensors, batches, histograms=histograms)
        if cache:
            cache.save(weights, observed)
    thresholds = choose_thresholds(model, observed, _inputs(nodes), method)
    found = Calibration(weights, {t: observed[t].largest for t in thresholds}, thresholds, from_cache)
    return Quantiser(model, nodes, found, partial(insert_qdq, thresholds=thresholds, dtype=dtype, float16=float16))


def _weights_alone(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], dtype: QuantizedType, batches: Batches | None
) -> Callable[[onnx.ModelProto, Sequence[onnx.NodeProto]], None]:
    """How the weights of ``nodes`` are quantised; those of dense layers by GPTQ if there are ``batches``."""
    inputs = dense_inputs(nodes, initializers(model))
    if batches is None or not inputs:
        return WeightQuantiser(dtype, None).insert
    try:
        from alexnet_deploy.precision.calibration.moments import second_moments
    except ImportError as exc:
        raise _no_runtime(dtype) from exc
    return WeightQuantiser(dtype, second_moments(model, inputs, batches)).insert


def _no_runtime(dtype: QuantizedType) -> UnavailableError:
    return UnavailableError(
        f"{dtype}: calibration runs in ONNX Runtime, which is not installed; pip install 'alexnet-deploy[cpu]'"
    )


def _inputs(nodes: list[onnx.NodeProto]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(node.input[0] for node in nodes))


def _refuse_overflow(found: Quantiser, source: str, precision: Precision) -> None:
    """ProofError where a layer reads numbers on the calibration images that float16 does not hold."""
    for node in found.nodes:
        largest = found.calibration.largest_by_tensor.get(node.input[0], 0.0)
        if largest > LARGEST:
            raise ProofError(
                describe_overflow(
                    source, f"the input of {node.name}", node.op_type, largest, instead_of_float16(precision)
                )
            )


def _refuse_large_weights(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], dtype: QuantizedType, source: str, *, float16: bool
) -> None:
    """InputError for a weight of ``nodes`` that is infinite, or with ``float16`` would be once it is dequantised."""
    operands = {name for node in nodes for name in node.input[1:]}
    for tensor in model.graph.initializer:
        if tensor.name not in operands:
            continue
        largest = float(np.abs(numpy_helper.to_array(tensor)).max(initial=0))
        if np.isinf(largest):
            raise InputError(f"{source}: weight {tensor.name} holds infinity; export the model from a sound checkpoint")
        if float16 and largest > LARGEST:
            raise InputError(
                f"{source}: weight {tensor.name}: {largest:.3g} exceeds float16's {LARGEST:.0f}; "
                f"{instead_of_float16(dtype)}"
            )
