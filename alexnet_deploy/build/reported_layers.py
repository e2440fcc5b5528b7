"""The layers of an engine, as the builder or the engine inspector reports them.

The report names every fused layer of the engine, the types of its inputs and, in its metadata, the ONNX nodes that it
came from. TensorRT-RTX logs the report while it builds, so it needs no GPU.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

UNKNOWN = "unknown"
"""A type that the report does not say, and ``got`` of a node that is missing from it."""

_REPORT_TYPES = (
    ("bf16", re.compile(r"BF16|BFloat16", re.I)),
    ("fp8", re.compile(r"FP8", re.I)),
    ("int8", re.compile(r"(?<!u)int8", re.I)),
    ("int4", re.compile(r"(?<!u)int4", re.I)),
    ("fp16", re.compile(r"Half|FP16", re.I)),
    ("fp32", re.compile(r"Float|FP32", re.I)),
)
_LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w*), Inputs: (?P<inputs>\[.*?\]), Constants: (?P<constants>\[.*?\]), "
    r"Outputs: \[.*\].*?, Metadata: (?P<metadata>.*)"
)
_TENSOR = re.compile(r"Dimensions: \[(?P<dims>[^\]]*)\].*?Datatype: (?P<type>\w+)")
_NODE = "[ONNX Layer: "
_ENDS = re.compile(r"\]| \| ")
"""What TensorRT writes behind the name of a node; ` | ` before where it comes from, such as a function."""


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """One fused layer of an engine: the types of its inputs, and the type and size of each of its constants."""

    name: str
    kind: str
    nodes: frozenset[str]
    """The names of its ONNX nodes, and texts that may be such names."""
    inputs: tuple[str, ...]
    constants: tuple[tuple[str, int], ...]

    @property
    def is_region(self) -> bool:
        """Whether it is a whole part of the network, compiled by Myelin, of which the report says nothing inside."""
        return self.name.startswith("{ForeignNode[") or self.kind in ("Myelin", "ForeignNode")


def layers_from_log(report: str) -> list[EngineLayer]:
    """Read the builder's VERBOSE message ``Layers:``; an empty list if it has another form."""
    layers = []
    for match in map(_LAYER.fullmatch, report.splitlines()):
        if match is not None:
            layers.append(
                EngineLayer(
                    name=match["name"],
                    kind=match["kind"],
                    nodes=_nodes(match["metadata"]),
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
                nodes=_nodes(raw.get("Metadata", "")),
                inputs=tuple(
                    _report_type(str(t.get("Datatype") or t.get("Format/Datatype", ""))) for t in raw.get("Inputs", ())
                ),
                constants=tuple((_report_type(kind), count) for kind, count in constants),
            )
        )
    return layers


def _nodes(metadata: str) -> frozenset[str]:
    """The names in ``metadata``. One may hold one of ``_ENDS`` itself, so the text up to each of them may be a name."""
    return frozenset(text[: end.start()] for text in metadata.split(_NODE)[1:] for end in _ENDS.finditer(text))


def _report_type(text: str) -> str:
    return next((name for name, pattern in _REPORT_TYPES if pattern.search(text)), UNKNOWN)
