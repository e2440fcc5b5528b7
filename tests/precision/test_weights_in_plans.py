"""Weights alone in TensorRT: layers whose weight has one scale, and layers that share a weight, get their precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.contract import Precision
from alexnet_deploy.precision.qdq import quantizable
from alexnet_deploy.precision.weights import WeightQuantiser
from tests.helpers.models.bundles import build_bundle
from tests.helpers.models.graphs import graph_model, run_graph

SIDE = 32
OPTIONS = ImportOptions((0.5,), (0.25,))


def save(path: Path, body: str, **shapes: tuple[int, ...]) -> Path:
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32) for name, shape in shapes.items()
    }
    onnx.save(graph_model(f"(float[N,3,{SIDE},{SIDE}] x) => (float[N,5] y)", body, **weights), path)
    return path


def achieved(path: Path, precision: Precision, out: Path) -> list[str]:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra 'rtx'")
    made = build_bundle(path, out, precision, import_options=OPTIONS)
    (layers,) = made.achieved.values()
    return [layer.got for layer in layers]


@pytest.mark.parametrize("inputs", [16, 128, 129])
def test_a_dense_layer_with_one_output_is_int4(inputs: int, tmp_path: Path) -> None:
    """TensorRT refuses a scale of one number with int4."""
    body = "p = Conv(x, w0); f = Flatten(p); g = MatMul(f, w1); k = Mul(f, g); y = Gemm(k, w2)"
    path = save(tmp_path / "net.onnx", body, w0=(inputs, 3, SIDE, SIDE), w1=(inputs, 1), w2=(inputs, 5))
    assert achieved(path, "int4", tmp_path / "engine") == ["fp16", "int4", "int4"]


@pytest.mark.parametrize("outputs", [1, 5])
@pytest.mark.parametrize("inputs", [1, 127, 128, 300])
def test_layers_of_one_input_tensor_are_padded_each_as_it_needs(inputs: int, outputs: int) -> None:
    rng = np.random.default_rng(1)
    weights = {name: rng.normal(size=(inputs, n)).astype(np.float32) for name, n in (("v", outputs), ("w", 4))}
    model = graph_model(
        f"(float[3,{inputs}] x) => (float[3,{outputs + 4}] y)",
        "a = MatMul(x, v); b = MatMul(x, w); y = Concat<axis=1>(a, b)",
        **weights,
    )
    x = rng.normal(size=(3, inputs)).astype(np.float32)
    (exact,) = run_graph(model, x=x)
    WeightQuantiser("int4", None).insert(model, quantizable(model, "int4"))
    onnx.checker.check_model(model, full_check=True)
    assert all(np.prod(t.dims) > 1 for t in model.graph.initializer if "scale" in t.name)
    assert all(t.dims[0] % 128 == 0 for t in model.graph.initializer if t.data_type == TensorProto.INT4)  # whole blocks
    (found,) = run_graph(model, basic=True, x=x)
    # A step is a seventh of a block's largest weight; half of it, or what the best scale clips.
    largest = max(np.abs(weight).max() for weight in weights.values())
    assert np.abs(found - exact).max() < 0.4 * largest * np.abs(x).sum(axis=1).max()


@pytest.mark.parametrize("precision", ["int8-weights", "int4"])
def test_layers_that_share_a_weight_share_its_quantised_form(precision: Precision, tmp_path: Path) -> None:
    """Of equal weights TensorRT keeps one, and its report then names only some of the layers that read it."""
    body = (
        "a = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w1); b = Relu(a); c = Conv<strides=[2,2], pads=[1,1,1,1]>(b, w1); "
        "d = Relu(c); e = Conv<strides=[4,4], pads=[1,1,1,1]>(d, w1); f = Flatten(e); g = Gemm(f, w2); h = Relu(g); "
        "i = Gemm(h, w2); k = Relu(i); y = Gemm(k, w3)"
    )
    path = save(tmp_path / "net.onnx", body, w1=(3, 3, 4, 4), w2=(12, 12), w3=(12, 5))
    convolutions = 3 * ["fp16" if precision == "int4" else precision]
    assert achieved(path, precision, tmp_path / "engine") == [*convolutions, precision, precision, precision]
    graph = onnx.load(tmp_path / "engine/model.onnx").graph
    stored = [tensor for tensor in graph.initializer if tensor.data_type in (TensorProto.INT8, TensorProto.INT4)]
    assert len(stored) == (2 if precision == "int4" else 3)
    assert all(numpy_helper.to_array(tensor).any() for tensor in stored)
