"""Whether each layer got the precision that the ONNX requests, from the graph and the builder's own report.

The layers of the report (``reported_layers``) name the ONNX nodes that they came from. The full TensorRT may compile
many nodes as one region, a Myelin ``ForeignNode``, of which it reports only the outer inputs and outputs. Nothing is
proved about such nodes, and nothing is refuted: their networks are strongly typed all the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import TensorProto

from alexnet_deploy.build.reported_layers import UNKNOWN, EngineLayer
from alexnet_deploy.bundle.manifest import UNPROVED, LayerPrecision
from alexnet_deploy.errors import UsageError
from alexnet_deploy.onnx_graph.element_types import (
    COMPUTE_OPS,
    MOVES_DATA,
    element_types,
    makers_in,
    origin,
    stored_type,
    weight_alone,
)
from alexnet_deploy.onnx_graph.onnx_file import initializers, load_onnx

_ONNX_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.FLOAT8E4M3FN: "fp8",
    TensorProto.INT4: "int4",
}
_WIDEST_FIRST = ("fp32", "fp16", "bf16", "fp8", "int8", "int4")
_STORED = {"int8-weights": "int8", "int4": "int4"}
"""The type in which a plan holds the weight, by what a node requests for its weight alone."""


@dataclass(frozen=True, slots=True)
class ComputeNode:
    """One of ``COMPUTE_OPS`` in the typed ONNX and the precision it requests; ``weights``: elements of its weight.

    ``dequantise`` is the node that dequantises its weight, where its weight alone is quantised.
    """

    name: str
    op: str
    precision: str
    weights: int
    dequantise: str = ""


def compute_nodes(model: onnx.ModelProto) -> list[ComputeNode]:
    """The compute nodes in graph order.

    A node requests int8 or fp8 if both its operands come from a DequantizeLinear of that type, int8-weights or int4 if
    its weight alone does, else the float type of its operands.
    """
    types, makers, weights = element_types(model), makers_in(model.graph), initializers(model)

    def operand(name: str) -> str:
        return _ONNX_TYPES.get(stored_type(name, types, makers), UNKNOWN)

    def size(name: str) -> int:
        maker = origin(name, makers)
        while maker is not None and maker.op_type in {"DequantizeLinear", "QuantizeLinear", "Cast", *MOVES_DATA}:
            name = maker.input[0]
            maker = makers.get(name)
        return math.prod(weights[name].dims) if name in weights else 0

    found = []
    for node in model.graph.node:
        if node.op_type in COMPUTE_OPS:
            both = {operand(name) for name in node.input[:2]}
            precision = both.pop() if len(both) == 1 else _ONNX_TYPES.get(types.get(node.input[0], 0), UNKNOWN)
            dequantise = ""
            if (alone := weight_alone(node, types, makers)) is not None:
                precision, dequantise = alone[0], _name_in_report(alone[1])
            found.append(ComputeNode(_name_in_report(node), node.op_type, precision, size(node.input[1]), dequantise))
    return found


def _name_in_report(node: onnx.NodeProto) -> str:
    return node.name or f"node_of_{node.output[0]}"  # what TensorRT's ONNX parser calls a nameless node


def achieved_precisions(nodes: Iterable[ComputeNode], layers: Sequence[EngineLayer]) -> tuple[LayerPrecision, ...]:
    """The precision that each node requests and the one it achieved in ``layers``.

    A node that no layer names is in the region, if there is one: its metadata may be missing.
    """
    found = []
    region = next((layer for layer in layers if layer.is_region), None)
    for node in nodes:
        named = [layer for layer in layers if node.name in layer.nodes]
        separate = [layer for layer in named if not layer.is_region]
        inside = next(iter(named), region)
        if not separate and inside is not None:
            found.append(LayerPrecision(node.name, node.op, node.precision, UNPROVED, inside.name))
            continue
        achieved = _achieved(node, separate)
        if node.dequantise:
            held = [layer for layer in layers if layer.nodes & {node.name, node.dequantise}]
            achieved = _with_weight_alone(node, achieved, held)
        found.append(achieved)
    return tuple(found)


def _with_weight_alone(node: ComputeNode, product: LayerPrecision, held: Sequence[EngineLayer]) -> LayerPrecision:
    """What a node achieved whose weight alone is quantised; ``product`` is what its product achieved.

    The plan must hold the whole weight in the requested type, in the layer that multiplies or in one that dequantises
    it, and the product must be float16.
    """
    stored = _STORED[node.precision]
    holds = any(kind == stored and count >= node.weights for layer in held for kind, count in layer.constants)
    multiplied = product.got in (stored, "fp16")  # the type that a layer reads: its weight's, if it holds it
    return replace(product, got=node.precision) if holds and multiplied else product


def _achieved(node: ComputeNode, candidates: Sequence[EngineLayer]) -> LayerPrecision:
    # Bias, activation and padding of a node run in generated kernels ("kgen") next to the layer that multiplies.
    layer = max(candidates, key=lambda c: (c.kind != "kgen", _largest(c)[1], bool(c.inputs)), default=None)
    if layer is None:
        return LayerPrecision(node.name, node.op, node.precision, UNKNOWN, "")
    weight_type, weight_count = _largest(layer)
    operands = set(layer.inputs)
    if node.weights and weight_count >= node.weights:  # more where channels are padded for the tensor cores
        operands = {weight_type, *layer.inputs[:1]}  # a second input is a residual, added after the product
    got = next((kind for kind in _WIDEST_FIRST if kind in operands), UNKNOWN)
    return LayerPrecision(node.name, node.op, node.precision, got, layer.name)


def _largest(layer: EngineLayer) -> tuple[str, int]:
    return max(layer.constants, key=lambda constant: constant[1], default=(UNKNOWN, 0))


def fallbacks(layers: Iterable[LayerPrecision], allowed: Iterable[str] = ()) -> list[LayerPrecision]:
    """The layers that did not achieve the requested precision, except those in ``allowed`` and the unproved ones.

    Each of ``allowed`` is a node's name or a regular expression for whole names; UsageError if it is neither.
    """
    names = frozenset(allowed)
    patterns = [_pattern(name) for name in names]
    return [
        layer
        for layer in layers
        if layer.got != layer.asked
        and layer.got != UNPROVED
        and layer.node not in names
        and not any(pattern.fullmatch(layer.node) for pattern in patterns)
    ]


def require_nodes(allowed: Iterable[str], onnx_path: Path) -> None:
    """UsageError where one of ``allowed`` (see ``fallbacks``) is no compute node of the typed ONNX."""
    names = [node.name for node in compute_nodes(load_onnx(onnx_path))] if allowed else []
    for name in allowed:
        pattern = _pattern(name)
        if name not in names and not any(map(pattern.fullmatch, names)):
            like = names[0] if names else ""
            raise UsageError(f"`allow_fallback` {name}: matches no node of the graph; its nodes have names like {like}")


def _pattern(name: str) -> re.Pattern[str]:
    try:
        return re.compile(name)
    except re.error as exc:
        raise UsageError(f"`allow_fallback` {name}: is not a regular expression ({exc}); give a node's name") from exc


def describe_fallback(layer: LayerPrecision) -> str:
    """One line for people: the node, the requested and the achieved precision, and the reason as far as known."""
    if layer.got == UNKNOWN:
        why = "the builder's report does not name it"
    elif layer.asked in _STORED:
        why = f"the plan does not hold its weight in {_STORED[layer.asked]}, or its product is not float16"
    elif layer.asked in ("int8", "fp8"):
        why = f"TensorRT has no {layer.asked} kernel for this {layer.op} and converts its operands to {layer.got} first"
    else:
        why = "the builder chose another type"
    return f"{layer.node} ({layer.op}) requested {layer.asked}, achieved {layer.got}: {why}"


def unproved_in(layers: Iterable[LayerPrecision]) -> list[LayerPrecision]:
    """The layers inside a region, about whose precision the report is silent."""
    return [layer for layer in layers if layer.got == UNPROVED]


def proof_notes(achieved: Mapping[str, Sequence[LayerPrecision]]) -> list[str]:
    """Notes about the layers of each plan that are not proved, or were allowed another precision."""
    unproved = [describe_unproved(file, layers) for file, layers in achieved.items() if unproved_in(layers)]
    accepted = [layer for layers in achieved.values() for layer in fallbacks(layers)]
    return [*unproved, *(f"allowed fallback: {describe_fallback(layer)}" for layer in accepted)]


def describe_unproved(file: str, layers: Iterable[LayerPrecision]) -> str:
    """The note about the unproved layers of the plan ``file``."""
    unproved = unproved_in(layers)
    return (
        f"{file}: the precision of {len(unproved)} layers is not proved: TensorRT compiled them as one region "
        f"({unproved[0].engine_layer[:60]}) and reports no types inside it; its networks are strongly typed, and its "
        "answers are compared with the CPU's when the plan is first loaded"
    )
