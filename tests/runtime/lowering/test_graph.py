"""What ONNX Runtime opens for a quantised engine: the same answers, with no weight that is dequantised per call."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest

from alexnet_deploy.contract import Precision
from alexnet_deploy.onnx_graph.onnx_file import save_onnx
from alexnet_deploy.precision.fp16 import cast_to_float16
from alexnet_deploy.precision.types import float_type, quantized_type
from alexnet_deploy.runtime.lowering.graph import graph_for_cpu
from alexnet_deploy.runtime.onnxruntime.runner import model_for_cpu
from tests.runtime.lowering.integer_graphs import BATCH, CHANNELS, SIDE, Network, integer_layers, quantised, run

IMAGES = np.random.default_rng(0).normal(0, 1, (BATCH, CHANNELS, SIDE, SIDE)).astype(np.float32)


def typed(precision: Precision, blocks: tuple[str, ...] = ("relu", "pool", "conv", "relu")) -> onnx.ModelProto:
    network = Network(6)
    network.conv()
    for block in blocks:
        network.block(block)
    model = network.model(hidden=True)
    dtype = quantized_type(precision)
    if dtype is not None:
        quantised(model, network.rng, dtype)
    return cast_to_float16(model) if float_type(precision) == "fp16" else model


def opened(model: onnx.ModelProto, precision: Precision, folder: Path) -> onnx.ModelProto:
    found = graph_for_cpu(save_onnx(model, folder / "model.onnx"), precision)
    assert found is not None
    return onnx.ModelProto.FromString(found)


@pytest.mark.parametrize("precision", ["int8", "int8+fp16"])
def test_every_layer_of_an_int8_engine_is_computed_in_integers(precision: Precision, tmp_path: Path) -> None:
    model = typed(precision)
    found = opened(model, precision, tmp_path)
    assert len(integer_layers(found)) == 4
    written = run(model, IMAGES, "ORT_ENABLE_BASIC")
    # Where numbers are rounded elsewhere, they fall on neighbouring steps, as runtime/reference.py allows.
    assert np.abs(run(found, IMAGES, "ORT_ENABLE_ALL") - written).max() <= 0.1 * np.ptp(written)


@pytest.mark.parametrize("precision", ["fp8", "fp8+fp16"])
def test_the_weights_of_an_fp8_engine_are_dequantised_once(precision: Precision, tmp_path: Path) -> None:
    model = typed(precision)
    found = opened(model, precision, tmp_path)
    layers = [node for node in found.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    types = {tensor.name: tensor.data_type for tensor in found.graph.initializer}
    assert [types[node.input[1]] for node in layers] == [onnx.TensorProto.FLOAT] * 4
    kinds = [node.op_type for node in found.graph.node]
    assert kinds.count("DequantizeLinear") == kinds.count("QuantizeLinear") > 0  # activations are still float8
    written = run(model, IMAGES, "ORT_ENABLE_BASIC")
    # Sums in another order, or not rounded to float16, can fall on a neighbouring number of float8, 6 % away.
    assert np.abs(run(found, IMAGES, "ORT_ENABLE_BASIC") - written).max() <= 0.1 * np.ptp(written)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_float_engine_is_opened_as_its_file(precision: Precision, tmp_path: Path) -> None:
    path = save_onnx(typed(precision), tmp_path / "model.onnx")
    assert model_for_cpu(path, precision) == path


def test_a_graph_without_quantised_layers_stays(tmp_path: Path) -> None:
    path = save_onnx(typed("fp32"), tmp_path / "model.onnx")
    assert graph_for_cpu(path, "int8") is None


def test_what_is_computed_in_which_type_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "alexnet_deploy"):
        opened(typed("int8+fp16", ("relu", "lrn", "conv", "relu")), "int8+fp16", tmp_path)
    path = tmp_path / "model.onnx"
    assert caplog.messages == [
        f"{path}: its float16 parts are computed in float32",
        f"{path}: ONNX Runtime computes 3 layers in integers",
        f"{path}: t0 stays in float32: Relu reads it before it is quantised again",
        f"{path}: the pixels are normalised as the file says: its input is not one tensor of pixels of known size",
    ]
