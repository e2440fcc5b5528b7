"""Small graphs before and after insert_qdq, and what is in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from alexnet_deploy.onnx_graph.onnx_file import initializers
from alexnet_deploy.precision.qdq import insert_qdq, quantizable
from alexnet_deploy.precision.types import QuantizedType
from tests.helpers.models.graphs import graph_model


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def model_of(body: str, shape: str, **weights: Any) -> onnx.ModelProto:
    """A graph from ``x`` (float32, ``shape``) to ``y``, of the same rank."""
    free = ",".join(["N", *["d"] * shape.count(",")])
    floats = {name: np.asarray(values, np.float32) for name, values in weights.items()}
    model = graph_model(f"(float[{shape}] x) => (float[{free}] y)", body, **floats)
    return onnx.shape_inference.infer_shapes(model)


def conv_model(channels: int, weight: NDArray[Any]) -> onnx.ModelProto:
    return model_of("y = Conv (x, w)", f"N,{channels},2,2", w=weight)


def quantised(model: onnx.ModelProto, dtype: QuantizedType = "int8", largest: float = 2.0) -> onnx.ModelProto:
    """The model after insert_qdq, with ``largest`` for every activation; it passes the full check."""
    nodes = quantizable(model, dtype)
    insert_qdq(model, nodes, {node.input[0]: largest for node in nodes}, dtype)
    onnx.checker.check_model(model, full_check=True)
    return model


def nodes_of(model: onnx.ModelProto, op: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == op]


def inputs_of(model: onnx.ModelProto, name: str) -> list[str]:
    """What the node that makes ``name`` reads."""
    return next([*node.input] for node in model.graph.node if name in node.output)


def array(model: onnx.ModelProto, name: str) -> NDArray[Any]:
    return np.asarray(numpy_helper.to_array(initializers(model)[name]))
