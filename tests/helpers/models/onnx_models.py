"""Small ONNX graphs in the forms that the tests of building and of precision need, made node by node."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, set_contract

SIDE, CLASSES = 32, 10
"""Of ``tiny_classifier``."""
_LABELS = tuple(f"class {k}" for k in range(CLASSES))
TINY_CONTRACT = ModelContract("tiny", _LABELS, _LABELS, Preprocessing(SIDE, SIDE, "stretch", None))
"""Of ``tiny_classifier``, which does not carry it; ``tiny_model`` does."""

PRECISIONS = ("fp32", "fp16", "int8", "int8+fp16", "fp8")


class Graph:
    """Nodes and weights in the order in which they are added; every method returns the name of a tensor.

    ``fp16`` makes every float of the graph a float16, as a converter would.
    """

    def __init__(self, *, fp16: bool = False) -> None:
        self.float = np.float16 if fp16 else np.float32
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self._random = np.random.default_rng(0)

    def constant(self, values: NDArray[Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(self._random.normal(0, 0.1, shape).astype(self.float))

    def node(self, op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        label = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op, inputs, [f"{label}_out"], name=label if name is None else name, **attributes)
        )
        return f"{label}_out"

    def quantised(self, tensor: str, kind: str = "int8") -> str:
        """``tensor`` through a QuantizeLinear/DequantizeLinear pair of type ``kind`` ("int8" or "fp8")."""
        scale = self.constant(np.array(0.05, self.float))
        zero = f"w{len(self.weights)}"
        element = TensorProto.INT8 if kind == "int8" else TensorProto.FLOAT8E4M3FN
        self.weights.append(helper.make_tensor(zero, element, [], [0]))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", tensor, scale, zero), scale, zero)

    def save(
        self, output: str, path: Path, shape: list[int | str], kind: int = TensorProto.FLOAT, **options: Any
    ) -> Path:
        """Write the graph with input ``pixels`` (of ``kind``) and output ``logits``, one axis after the batch."""
        self.nodes.append(helper.make_node("Identity", [output], ["logits"], name="logits"))
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("pixels", kind, shape)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [shape[0], None])],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.save(model, path, **options)
        return path


def tiny_classifier(
    path: Path, precision: str = "fp32", *, batch: int | str = "N", side: int | str = SIDE, **options: Any
) -> Path:
    """uint8 ``pixels`` [batch, side, side, 3] -> ``logits`` [batch, CLASSES]: three convolutions and two Gemms."""
    g = Graph(fp16="fp16" in precision)
    quantisation = "int8" if "int8" in precision else "fp8" if "fp8" in precision else None

    def q(tensor: str) -> str:
        return g.quantised(tensor, quantisation) if quantisation else tensor

    x = g.node("Cast", "pixels", to=helper.np_dtype_to_tensor_dtype(np.dtype(g.float)))
    x = g.node("Mul", g.node("Transpose", x, perm=[0, 3, 1, 2]), g.constant(np.array(1 / 128, g.float)))
    for channels_in, channels in ((3, 16), (16, 32), (32, 32)):
        x = g.node("Conv", q(x), q(g.weight(channels, channels_in, 3, 3)), g.weight(channels), pads=[1] * 4)
        x = g.node("MaxPool", g.node("Relu", x), kernel_shape=[2, 2], strides=[2, 2])
    x = g.node("Flatten", x)
    for features_in, features in ((32 * (SIDE // 8) ** 2, 32), (32, CLASSES)):
        x = g.node("Gemm", q(x), q(g.weight(features, features_in)), g.weight(features), transB=1)
    return g.save(g.node("Cast", x, to=TensorProto.FLOAT), path, [batch, side, side, 3], TensorProto.UINT8, **options)


def pooled_model(path: Path) -> Path:
    """A net of our form whose AveragePool OpenVINO computes with other divisors at the border; the others do not."""
    g = Graph()
    x = g.node("Cast", "pixels", to=TensorProto.FLOAT)
    x = g.node("Mul", g.node("Transpose", x, perm=[0, 3, 1, 2]), g.constant(np.array(1 / 128, np.float32)))
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "ceil_mode": 1, "count_include_pad": 1}
    x = g.node("Flatten", g.node("AveragePool", x, **pool))
    g.save(g.node("Gemm", x, g.weight(CLASSES, 3 * 17 * 17), transB=1), path, ["N", SIDE, SIDE, 3], TensorProto.UINT8)
    return with_contract(path)


def small_scales(path: Path) -> Path:
    """An int8+fp16 net in which the product of the scales of input and weights is below what float16 can hold."""
    g = Graph(fp16=True)
    x = g.node("Mul", g.node("Cast", "pixels", to=TensorProto.FLOAT16), g.constant(np.array(1 / 4096, np.float16)))
    x = g.node("Transpose", x, perm=[0, 3, 1, 2])
    scale = g.constant(np.array(1e-3, np.float16))
    x = g.node("DequantizeLinear", g.node("QuantizeLinear", x, scale), scale)
    weight = np.random.default_rng(0).integers(-127, 128, (8, 3, 3, 3)).astype(np.int8)
    weight_scale = g.constant(np.array(2e-5, np.float16))
    zero = g.constant(np.array(0, np.int8))
    weights = g.node("DequantizeLinear", g.constant(weight), weight_scale, zero)
    x = g.node("Conv", x, weights, g.weight(8), pads=[1] * 4)
    step = g.constant(np.array(0.01, np.float16))
    x = g.node("DequantizeLinear", g.node("QuantizeLinear", x, step, zero), step, zero)
    x = g.node("Flatten", g.node("GlobalAveragePool", x))
    x = g.node("Gemm", x, g.weight(CLASSES, 8), g.weight(CLASSES), transB=1)
    return g.save(g.node("Cast", x, to=TensorProto.FLOAT), path, ["N", SIDE, SIDE, 3], TensorProto.UINT8)


def large_sums(path: Path) -> Path:
    """An int8 net whose products are as large as bytes allow: two of them exceed 16 bits."""
    g = Graph()
    x = g.node("Transpose", g.node("Cast", "pixels", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    one, zero = g.constant(np.array(1, np.float32)), g.constant(np.array(0, np.uint8))
    x = g.node("DequantizeLinear", g.node("QuantizeLinear", x, one, zero), one, zero)
    weight_scale, weight_zero = g.constant(np.array(1e-3, np.float32)), g.constant(np.array(0, np.int8))
    weight = g.constant(np.full((8, 3, 3, 3), 127, np.int8))
    x = g.node("Conv", x, g.node("DequantizeLinear", weight, weight_scale, weight_zero), pads=[1] * 4)
    step = g.constant(np.array(4, np.float32))
    x = g.node("DequantizeLinear", g.node("QuantizeLinear", x, step, zero), step, zero)
    x = g.node("Flatten", g.node("GlobalAveragePool", x))
    x = g.node("Gemm", x, g.weight(CLASSES, 8), g.weight(CLASSES), transB=1)
    return g.save(x, path, ["N", SIDE, SIDE, 3], TensorProto.UINT8)


def with_contract(path: Path) -> Path:
    """Add ``TINY_CONTRACT`` and the number of its classes to a file of ``Graph.save``."""
    model = load_onnx(path)
    set_contract(model, TINY_CONTRACT)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = CLASSES
    onnx.save(model, path)
    return path


def tiny_model(path: Path, precision: str = "fp32", **options: Any) -> Path:
    """``tiny_classifier`` as our export leaves it: with its contract and the number of its classes."""
    return with_contract(tiny_classifier(path, precision, **options))


def tiny_engine(path: Path, precision: str = "fp32", **options: Any) -> Engine:
    """``tiny_classifier`` as an engine without plans."""
    return Engine("tiny", tiny_classifier(path, precision, **options), TINY_CONTRACT, precision, None)


def named_engine(folder: Path, precision: str = "fp32", *, batch: int | str = "N") -> Engine:
    """``tiny_model`` with its nodes named as our export does: ``conv.0/Conv`` of module ``conv.0``."""
    path = tiny_model(folder / f"{precision}.onnx", precision, batch=batch)
    model = load_onnx(path)
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        if not node.op_type.endswith("QuantizeLinear") and node.op_type != "DequantizeLinear":
            node.name = f"{node.op_type.lower()}.{seen[node.op_type]}/{node.op_type}"
            seen[node.op_type] += 1
    onnx.save(model, path)
    return Engine(f"tiny-{precision}", path, TINY_CONTRACT, precision, None)


def weights_beside(path: Path, scale: float = 1.0) -> Path:
    """``tiny_model`` with its weights, times ``scale``, in ``NAME.data``: the ONNX has the same bytes for any scale."""
    model = onnx.load(tiny_model(path))
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array((values * scale).astype(values.dtype), tensor.name))
    data = path.with_suffix(".data")
    data.unlink(missing_ok=True)  # onnx would append to it
    onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=0)
    return path
