"""Where two ONNX graphs of one network part: their tensors side by side, layer by layer.

Runs in ONNX Runtime with its basic optimisations only, which compute Q/DQ and float16 casts as the ONNX standard
defines them, in float32: no fused kernel stands between a layer and its output.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph.onnx_file import fixed_batch, graph_inputs, layer_of, load_onnx

# Legend: N batch, H height, W width, C channel (RGB)

_PASSED_OVER = frozenset((
    # What sets the graphs apart is no layer of the network.
    "Cast", "QuantizeLinear", "DequantizeLinear",
    # These give the same numbers again.
    "Dropout", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """How far one layer's output in graph B is from that in graph A, over all images.

    ``sqnr_db`` is 10 log10(sum a² / sum (a - b)²): infinite where the two are equal, NaN where one is not finite.
    """

    layer: str
    op: str
    sqnr_db: float
    cosine: float
    max_abs: float
    mean_abs: float


class Errors:
    """Running sums over pairs of tensors: memory does not grow with the images."""

    def __init__(self) -> None:
        self.count = 0
        self.max_abs = 0.0
        self._abs = self._aa = self._bb = self._ab = self._dd = 0.0

    def add(self, a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> None:
        """Take in two arrays of one shape."""
        x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        with np.errstate(invalid="ignore"):  # infinity - infinity: the NaN that it gives is the answer
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
        """Signal (the first of each pair) to noise (the difference), in dB."""
        if self._dd == 0:
            return math.inf
        ratio = self._aa / self._dd
        return 10 * math.log10(ratio) if ratio > 0 else -math.inf if ratio == 0 else math.nan

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two; 1 where both are 0."""
        length = math.sqrt(self._aa * self._bb)
        return self._ab / length if length else float(self._aa == self._bb)


class Tapped:
    """A model in ONNX Runtime that gives the values of any of its tensors, computed as the standard says."""

    def __init__(self, model: onnx.ModelProto, tensors: Sequence[str], *, source: str) -> None:
        """``model`` is used up: its outputs become ``tensors``. ``source`` names it in an InputError."""
        self._tensors = list(tensors)
        self._source = source
        self._fixed = fixed_batch(model)
        self._feed = graph_inputs(model)[0].name
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
        options = ort.SessionOptions()
        options.log_severity_level = 4  # its errors are raised, and told in one line
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        with TemporaryDirectory() as folder:  # a file: as bytes a large model would be in memory once more
            path = Path(folder) / "tapped.onnx"
            onnx.save(model, path)
            try:
                self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            except Exception as exc:  # its exceptions share no public base
                raise InputError(f"{source}: ONNX Runtime refuses it ({_reason(exc)}); export it without that") from exc

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Each tensor's values for uint8 RGB pixels ``[N, H, W, 3]``, N any; a fixed batch is split and filled."""
        size = self._fixed or len(pixels_NHWC)
        parts = [self._run(pixels_NHWC[i : i + size], size) for i in range(0, len(pixels_NHWC), size)]
        return {
            name: np.concatenate(values) for name, values in zip(self._tensors, zip(*parts, strict=True), strict=True)
        }

    def _run(self, pixels_NHWC: NDArray[np.uint8], size: int) -> list[NDArray[Any]]:
        count = len(pixels_NHWC)
        if count < size:
            pixels_NHWC = np.concatenate([pixels_NHWC, np.repeat(pixels_NHWC[-1:], size - count, axis=0)])
        try:
            values = self._session.run(self._tensors, {self._feed: pixels_NHWC})
        except Exception as exc:
            raise InputError(
                f"{self._source}: fails on pixels {pixels_NHWC.shape} ({_reason(exc)}); export it for that batch size"
            ) from exc
        return [value[:count] if count < size else value for value in values]


def compare_layers(onnx_a: Path, onnx_b: Path, pixels: Iterable[NDArray[np.uint8]]) -> list[LayerDifference]:
    """Compare what the layers of two graphs give for the same ``pixels`` ``[N, H, W, 3]``, in the order of graph A.

    A layer of B is the node of the same operator and name, else the one whose output tensor has the same name: the
    precision transforms here keep both, but for the tensor before a float16 graph's last cast. What only moves or
    casts numbers is passed over. Memory is one batch's tensors, twice.

    Raises InputError where the graphs have no layer in common, or one that gives another shape.
    """
    model_a, model_b = load_onnx(onnx_a), load_onnx(onnx_b)
    pairs = list(_common_layers(model_a, model_b))
    if not pairs:
        raise InputError(f"{onnx_a} and {onnx_b} have no layer in common; compare two builds of one model")
    a = Tapped(model_a, list(dict.fromkeys(node.output[0] for node, _ in pairs)), source=str(onnx_a))
    b = Tapped(model_b, list(dict.fromkeys(name for _, name in pairs)), source=str(onnx_b))
    errors = [Errors() for _ in pairs]
    for pixels_NHWC in pixels:
        values_a, values_b = a(pixels_NHWC), b(pixels_NHWC)
        for (node, name_b), error in zip(pairs, errors, strict=True):
            x, y = values_a[node.output[0]], values_b[name_b]
            if x.shape != y.shape:
                raise InputError(
                    f"{onnx_a} and {onnx_b}: layer {node.name} gives {list(x.shape)} and {list(y.shape)}; "
                    "compare two builds of one model"
                )
            if np.issubdtype(x.dtype, np.floating) and np.issubdtype(y.dtype, np.floating):
                error.add(x, y)
    return [
        LayerDifference(layer_of(node), node.op_type, e.sqnr_db, e.cosine, e.max_abs, e.mean_abs)
        for (node, _), e in zip(pairs, errors, strict=True)
        if e.count
    ]


def _common_layers(model_a: onnx.ModelProto, model_b: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Each layer of A with the name of its output tensor in B."""
    by_output = {(node.op_type, node.output[0]): node.output[0] for node in model_b.graph.node}
    by_name = {(node.op_type, node.name): node.output[0] for node in model_b.graph.node if node.name}
    for node in model_a.graph.node:
        if node.op_type not in _PASSED_OVER:
            other = by_name.get((node.op_type, node.name)) or by_output.get((node.op_type, node.output[0]))
            if other is not None:
                yield node, other


def _reason(exc: Exception) -> str:
    return " ".join(str(exc).split())[:300]
