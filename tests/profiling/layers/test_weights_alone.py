"""Layers whose weights alone are quantised: they compute in float, and move the bytes of their weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.precision.convert import to_quantized
from alexnet_deploy.precision.types import QuantizedType
from alexnet_deploy.profiling.layers.counters.counts import count_on_cpu
from tests.helpers.models.onnx_models import SIDE, tiny_classifier


@pytest.mark.parametrize(
    ("precision", "runtime", "weight"),
    [
        ("int4", "openvino", "int4"),
        ("int8-weights", "openvino", "int8"),
        ("int4", "onnxruntime", "int4"),
        ("int8-weights", "onnxruntime", "fp32"),
    ],
)
def test_types_of_the_dense_layers(precision: QuantizedType, runtime: str, weight: str, tmp_path: Path) -> None:
    path = tmp_path / "typed.onnx"
    to_quantized(tiny_classifier(tmp_path / "net.onnx"), path, precision=precision, batches=None)
    feeds = {"pixels": np.zeros((1, SIDE, SIDE, 3), np.uint8)}
    found = count_on_cpu(runtime, path, feeds, threads=1, calls=2, precision=precision)
    dense = [kernel for kernel in found.kernels if kernel.op in ("FullyConnected", "MatMulNBits", "Gemm", "FusedGemm")]
    assert [(kernel.precision, kernel.weight_type) for kernel in dense] == [("fp32", weight)] * 2
