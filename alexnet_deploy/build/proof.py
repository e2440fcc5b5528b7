"""Whether each layer got the precision that the ONNX requests, from the graph and the builder's own report.

The report names every fused layer of the engine, the types of its inputs and, in its metadata, the ONNX nodes that it
came from. TensorRT-RTX logs the report while it builds, so the proof needs no GPU.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
}
_REPORT_TYPES = (
    ("bf16", re.compile(r"BF16|BFloat16", re.I)),
    ("fp8", re.compile(r"FP8", re.I)),
    ("int8", re.compile(r"(?<!u)int8", re.I)),
    ("fp16", re.compile(r"Half|FP16", re.I)),
    ("fp32", re.compile(r"Float|FP32", re.I)),
)
_WIDEST_FIRST = ("fp32", "fp16", "bf16", "fp8", "int8")

_LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w*), Inputs: (?P<inputs>\[.*?\]), Constants: (?P<constants>\[.*?\]), "
    r"Outputs: \[.*\].*?, Metadata: (?P<metadata>.*)"
)
_TENSOR = re.compile(r"Dimensions: \[(?P<dims>[^\]]*)\].*?Datatype: (?P<type>\w+)")
_NODE = re.compile(r"\[ONNX Layer: (.*?)(?: \| .*?)?\]")


@dataclass(frozen=True, slots=True)
class ComputeNode:
    """One of ``COMPUTE_OPS`` in the typed ONNX and the precision it requests; ``weights``: elements of its weight."""

    name: str
    op: str
    precision: str
    weights: int


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

    A node requests int8 or fp8 if both its operands come from a DequantizeLinear of that type, else the float type of
    its operands.
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
            # TensorRT's ONNX parser gives a nameless node this name.
            name = node.name or f"node_of_{node.output[0]}"
            found.append(ComputeNode(name, node.op_type, precision, size(node.input[1])))
    return found


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
    return tuple(_achieved(node, [layer for layer in layers if node.name in layer.nodes]) for node in nodes)


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
    elif layer.asked in ("int8", "fp8"):
        why = f"TensorRT has no {layer.asked} kernel for this {layer.op} and converts its operands to {layer.got} first"
    else:
        why = "the builder chose another type"
    return f"{layer.node} ({layer.op}) requested {layer.asked}, achieved {layer.got}: {why}"
