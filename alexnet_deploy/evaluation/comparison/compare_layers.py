"""How two ONNX graphs of one network differ, layer by layer.

Both run in ONNX Runtime with its basic optimisations only. These compute Q/DQ and float16 casts in float32, as the ONNX
standard defines them, and fuse no kernels: every layer has an output to compare.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph.layers import products_before_bias
from alexnet_deploy.onnx_graph.onnx_file import layer_of, load_onnx
from alexnet_deploy.onnx_graph.taps import TensorSession

# Legend: N batch, H height, W width, C channel (RGB)

_NOT_COMPARED = frozenset((
    # Not layers of the network: only one of the two graphs has them.
    "Cast", "QuantizeLinear", "DequantizeLinear",
    # The output of these is their input.
    "Dropout", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """How far the output of one layer in graph B differs from that in graph A, over all images.

    ``sqnr_db`` is 10 log10(sum a² / sum (a - b)²): infinite if both are equal, NaN if one is not finite.
    """

    layer: str
    op: str
    sqnr_db: float
    cosine: float
    max_abs: float
    mean_abs: float


class ErrorSums:
    """Running sums over pairs of tensors: memory does not grow with the number of images."""

    def __init__(self) -> None:
        self.count = 0
        self.max_abs = 0.0
        self._abs = self._aa = self._bb = self._ab = self._dd = 0.0

    def add(self, a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> None:
        """Add two arrays of one shape."""
        x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        with np.errstate(invalid="ignore"):  # infinity - infinity is NaN, and NaN is the result
            d = x - y
        self.max_abs = float(np.maximum(self.max_abs, np.abs(d).max(initial=0.0)))
        self.count += len(x)
        self._abs += float(np.abs(d).sum())
        self._aa, self._bb, self._ab, self._dd = (
            total + float(u @ v)
            for total, u, v in zip((self._aa, self._bb, self._ab, self._dd), (x, y, x, d), (x, y, y, d), strict=True)
        )

    @property
    def mean_abs(self) -> float:
        """Mean absolute difference."""
        return self._abs / max(self.count, 1)

    @property
    def sqnr_db(self) -> float:
        """Ratio of the signal (the first of each pair) to the noise (the difference), in dB."""
        if self._dd == 0:
            return math.inf
        ratio = self._aa / self._dd
        return 10 * math.log10(ratio) if ratio > 0 else -math.inf if ratio == 0 else math.nan

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two; 1 if both are 0."""
        length = math.sqrt(self._aa * self._bb)
        return self._ab / length if length else float(self._aa == self._bb)


def compare_layers(onnx_a: Path, onnx_b: Path, pixels: Iterable[NDArray[np.uint8]]) -> list[LayerDifference]:
    """Compare the layers of two graphs on the same ``pixels`` ``[N, H, W, 3]``, in the order of graph A.

    A layer of B is the node with the same operator and name, or else the one with the same operator whose output tensor
    has the same name: the precision transforms of this package keep both, except for the tensor before the last cast of
    a float16 graph. A Gemm is also found where int4 has made a MatMul and an Add of it. Nodes that only move or cast
    numbers are not compared. Memory holds the tensors of one batch, twice.

    Raises InputError if the graphs have no layer in common, or a layer has different shapes.
    """
    model_a, model_b = load_onnx(onnx_a), load_onnx(onnx_b)
    pairs = list(_common_layers(model_a, model_b))
    if not pairs:
        raise InputError(f"{onnx_a} and {onnx_b} have no layer in common; compare two builds of one model")
    a = TensorSession(model_a, [name for _, name, _ in pairs], source=str(onnx_a))
    b = TensorSession(model_b, [name for _, _, name in pairs], source=str(onnx_b))
    errors = [ErrorSums() for _ in pairs]
    for pixels_NHWC in pixels:
        values_a, values_b = a(pixels_NHWC), b(pixels_NHWC)
        for (node, name_a, name_b), error in zip(pairs, errors, strict=True):
            x, y = values_a[name_a], values_b[name_b]
            if x.shape != y.shape:
                raise InputError(
                    f"{onnx_a} and {onnx_b}: layer {node.name} has shapes {list(x.shape)} and {list(y.shape)}; "
                    "compare two builds of one model"
                )
            if np.issubdtype(x.dtype, np.floating) and np.issubdtype(y.dtype, np.floating):
                error.add(x, y)
    return [
        LayerDifference(layer_of(node), node.op_type, e.sqnr_db, e.cosine, e.max_abs, e.mean_abs)
        for (node, _, _), e in zip(pairs, errors, strict=True)
        if e.count
    ]


def _common_layers(model_a: onnx.ModelProto, model_b: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, str, str]]:
    """Yield each layer of A with the names of its output tensor in A and in B."""
    layers_b = list(_layers(model_b))
    by_output = {(op, tensor): tensor for op, _, tensor in layers_b}
    by_name = {(op, node.name): tensor for op, node, tensor in layers_b if node.name}
    for op, node, tensor in _layers(model_a):
        other = by_name.get((op, node.name)) or by_output.get((op, tensor))
        if other is not None:
            yield node, tensor, other


def _layers(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.NodeProto, str]]:
    """Yield the operator (MatMul for a Gemm), the node and the output tensor of each layer."""
    products = products_before_bias(model.graph)
    inside = {product.output[0] for product in products.values()}
    for node in model.graph.node:
        tensor = node.output[0]
        if node.op_type not in _NOT_COMPARED and tensor not in inside:
            layer = products.get(tensor, node)
            yield "MatMul" if layer.op_type == "Gemm" else layer.op_type, layer, tensor
