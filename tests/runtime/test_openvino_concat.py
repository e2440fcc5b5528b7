"""Quantised branches that are joined: OpenVINO computes what the file says, though its own transformations do not."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest

from alexnet_deploy.adoption.adopt import adopt
from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.precision.convert import to_quantized
from alexnet_deploy.runtime.onnxruntime.runner import OnnxRuntimeRunner
from alexnet_deploy.runtime.openvino_runner import OpenVinoRunner
from tests.helpers.models.graphs import graph_model

SIDE, CHANNELS = 16, 8
FIRST = "a = Conv<pads=[1,1,1,1]>(x, w1, b); s = Relu(a); u = Conv(s, w2, b); v = Conv(s, w3, b)"
LAST = "p = GlobalAveragePool(z); f = Flatten(p); y = Gemm(f, wl)"
GRAPHS = {
    "joined": "c = Concat<axis=1>(u, v); z = Conv(c, wc, b)",
    "with the input of both": "c = Concat<axis=1>(u, s); z = Conv(c, wc, b)",
    "twice the same": "c = Concat<axis=1>(u, u); z = Conv(c, wc, b)",
    "relu behind": "c = Concat<axis=1>(u, v); r = Relu(c); z = Conv(r, wc, b)",
    "two readers": "c = Concat<axis=1>(u, v); d = Conv(c, wc, b); e = Conv(c, wd, b); z = Add(d, e)",
    "dense block": "c = Concat<axis=1>(u, v); d = Conv(c, wc, b); e = Concat<axis=1>(c, d); z = Conv(e, we, b)",
    "pool behind": "c = Concat<axis=1>(u, v); r = MaxPool<kernel_shape=[2,2]>(c); z = Conv(r, wc, b)",
}
SHAPES = {
    "w1": (CHANNELS, 3, 3, 3), "w2": (CHANNELS, CHANNELS, 1, 1), "w3": (CHANNELS, CHANNELS, 1, 1),
    "wc": (CHANNELS, 2 * CHANNELS, 1, 1), "wd": (CHANNELS, 2 * CHANNELS, 1, 1), "we": (CHANNELS, 3 * CHANNELS, 1, 1),
    "b": (CHANNELS,), "wl": (CHANNELS, 5),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_branches_are_joined_as_the_file_says(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    body = f"{FIRST}; {GRAPHS[name]}; {LAST}"
    weights = {
        each: rng.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)
        for each, shape in SHAPES.items() if f" {each}," in body or f" {each})" in body
    }  # fmt: skip
    onnx.save(graph_model(f"(float[N,3,{SIDE},{SIDE}] x) => (float[N,5] y)", body, **weights), tmp_path / "net.onnx")
    contract = adopt(tmp_path / "net.onnx", tmp_path / "ours.onnx", ImportOptions((0.5,), (0.25,)))
    pixels_NHWC = rng.integers(0, 256, (8, SIDE, SIDE, 3)).astype(np.uint8)
    int8 = tmp_path / "int8.onnx"
    to_quantized(tmp_path / "ours.onnx", int8, precision="int8", batches=lambda: iter([pixels_NHWC]))
    with closing(OnnxRuntimeRunner(int8, contract, precision="int8", exact=True)) as reference:
        expected_NK = reference(pixels_NHWC)
    with closing(OpenVinoRunner(int8, contract)) as runner:
        found_NK = runner(pixels_NHWC)
    # Float sums in another order: 1e-7. A step of int8 that falls elsewhere would be 1e-3; the fault is 1e-2 and more.
    assert np.abs(found_NK - expected_NK).max() < 1e-5 * np.ptp(expected_NK)
