"""Where int8 kernels overflow, OpenVINO multiplies in float32, and its answers are those of the file."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest

from alexnet_deploy.adoption.adopt import adopt
from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.precision.convert import to_quantized
from alexnet_deploy.precision.types import QuantizedType
from alexnet_deploy.runtime import openvino_runner
from alexnet_deploy.runtime.onnxruntime.runner import OnnxRuntimeRunner
from alexnet_deploy.runtime.openvino_runner import OpenVinoRunner, compiled_model
from tests.helpers.models.graphs import graph_model

SIDE = 8
BODY = "a = Conv<pads=[1,1,1,1]>(x, w1); r = Relu(a); p = GlobalAveragePool(r); f = Flatten(p); y = Gemm(f, w2)"


@pytest.fixture
def built(tmp_path: Path) -> ImportOptions:
    """Writes ``ours.onnx``: all weights of a layer are large and alike, so its sums are as large as they can be."""
    weights = {"w1": np.full((16, 3, 3, 3), 0.1, np.float32), "w2": np.full((16, 5), 0.1, np.float32)}
    weights["w2"] *= np.linspace(0.9, 1, 5, dtype=np.float32)
    onnx.save(graph_model(f"(float[N,3,{SIDE},{SIDE}] x) => (float[N,5] y)", BODY, **weights), tmp_path / "net.onnx")
    return ImportOptions((0.0,), (1.0,))


def quantised(folder: Path, options: ImportOptions, precision: QuantizedType) -> Path:
    adopt(folder / "net.onnx", folder / "ours.onnx", options)
    bright = np.random.default_rng(0).integers(200, 256, (8, SIDE, SIDE, 3)).astype(np.uint8)
    to_quantized(folder / "ours.onnx", folder / "q.onnx", precision=precision, batches=lambda: iter([bright]))
    return folder / "q.onnx"


def layer_types(path: Path) -> set[str]:
    """Types in which the layers of the compiled model compute."""
    nodes = [node.get_rt_info() for node in compiled_model(path).get_runtime_model().get_ops()]
    kinds = ("Convolution", "FullyConnected", "MatMul")
    return {node["runtimePrecision"].value for node in nodes if node["layerType"].value in kinds}


@pytest.mark.parametrize(("saturates", "types"), [(True, {"f32"}), (False, {"i8", "u8"})])
def test_layers_are_multiplied_in_what_is_exact(
    built: ImportOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saturates: bool, types: set[str]
) -> None:
    monkeypatch.setattr(openvino_runner, "saturates_int8", lambda: saturates)
    assert layer_types(quantised(tmp_path, built, "int8")) <= types


def test_the_largest_sums_are_those_of_the_file(built: ImportOptions, tmp_path: Path) -> None:
    contract = adopt(tmp_path / "net.onnx", tmp_path / "ours.onnx", built)
    path = quantised(tmp_path, built, "int8")
    pixels_NHWC = np.full((2, SIDE, SIDE, 3), 255, np.uint8)
    with closing(OnnxRuntimeRunner(path, contract, precision="int8", exact=True)) as reference:
        expected_NK = reference(pixels_NHWC)
    with closing(OpenVinoRunner(path, contract)) as runner:
        # Float sums in another order; where pairs of products saturate, they lose half of their value.
        np.testing.assert_allclose(runner(pixels_NHWC), expected_NK, rtol=1e-5)
