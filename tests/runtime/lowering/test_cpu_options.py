"""On x86 processors without 32-bit sums of byte products, the session options choose ONNX Runtime's exact kernels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from alexnet_deploy.machine import cpu
from alexnet_deploy.runtime.lowering.cpu_options import exact_integers
from alexnet_deploy.runtime.lowering.integer import to_integers
from alexnet_deploy.runtime.onnxruntime.runner import session_options
from tests.runtime.lowering.integer_graphs import BATCH, CHANNELS, SIDE, Network, quantised

EXACT = {"session.x64quantprecision": "1"}


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the processor one with these flags."""

    def be(flags: str, machine: str = "x86_64") -> None:
        monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset(flags.split()))
        monkeypatch.setattr(cpu.platform, "machine", lambda: machine)

    return be


@pytest.mark.parametrize(
    ("precision", "flags", "expected"),
    [
        ("int8", "avx avx2 fma", EXACT),
        ("int8+fp16", "avx2 avx512f avx512bw", EXACT),
        ("int8", "", EXACT),
        ("int8", "avx2 avx_vnni", {}),
        ("int8", "avx512f avx512_vnni", {}),
        ("int8+fp16", "amx_int8", {}),
        ("fp8", "avx2", {}),
        ("fp32", "avx2", {}),
        ("int4", "avx2", {}),
    ],
)
def test_the_entry_is_set_where_sums_have_16_bits(
    processor: Callable[..., None], precision: str, flags: str, expected: dict[str, str]
) -> None:
    processor(flags)
    assert exact_integers(precision) == expected
    processor(flags, "aarch64")
    assert exact_integers(precision) == {}


@pytest.mark.parametrize(("flags", "weights"), [("avx2", np.uint8), ("avx2 avx_vnni", np.int8)])
def test_sessions_get_it_and_their_weights_are_uint8(
    processor: Callable[..., None], flags: str, weights: Any, tmp_path: Path
) -> None:
    sums_in_32_bits = not cpu.saturates_int8()
    processor(flags)
    network = Network(0)
    for kind in ("conv", "relu"):
        network.block(kind)
    model = quantised(network.model(hidden=True), network.rng)
    images = network.rng.normal(0, 1, (BATCH, CHANNELS, SIDE, SIDE)).astype(np.float32)
    to_integers(model)
    found = {}
    for name, options in (("plain", ort.SessionOptions()), ("ours", session_options("int8"))):
        options.log_severity_level = 4
        options.optimized_model_filepath = str(tmp_path / f"{name}.onnx")
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found[name] = session.run(None, {"x": images})[0]
    graph = onnx.load(tmp_path / "ours.onnx").graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    convolution = next(node for node in graph.node if node.op_type == "QLinearConv")
    assert onnx.helper.tensor_dtype_to_np_dtype(types[convolution.input[3]]) == weights
    if sums_in_32_bits:
        np.testing.assert_array_equal(found["ours"], found["plain"])
