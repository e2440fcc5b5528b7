"""Layers that share an int8 weight: ONNX Runtime opens them with its exact kernels, and they answer the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from alexnet_deploy.machine import cpu
from alexnet_deploy.onnx_graph.onnx_file import initializers, save_onnx
from alexnet_deploy.runtime.lowering.graph import graph_for_cpu
from tests.helpers.models.graphs import graph_model, run_graph

SIZE = 8
RNG = np.random.default_rng(0)
START = "q = QuantizeLinear (x, xs, xz); d = DequantizeLinear (q, xs, xz);"
# What goes from the layer h to the input e of the next.
NEXT = "p = QuantizeLinear (h, hs, xz); e = DequantizeLinear (p, hs, xz);"
GRAPHS = {
    "weight": "w = DequantizeLinear <axis = 1> (v, s, z); h = Gemm (d, w);" + NEXT + "y = Gemm (e, w)",
    "weight of MatMul": "w = DequantizeLinear <axis = 1> (v, s, z); h = MatMul (d, w);" + NEXT + "y = MatMul (e, w)",
    "three layers": "w = DequantizeLinear <axis = 1> (v, s, z); h = Gemm (d, w);" + NEXT
    + "i = Gemm (d, w); j = Gemm (e, w); y = Add (i, j)",
    "numbers": "w = DequantizeLinear <axis = 1> (v, s, z); h = Gemm (d, w);" + NEXT
    + "u = DequantizeLinear <axis = 0> (v, s, z); y = Gemm <transB = 1> (e, u)",
    "zero points": "w = DequantizeLinear (v, s1, z1); h = Gemm (d, w);" + NEXT
    + "u = DequantizeLinear (v2, s2, z1); y = Gemm (e, u)",
    "an operator that is no layer": "w = DequantizeLinear (v, s1, z1); h = Gemm (d, w); y = Add (h, w)",
}  # fmt: skip


def model_of(body: str) -> onnx.ModelProto:
    constants: dict[str, Any] = {
        "xs": np.float32(0.02),
        "hs": np.float32(0.05),
        "xz": np.uint8(128),
        "v": RNG.integers(-127, 127, (SIZE, SIZE)).astype(np.int8),
        "v2": RNG.integers(-127, 127, (SIZE, SIZE)).astype(np.int8),
        "s": RNG.uniform(0.01, 0.02, SIZE).astype(np.float32),
        "z": np.zeros(SIZE, np.int8),
        "s1": np.float32(0.01),
        "s2": np.float32(0.02),
        "z1": np.int8(0),
    }
    return graph_model(f"(float[{SIZE},{SIZE}] x) => (float[{SIZE},{SIZE}] y)", START + body, **constants)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> ort.SessionOptions:
    """This processor as one that needs the exact kernels, and the options that choose them."""
    monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


@pytest.mark.parametrize("case", GRAPHS)
def test_shared_weights_open_with_the_exact_kernels(case: str, exact: ort.SessionOptions, tmp_path: Path) -> None:
    model = model_of(GRAPHS[case])
    x = RNG.normal(size=(SIZE, SIZE)).astype(np.float32)
    found = graph_for_cpu(save_onnx(model, tmp_path / "model.onnx"), "int8")
    assert found is not None
    session = ort.InferenceSession(found, exact, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    np.testing.assert_allclose(y, run_graph(model, basic=True, x=x)[0], rtol=1e-5, atol=1e-5)
    lowered = onnx.ModelProto.FromString(found)
    int8 = {name for name, tensor in initializers(lowered).items() if tensor.data_type == onnx.TensorProto.INT8}
    readers = Counter(name for node in lowered.graph.node for name in node.input if name in int8)
    assert set(readers.values()) == {1}


def test_a_weight_that_is_not_shared_is_not_copied(exact: ort.SessionOptions, tmp_path: Path) -> None:
    body = (
        "w = DequantizeLinear (v, s1, z1); h = Gemm (d, w);"
        + NEXT
        + "u = DequantizeLinear (v2, s2, z1); y = Gemm (e, u)"
    )
    found = graph_for_cpu(save_onnx(model_of(body), tmp_path / "model.onnx"), "int8")
    assert found is not None
    sizes = Counter(tuple(tensor.dims) for tensor in onnx.ModelProto.FromString(found).graph.initializer)
    assert sizes[SIZE, SIZE] == 2


def test_other_processors_read_one_weight(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset({"avx_vnni"}))
    found = graph_for_cpu(save_onnx(model_of(GRAPHS["weight"]), tmp_path / "model.onnx"), "int8")
    assert found is not None
    sizes = Counter(tuple(tensor.dims) for tensor in onnx.ModelProto.FromString(found).graph.initializer)
    assert sizes[SIZE, SIZE] == 1
