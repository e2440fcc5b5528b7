"""Models of any opset and with operators of ONNX Runtime come to our opset with the same answers, or name the cause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from alexnet_deploy.adoption.adopt import adopt
from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.adoption.operators.opset import at_our_opset
from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph.onnx_file import OPSET, load_onnx
from tests.helpers.models.graphs import graph_model, run_graph

HALF = ImportOptions((0.5,), (0.5,))
RANDOM = np.random.default_rng(0)
FC = RANDOM.normal(size=(5, 4)).astype(np.float32)
CONV = RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32)
BIAS = RANDOM.normal(size=4).astype(np.float32)
SCALES: dict[str, Any] = {
    "xs": np.float32(0.02), "xz": np.uint8(120), "ws": np.float32(0.02), "ys": np.float32(0.05),
    "yz": np.uint8(130), "zs": np.float32(0.03), "zz": np.uint8(100),
}  # fmt: skip
HEAD = "p = GlobalAveragePool (c); flat = Flatten (p); y = Gemm <transB = 1> (flat, fc)"


def microsoft(body: str, path: Path, *, opset: int = 17, **weights: Any) -> onnx.ModelProto:
    """A classifier of [N, 3, 8, 8] with operators that ONNX Runtime alone knows, at ``path``."""
    model = graph_model("(float[N,3,8,8] x) => (float[N,5] y)", body, opset=opset, fc=FC, **weights)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.ir_version = 8
    onnx.save(model, path)
    return model


def images(count: int = 2) -> NDArray[np.float32]:
    return RANDOM.uniform(-1, 1, (count, 3, 8, 8)).astype(np.float32)


class TestContributed:
    @pytest.mark.parametrize(
        "body",
        [
            'c = com.microsoft.FusedConv <activation = "Relu", pads = [1, 1, 1, 1]> (x, w, b)',
            'd = Conv <pads = [1, 1, 1, 1]> (x, w, b); c = com.microsoft.FusedConv <activation = "Relu", '
            "pads = [1, 1, 1, 1]> (x, w, b, d)",
            'c = com.microsoft.FusedConv <activation = "LeakyRelu", activation_params = [0.2]> (x, w)',
            'c = com.microsoft.FusedConv <activation = "Clip", activation_params = [0.0, 0.3]> (x, w, b)',
            'c = com.microsoft.FusedConv <activation = "HardSigmoid", activation_params = [0.1, 0.4]> (x, w, b)',
            'c = com.microsoft.FusedConv <activation = "Tanh"> (x, w, b)',
            "d = Conv (x, w, b); c = com.microsoft.Gelu (d)",
            "d = Conv (x, w, b); c = com.microsoft.QuickGelu <alpha = 1.5> (d)",
            "d = Conv (x, w, b); c = com.microsoft.QuickGelu (d)",
            "d = Conv (x, w, b); c = com.microsoft.FastGelu (d)",
            "d = Conv (x, w, b); t = Transpose <perm = [0, 2, 3, 1]> (d); g = com.microsoft.BiasGelu (t, b); "
            "c = Transpose <perm = [0, 3, 1, 2]> (g)",
        ],
    )
    def test_float_operators(self, body: str, tmp_path: Path) -> None:
        model = microsoft(f"{body}; {HEAD}", tmp_path / "net.onnx", w=CONV, b=BIAS)
        check_answers(model, tmp_path, atol=1e-4)  # float32: tanh and erf of ONNX Runtime are polynomials

    @pytest.mark.parametrize(
        ("body", "steps"),
        [
            ("r = com.microsoft.QLinearAdd (q, xs, xz, q, xs, xz, ys, yz); c = DequantizeLinear (r, s, z)", 1),
            ("r = com.microsoft.QLinearMul (q, xs, xz, q, xs, xz, ys, yz); c = DequantizeLinear (r, s, z)", 1),
            ("r = com.microsoft.QLinearSigmoid (q, xs, xz, ys, yz); c = DequantizeLinear (r, s, z)", 1),
            ("r = com.microsoft.QLinearLeakyRelu <alpha = 0.1> (q, xs, xz, ys, yz); c = DequantizeLinear (r, s, z)", 1),
            ("r = com.microsoft.QLinearGlobalAveragePool (q, xs, xz, ys, yz); c = DequantizeLinear (r, s, z)", 1),
            ("r = com.microsoft.QLinearAveragePool <kernel_shape = [2, 2]> (q, xs, xz, ys, yz); "
             "c = DequantizeLinear (r, s, z)", 1),
            ("k = com.microsoft.QLinearConcat <axis = 1> (ys, yz, q, xs, xz, q, xs, xz); "
             "d = DequantizeLinear (k, s, z); c = Slice (d, from, to, axis)", 1),
        ],
    )  # fmt: skip
    def test_quantised_operators(self, body: str, steps: int, tmp_path: Path) -> None:
        body = f"f = Conv (x, w); q = QuantizeLinear (f, xs, xz); {body}; {HEAD}"
        edges = {"from": np.array([2]), "to": np.array([6]), "axis": np.array([1])}
        more = {"s": np.float32(0.05), "z": np.uint8(130)}
        model = microsoft(body, tmp_path / "net.onnx", w=CONV, **SCALES, **more, **edges)
        # A value half-way between two steps may be rounded to the other one, in integers and in floats.
        check_answers(model, tmp_path, atol=steps * 0.05 * float(np.abs(FC).sum(axis=1).max()))

    @pytest.mark.parametrize("trans", [0, 1])
    @pytest.mark.parametrize("per_channel", [False, True])
    @pytest.mark.parametrize("quantised", [False, True])
    def test_a_quantised_dense_layer(self, trans: int, per_channel: bool, quantised: bool, tmp_path: Path) -> None:
        b = RANDOM.integers(-100, 100, (5, 3), dtype=np.int8)
        bs = RANDOM.uniform(0.01, 0.02, 5).astype(np.float32) if per_channel else np.float32(0.015)
        weights = {"b": b if trans else np.ascontiguousarray(b.T), "bs": bs, "c": np.arange(5, dtype=np.int32) * 500}
        weights["bz"] = np.zeros(5 if per_channel else (), np.int8)
        last = "y = Identity (g)"
        inputs = "q, xs, xz, b, bs, bz, c"
        if quantised:
            inputs, last = f"{inputs}, zs, zz", "y = DequantizeLinear (g, zs, zz)"
        body = (
            f"p = GlobalAveragePool (x); f = Flatten (p); q = QuantizeLinear (f, xs, xz); "
            f"g = com.microsoft.QGemm <transB = {trans}> ({inputs}); {last}"
        )
        model = microsoft(body, tmp_path / "net.onnx", **SCALES, **weights)
        check_answers(model, tmp_path, atol=0.03 if quantised else 1e-4)  # one step of zs; float32

    @pytest.mark.parametrize(
        ("body", "cause"),
        [
            ("c = com.microsoft.MaxpoolWithMask (x, x)", r"microsoft.MaxpoolWithMask \(node 'c'\) is not a"),
            ('c = com.microsoft.FusedConv <activation = "Swish"> (x, w)', r"FusedConv \(node 'c'\) has the activation"),
            ("q = QuantizeLinear (x, xs, xz); r = com.microsoft.QLinearGlobalAveragePool <channels_last = 1> "
             "(q, xs, xz, ys, yz); c = DequantizeLinear (r, xs, xz)", "has another channels_last than 0"),
        ],
    )  # fmt: skip
    def test_what_has_no_standard_form_is_named(self, body: str, cause: str, tmp_path: Path) -> None:
        microsoft(f"{body}; {HEAD}", tmp_path / "net.onnx", w=CONV, **SCALES)
        with pytest.raises(InputError, match=cause):
            adopt(tmp_path / "net.onnx", tmp_path / "out.onnx", HALF)


def check_answers(model: onnx.ModelProto, folder: Path, atol: float) -> None:
    found = at_our_opset(load_onnx(folder / "net.onnx"), folder / "net.onnx")
    assert [(entry.domain, entry.version) for entry in found.opset_import] == [("", OPSET)]
    onnx.checker.check_model(found, full_check=True)
    batch = images()
    (expected,), (actual,) = run_graph(model, x=batch), run_graph(found, x=batch)
    assert np.ptp(expected, axis=0).max() > 1e-3, "the images must matter, or this proves nothing"
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


class TestConversion:
    @pytest.mark.parametrize("opset", [5, onnx.defs.onnx_opset_version() + 1])
    def test_opsets_out_of_range(self, opset: int, tmp_path: Path) -> None:
        model = graph_model("(float[N,3,8,8] x) => (float[N,3] y)", "p = GlobalAveragePool (x); y = Flatten (p)")
        model.opset_import[0].version = opset
        with pytest.raises(
            InputError, match=rf"net.onnx: opset {opset} is not within 6..{onnx.defs.onnx_opset_version()}"
        ):
            at_our_opset(model, tmp_path / "net.onnx")

    @pytest.mark.parametrize(
        ("opset", "node", "cause"),
        [
            (8, "c = BatchNormalization <spatial = 0> (x, s, s, s, s)", "BatchNormalization: Attribute spatial must"),
            (23, "c = RMSNormalization (x, t)", "RMSNormalization: No Previous Version of RMSNormalization"),
        ],
    )
    def test_the_operator_that_prevents_it_is_named(self, opset: int, node: str, cause: str, tmp_path: Path) -> None:
        model = graph_model(
            "(float[N,3,8,8] x) => (float[N,5] y)", f"{node}; {HEAD}",
            opset=opset, s=np.ones(3, np.float32), t=np.ones(8, np.float32), fc=FC[:, :3],
        )  # fmt: skip
        with pytest.raises(InputError, match=rf"opset {opset} does not convert to {OPSET} \({cause}"):
            at_our_opset(model, tmp_path / "net.onnx")

    @pytest.mark.parametrize("shape", ["N,3,8,8", "N,3,H,W", "1,3,8,8"])
    def test_free_sizes_stay_free_in_the_oldest_opset(self, shape: str, tmp_path: Path) -> None:
        head = "p = GlobalAveragePool (b); flat = Flatten (p); y = Gemm <broadcast = 1, transB = 1> (flat, fc, z)"
        body = f"b = Add <broadcast = 1, axis = 1> (x, a); {head}"
        weights = {"a": BIAS[:3], "fc": FC[:, :3], "z": np.zeros(5, np.float32)}
        model = graph_model(f"(float[{shape}] x) => (float[N,5] y)", body, opset=6, **weights)
        found = at_our_opset(model, tmp_path / "net.onnx")
        dims = found.graph.input[0].type.tensor_type.shape.dim
        assert [dim.dim_param or str(dim.dim_value) for dim in dims] == shape.split(",")
        batch = images(1)
        expected = (batch + BIAS[:3].reshape(1, 3, 1, 1)).mean(axis=(2, 3)) @ FC[:, :3].T
        # A mean of 64 values and 3 products in float32
        np.testing.assert_allclose(run_graph(found, x=batch)[0], expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("node", "weight", "expected"),
        [
            ("b = Sub <broadcast = 1, axis = 1> (x, a)", BIAS[:3], lambda x: x - BIAS[:3].reshape(1, 3, 1, 1)),
            ("b = Mul <broadcast = 1, axis = 1> (x, a)", np.ones((3, 4)) * 2, lambda x: x * 2),
            ("b = Mul <broadcast = 1, axis = -3> (x, a)", BIAS[:3], lambda x: x * BIAS[:3].reshape(1, 3, 1, 1)),
            ("b = Div <broadcast = 1> (x, a)", np.arange(1, 5), lambda x: x / np.arange(1, 5)),
            ("b = Add <broadcast = 1, axis = 0> (x, a)", np.array([2.0]), lambda x: x + 2),
            ("b = PRelu (x, a)", BIAS[:3], lambda x: np.where(x < 0, x * BIAS[:3].reshape(1, 3, 1, 1), x)),
            ("b = PRelu (x, a)", np.array([0.1]), lambda x: np.where(x < 0, x * 0.1, x)),
        ],
    )
    def test_old_broadcasts_along_an_axis(
        self, node: str, weight: NDArray[Any], expected: Callable[[NDArray[Any]], NDArray[Any]], tmp_path: Path
    ) -> None:
        """As many channels as pixels in a row would let a wrong axis pass: 3 channels of 4 x 4."""
        model = graph_model(
            "(float[N,3,4,4] x) => (float[N,3,4,4] y)",
            f"{node}; y = Identity (b)",
            opset=6,
            a=weight.astype(np.float32),
        )
        batch = RANDOM.uniform(-1, 1, (2, 3, 4, 4)).astype(np.float32)
        (found,) = run_graph(at_our_opset(model, tmp_path / "net.onnx"), x=batch)
        np.testing.assert_allclose(found, expected(batch), rtol=1e-6)  # one operation in float32

    @pytest.mark.parametrize("mode", ["nearest", "linear"])
    @pytest.mark.parametrize(
        ("opset", "operator", "scale"),
        [(9, "Upsample", 2.0), (9, "Upsample", 1.6), (10, "Resize", 2.0), (10, "Resize", 1.6), (10, "Resize", 0.6)],
    )
    def test_old_resizes(self, opset: int, operator: str, mode: str, scale: float, tmp_path: Path) -> None:
        """Their pixels lie on other coordinates than those of a Resize without attributes since opset 11."""
        body = f'r = {operator} <mode = "{mode}"> (x, s); c = MaxPool <kernel_shape = [3, 3]> (r); '
        body += HEAD.replace("fc)", "fc, z)")  # the bias was not yet optional
        factors = np.array([1, 1, scale, scale], np.float32)
        model = graph_model(
            "(float[N,3,8,8] x) => (float[N,5] y)", body, opset=opset, s=factors, fc=FC[:, :3], z=BIAS[:1]
        )
        batch = images()
        (expected,) = run_graph(model, x=batch)
        found = at_our_opset(model, tmp_path / "net.onnx")
        # Sums of a hundred float32
        np.testing.assert_allclose(run_graph(found, x=batch)[0], expected, rtol=0, atol=1e-5)

    def test_hardmax_over_several_axes(self, tmp_path: Path) -> None:
        model = graph_model("(float[N,3,8,8] x) => (float[N,5] y)", f"c = Hardmax (x); {HEAD}", opset=9, fc=FC[:, :3])
        with pytest.raises(InputError, match="Hardmax of opset 9 does not convert to 21"):
            at_our_opset(model, tmp_path / "net.onnx")
