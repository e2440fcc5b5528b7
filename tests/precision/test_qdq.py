"""The table in qdq.py's docstring, line by line, as facts of the graph; and its numbers by hand."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from alexnet_deploy.errors import UsageError
from alexnet_deploy.onnx_graph.onnx_file import initializers
from alexnet_deploy.precision.qdq import insert_qdq, quantizable
from alexnet_deploy.precision.types import QuantizedType
from tests.helpers.models.graphs import run_graph
from tests.precision.qdq_graphs import array, conv_model, inputs_of, model_of, nodes_of, quantised, random

FLOAT, INT8, FLOAT8 = TensorProto.FLOAT, TensorProto.INT8, TensorProto.FLOAT8E4M3FN
TYPE = {"int8": INT8, "fp8": FLOAT8}
PAD = "<pads = [1, 1, 1, 1]>"


SINGLE = {
    "Conv": (f"Conv {PAD} (x, w, b)", "N,16,5,5", (6, 16, 3, 3), 0),
    "grouped Conv": ("Conv <group = 2> (x, w, b)", "N,32,5,5", (6, 16, 3, 3), 0),
    "Gemm": ("Gemm (x, w, b)", "N,8", (8, 6), 1),
    "Gemm transB": ("Gemm <transB = 1> (x, w, b)", "N,8", (6, 8), 0),
    "MatMul": ("MatMul (x, w)", "N,8", (8, 6), 1),
    "MatMul of rank 3": ("MatMul (x, w)", "N,4,8", (8, 6), 1),
}


class TestTable:
    @pytest.mark.parametrize("dtype", ["int8", "fp8"])
    @pytest.mark.parametrize("case", SINGLE)
    def test_one_operator(self, case: str, dtype: QuantizedType) -> None:
        node, shape, weight_shape, axis = SINGLE[case]
        weight, bias = random(*weight_shape), random(6)
        weights = {"w": weight, "b": bias} if "b)" in node else {"w": weight}
        model = quantised(model_of(f"y = {node}", shape, **weights), dtype)
        tensors = initializers(model)
        kinds = ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", node.split()[0]]
        assert [each.op_type for each in model.graph.node] == kinds
        quantize, dequantize_x, dequantize_w, operator = model.graph.node

        assert quantize.input[0] == "x"
        assert dequantize_x.input[:] == [quantize.output[0], *quantize.input[1:]]
        assert operator.input[0] == dequantize_x.output[0]
        assert tensors[quantize.input[1]].dims == []
        assert array(model, quantize.input[1]) == np.float32(2.0 / (127 if dtype == "int8" else 448))

        assert operator.input[1] == dequantize_w.output[0]
        axes = [attribute.i for attribute in dequantize_w.attribute if attribute.name == "axis"]
        assert axes == ([axis] if dtype == "int8" else [])
        assert tensors[dequantize_w.input[0]].data_type == TYPE[dtype]
        assert tensors[dequantize_w.input[1]].dims == ([6] if dtype == "int8" else [])
        others = tuple(i for i in range(weight.ndim) if i != axis)
        largest = np.abs(weight).max(axis=others) / 127 if dtype == "int8" else np.abs(weight).max() / 448
        np.testing.assert_allclose(array(model, dequantize_w.input[1]), largest, rtol=1e-6)

        for each in (quantize, dequantize_x, dequantize_w):
            zero, scale = tensors[each.input[2]], tensors[each.input[1]]
            assert (zero.data_type, scale.data_type, zero.dims) == (TYPE[dtype], FLOAT, scale.dims)
            assert not numpy_helper.to_array(zero).astype(np.float32).any()
        if len(operator.input) == 3:
            np.testing.assert_array_equal(array(model, operator.input[2]), bias)
        assert operator.output[0] == model.graph.output[0].name == "y"
        assert "w" not in tensors, "the float weight is gone"

    @pytest.mark.parametrize("dtype", ["int8", "fp8"])
    def test_numbers_by_hand(self, dtype: QuantizedType) -> None:
        weight, bias, x = random(4, 8), random(4), random(50, 8)
        model = quantised(model_of("y = Gemm <transB = 1> (x, w, b)", "N,8", w=weight, b=bias), dtype, largest=1.5)
        if dtype == "int8":
            scale_x, scale_w = np.float32(1.5 / 127), np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
            x_back = np.clip(np.rint(x / scale_x), -128, 127) * scale_x  # ONNX saturates at -128
            w_back = np.rint(weight / scale_w) * scale_w
        else:
            scale_x, scale_w = np.float32(1.5 / 448), np.abs(weight).max() / np.float32(448)
            x_back = np.clip(x / scale_x, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale_x
            w_back = (weight / scale_w).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale_w
        expected = x_back @ w_back.T + bias
        assert np.abs(expected - (x @ weight.T + bias)).max() > 0.1, "x beyond 1.5 is clipped"
        (reference,) = ReferenceEvaluator(model).run(None, {"x": x})
        for found in (*run_graph(model, basic=True, x=x), np.asarray(reference)):
            # float32 sums of eight products, in another order
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

    def test_int8_weights_use_the_whole_range_and_no_more(self) -> None:
        model = quantised(model_of("y = Conv (x, w)", "N,3,4,4", w=random(5, 3, 3, 3)))
        assert np.all(np.abs(array(model, "w/q").astype(int)).max(axis=(1, 2, 3)) == 127)

    def test_what_lies_between_stays_float(self) -> None:
        body = (
            f"a = Conv {PAD} (x, v); r = Relu (a); c = Conv {PAD} (r, w); s = Add (c, r); y = Concat <axis = 1> (s, r)"
        )
        model = quantised(model_of(body, "N,3,4,4", v=random(3, 3, 3, 3), w=random(3, 3, 3, 3)))
        assert [inputs_of(model, name) for name in ("y", "s", "r")] == [["s", "r"], ["c", "r"], ["a"]]

    def test_nothing_else_is_quantised(self) -> None:
        """Two activations or two weights, a weight of another rank, a scaled or transposed Gemm: not in the table."""
        body = (
            "a = MatMul (x, x); b = MatMul (a, w3); c = MatMul (w, b); d = Squeeze (c); ww = MatMul (w, w);"
            "e = Gemm <alpha = 2.0> (d, w, ww); y = Gemm <transA = 1> (e, w)"
        )
        assert quantizable(model_of(body, "4,4", w=random(4, 4), w3=random(1, 4, 4)), "int8") == []


class TestShared:
    def test_an_activation_that_several_read_is_quantised_once(self) -> None:
        body = "a = Conv (x, v); b = Conv (x, w); y = Add (a, b)"
        model = quantised(model_of(body, "N,3,4,4", v=random(3, 3, 3, 3), w=random(3, 3, 3, 3, seed=1)))
        assert len(nodes_of(model, "QuantizeLinear")) == 1
        assert len(nodes_of(model, "DequantizeLinear")) == 3
        first, second = nodes_of(model, "Conv")
        assert first.input[0] == second.input[0]
        assert first.input[1] != second.input[1]

    def test_a_weight_that_two_nodes_read_is_stored_once(self) -> None:
        body = f"a = Conv {PAD} (x, w); y = Conv {PAD} (a, w)"
        model = quantised(model_of(body, "N,3,4,4", w=random(3, 3, 3, 3)))
        assert sum(tensor.data_type == INT8 and len(tensor.dims) == 4 for tensor in model.graph.initializer) == 1
        first, second = nodes_of(model, "Conv")
        assert first.input[1] == second.input[1]

    def test_a_weight_that_a_float_node_reads_too_stays_beside(self) -> None:
        weight = random(3, 3, 1, 1)
        body = "a = Conv (x, w); sum = ReduceSum <keepdims = 0> (w); y = Add (a, sum)"
        model = quantised(model_of(body, "N,3,4,4", w=weight))
        np.testing.assert_array_equal(array(model, "w"), weight)
        assert initializers(model)["w/q"].data_type == INT8

    def test_a_weight_that_a_branch_reads_too_stays_beside(self) -> None:
        model = model_of("y = Conv (x, w)", "N,1,4,4", w=random(1, 1, 1, 1))
        result = helper.make_tensor_value_info("b", FLOAT, None)
        branches = [
            helper.make_graph([helper.make_node(op, ["a", "w"], ["b"])], op, [], [result]) for op in ("Add", "Sub")
        ]
        model.graph.node[0].output[0] = "a"
        yes = helper.make_node("Constant", [], ["yes"], "yes", value=numpy_helper.from_array(np.array(True)))
        choice = helper.make_node("If", ["yes"], ["y"], "if", then_branch=branches[0], else_branch=branches[1])
        model.graph.node.extend([yes, choice])
        assert initializers(quantised(model))["w"].data_type == FLOAT


class TestExclude:
    @pytest.fixture
    def model(self) -> onnx.ModelProto:
        weights = {f"w{i}": random(3, 3, 3, 3, seed=i) for i in (1, 2, 3)}
        model = model_of("a = Conv (x, w1); b = Conv (a, w2); y = Conv (b, w3)", "N,3,9,9", **weights)
        for node, name in zip(model.graph.node, ("features.0", "features.10", "y"), strict=True):
            node.name = name
        return model

    @pytest.mark.parametrize(
        ("exclude", "left"), [(None, 3), ("", 3), (r"features", 1), (r"features\.0$", 2), (r"^y$", 2), (r".", 0)]
    )
    def test_by_regular_expression(self, exclude: str | None, left: int, model: onnx.ModelProto) -> None:
        assert len(quantizable(model, "int8", exclude)) == left

    def test_an_excluded_node_is_as_before(self, model: onnx.ModelProto) -> None:
        nodes = quantizable(model, "int8", "^features.10$")
        insert_qdq(model, nodes, {"x": 2.0, "b": 2.0}, "int8")
        assert inputs_of(model, "b") == ["a", "w2"]
        assert initializers(model)["w2"].data_type == FLOAT

    @pytest.mark.parametrize(
        ("exclude", "message"),
        [
            ("classifer", r"`exclude` classifer: matches no node .* names like features\.0"),
            ("conv(", r"`exclude` conv\(: is not a regular expression"),
        ],
    )
    def test_what_would_leave_nothing_in_float(self, exclude: str, message: str, model: onnx.ModelProto) -> None:
        with pytest.raises(UsageError, match=message):
            quantizable(model, "int8", exclude)


class TestFp8:
    @pytest.mark.parametrize(("channels", "quantises"), [(3, False), (15, False), (16, True)])
    def test_a_convolution_of_few_channels_stays_float(self, channels: int, quantises: bool) -> None:
        weight = random(4, channels, 1, 1)
        assert bool(quantizable(conv_model(channels, weight), "fp8")) == quantises
        assert quantizable(conv_model(channels, weight), "int8")

    def test_a_gemm_of_few_features_does_not(self) -> None:
        assert quantizable(model_of("y = Gemm <transB = 1> (x, w)", "N,3", w=random(4, 3)), "fp8")
