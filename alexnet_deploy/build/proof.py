"""Whether each layer got the precision that the ONNX requests, from the graph and the builder's own report.

The report names every fused layer of the engine, the types of its inputs and, in its metadata, the ONNX nodes that it
came from. TensorRT-RTX logs the report while it builds, so the proof needs no GPU.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import onnx
from onnx import TensorProto

from alexnet_deploy.bundle.manifest import LayerPrecision
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
from alexnet_deploy.onnx_graph.onnx_file import initializers

UNKNOWN = "unknown"
"""``got`` of a node that is missing from the report."""

_ONNX_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.FLOAT8E4M3FN: "fp8",
    TensorProto.INT4: "int4",
}
_REPORT_TYPES = (
    ("bf16", re.compile(r"BF16|BFloat16", re.I)),
    ("fp8", re.compile(r"FP8", re.I)),
    ("int8", re.compile(r"(?<!u)int8", re.I)),
    ("int4", re.compile(r"(?<!u)int4", re.I)),
    ("fp16", re.compile(r"Half|FP16", re.I)),
    ("fp32", re.compile(r"Float|FP32", re.I)),
)
_WIDEST_FIRST = ("fp32", "fp16", "bf16", "fp8", "int8", "int4")
_STORED = {"int8-weights": "int8", "int4": "int4"}
"""The type in which a plan holds the weight, by what a node requests for its weight alone."""

_LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w*), Inputs: (?P<inputs>\[.*?\]), Constants: (?P<constants>\[.*?\]), "
    r"Outputs: \[.*\].*?, Metadata: (?P<metadata>.*)"
)
_TENSOR = re.compile(r"Dimensions: \[(?P<dims>[^\]]*)\].*?Datatype: (?P<type>\w+)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)(?: \| .*?)?\]")


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


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """One fused layer of an engine: the types of its inputs, and the type and size of each of its constants."""

    name: str
    kind: str
    nodes: frozenset[str]
    inputs: tuple[str, ...]
    constants: tuple[tuple[str, int], ...]


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


def layers_from_log(report: str) -> list[EngineLayer]:
    """Read the builder's VERBOSE message ``Layers:``; an empty list if it has another form."""
    layers = []
    for match in map(_LAYER.fullmatch, report.splitlines()):
        if match is not None:
            layers.append(
                EngineLayer(
                    name=match["name"],
                    kind=match["kind"],
                    nodes=frozenset(_NODE.findall(match["metadata"])),
                    inputs=tuple(_report_type(t["type"]) for t in _TENSOR.finditer(match["inputs"])),
                    constants=tuple(
                        (_report_type(t["type"]), math.prod(map(int, filter(None, t["dims"].split(",")))))
                        for t in _TENSOR.finditer(match["constants"])
                    ),
                )
            )
    return layers


def layers_from_inspector(text: str) -> list[EngineLayer]:
    """Read the engine inspector's JSON: TensorRT 10 gives ``Format/Datatype`` and ``Weights``, 11 splits the first.

    https://docs.nvidia.com/deeplearning/tensorrt/11.3.0/api/migration/tensorrt-10x-to-11x-IEngineInspector.html
    """
    layers = []
    for raw in json.loads(text)["Layers"]:
        if isinstance(raw, str):
            continue  # an engine built without detailed profiling gives only names
        constants = [(str(t.get("Datatype", "")), math.prod(t["Dimensions"])) for t in raw.get("Constants", ())]
        if "Weights" in raw:
            constants.append((raw["Weights"]["Type"], raw["Weights"]["Count"]))
        layers.append(
            EngineLayer(
                name=raw["Name"],
                kind=raw.get("LayerType", ""),
                nodes=frozenset(_NODE.findall(raw.get("Metadata", ""))),
                inputs=tuple(
                    _report_type(str(t.get("Datatype") or t.get("Format/Datatype", ""))) for t in raw.get("Inputs", ())
                ),
                constants=tuple((_report_type(kind), count) for kind, count in constants),
            )
        )
    return layers


def achieved_precisions(nodes: Iterable[ComputeNode], layers: Sequence[EngineLayer]) -> tuple[LayerPrecision, ...]:
    """The precision that each node requests and the one it achieved in ``layers``."""
    found = []
    for node in nodes:
        achieved = _achieved(node, [layer for layer in layers if node.name in layer.nodes])
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


def _report_type(text: str) -> str:
    return next((name for name, pattern in _REPORT_TYPES if pattern.search(text)), UNKNOWN)


def fallbacks(layers: Iterable[LayerPrecision], allowed: Iterable[str] = ()) -> list[LayerPrecision]:
    """The layers that did not achieve the requested precision, except those in ``allowed``.

    Each of ``allowed`` is a node's name or a regular expression for whole names; UsageError if it is neither.
    """
    names = frozenset(allowed)
    patterns = []
    for name in names:
        try:
            patterns.append(re.compile(name))
        except re.error as exc:
            raise UsageError(
                f"`allow_fallback` {name}: is not a regular expression ({exc}); give a node's name"
            ) from exc
    return [
        layer
        for layer in layers
        if layer.got != layer.asked
        and layer.node not in names
        and not any(pattern.fullmatch(layer.node) for pattern in patterns)
    ]


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
