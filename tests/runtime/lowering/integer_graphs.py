"""Random networks, and how ONNX Runtime runs them: the numbers by level of optimisation, and what it fused."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from alexnet_deploy.machine.onnx_session import open_session
from alexnet_deploy.precision.qdq import insert_qdq, quantizable
from alexnet_deploy.precision.types import QuantizedType
from alexnet_deploy.runtime.onnxruntime.runner import session_options
from tests.helpers.models.graphs import graph_model

CHANNELS, SIDE, BATCH = 4, 9, 3


class Network:
    """A graph that grows at its end, with the side of its pictures; weights are drawn."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[str] = []
        self.weights: dict[str, NDArray[Any] | np.generic] = {}
        self.x, self.side = "x", SIDE

    def add(self, text: str) -> str:
        """A node such as ``Relu ({x})``; its output is the new end."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(f"{name} = {text.format(x=self.x)}")
        self.x = name
        return name

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = self.rng.normal(0, 0.5, shape).astype(np.float32)
        return name

    def conv(self, groups: int = 1, bias: bool = True) -> str:
        operands = [self.weight(CHANNELS, CHANNELS // groups, 3, 3), *([self.weight(CHANNELS)] if bias else [])]
        return self.add(f"Conv<pads=[1,1,1,1], group={groups}>({{x}}, {', '.join(operands)})")

    def block(self, kind: str) -> None:
        before = self.x
        if kind == "relu":
            self.add("Relu({x})")
        elif kind in ("relu6", "clip"):
            self.weights |= {"low": np.float32(0), "high": np.float32(1.3), "lower": np.float32(-0.7)}
            self.add(f"Clip({{x}}, {'low' if kind == 'relu6' else 'lower'}, high)")
        elif kind == "conv":
            self.conv()
        elif kind == "groups":
            self.conv(groups=2, bias=False)
        elif kind == "pool" and self.side > 3:
            self.add("MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>({x})")
            self.side = (self.side - 1) // 2 + 1
        elif kind == "ceil" and self.side > 3:
            self.add("MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>({x})")
            self.side = -(-self.side // 2)
        elif kind == "lrn":
            self.add("LRN<size=3>({x})")
        elif kind == "turn":
            self.add("Transpose<perm=[0,1,3,2]>({x})")
        elif kind == "residual":
            self.conv()
            self.add(f"Add({{x}}, {before})")
        elif kind == "branches":
            first = self.conv()
            self.x = before
            self.conv()
            self.add(f"Add({{x}}, {first})")

    def model(self, *, hidden: bool) -> onnx.ModelProto:
        self.add("Flatten({x})")
        size = CHANNELS * self.side**2
        if hidden:
            self.add(f"Gemm<transB=1>({{x}}, {self.weight(8, size)}, {self.weight(8)})")
            self.add("Relu({x})")
            size = 8
        self.add(f"MatMul({{x}}, {self.weight(size, 5)})")
        signature = f"(float[N,{CHANNELS},{SIDE},{SIDE}] x) => (float[N,5] {self.x})"
        return graph_model(signature, "; ".join(self.nodes), **self.weights)


def quantised(model: onnx.ModelProto, rng: np.random.Generator, dtype: QuantizedType = "int8") -> onnx.ModelProto:
    nodes = quantizable(model, dtype)
    # Some ranges are too small for their values, so that both ends of int8 are reached.
    insert_qdq(model, nodes, {node.input[0]: float(rng.uniform(0.5, 6)) for node in nodes}, dtype)
    return model


def run(model: onnx.ModelProto, images: NDArray[Any], level: str) -> NDArray[Any]:
    options = session_options("int8")
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    session = open_session(model.SerializeToString(), options)
    (found,) = session.run(None, {session.get_inputs()[0].name: images})
    return np.asarray(found)


INTEGER = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat")


def integer_layers(model: onnx.ModelProto) -> list[str]:
    """The operators with which ONNX Runtime multiplies integers once it has optimised ``model``."""
    with TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        open_session(model.SerializeToString(), options)
        graph = onnx.load(Path(folder) / "optimised.onnx").graph
    return [node.op_type for node in graph.node if node.op_type in INTEGER]
