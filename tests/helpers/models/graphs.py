"""Small ONNX graphs written in ONNX's text form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper, parser


def graph_model(
    signature: str, body: str | Iterable[onnx.NodeProto], *, opset: int = 21, **weights: Any
) -> onnx.ModelProto:
    """A model, such as ``graph_model("(float[N,3] x) => (float[N,d] y)", "a = Relu (x); y = MatMul (a, w)", w=...)``.

    Nodes without a name get that of their first output.
    """
    if isinstance(body, str):
        body = [parser.parse_node(text.strip()) for text in body.split(";")]
    graph = parser.parse_graph(f"g {signature} {{}}")
    graph.node.extend(body)
    for node in graph.node:
        node.name = node.name or node.output[0]
    graph.initializer.extend(numpy_helper.from_array(np.asarray(values), name) for name, values in weights.items())
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def run_graph(model: onnx.ModelProto, *, basic: bool = False, **feeds: NDArray[Any]) -> list[NDArray[Any]]:
    """All outputs in ONNX Runtime; with ``basic`` optimisations alone, because the others compute fp8 wrongly."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # no warnings
    if basic:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: list[NDArray[Any]] = session.run(None, feeds)
    return results
