"""The table in qdq.py's docstring, line by line, as facts of the graph; and its numbers by hand."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.onnx_graph.onnx_file import initializers
from alexnet_deploy.precision.qdq import SMALLEST_SCALE, Quantized, insert_qdq, quantizable

FLOAT, INT8, FLOAT8 = TensorProto.FLOAT, TensorProto.INT8, TensorProto.FLOAT8E4M3FN
TYPE = {"int8": INT8, "fp8": FLOAT8}


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def model_of(*nodes: onnx.NodeProto, shape: list[int | str], **weights: Any) -> onnx.ModelProto:
    """A graph from ``x`` (float32, ``shape``) to ``y``."""
    (last,) = nodes[-1].output
    assert last == "y"
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, ["N", *["d"] * (len(shape) - 1)])],
        [numpy_helper.from_array(np.asarray(values, np.float32), name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def conv(x: str, w: str, y: str, *bias: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", [x, w, *bias], [y], f"conv_{y}", **attributes)


def quantised(
    model: onnx.ModelProto, kind: Quantized = "int8", exclude: str | None = None, largest: float = 2.0
) -> onnx.ModelProto:
    """The model after insert_qdq, with ``largest`` for every activation; it passes the full check."""
    nodes = quantizable(model, kind, exclude)
    insert_qdq(model, nodes, {node.input[0]: largest for node in nodes}, kind)
    onnx.checker.check_model(model, full_check=True)
    return model


def nodes_of(model: onnx.ModelProto, op: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == op]


def producer(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    nodes: dict[str, onnx.NodeProto] = {output: node for node in model.graph.node for output in node.output}
    return nodes[name]


def axis_of(node: onnx.NodeProto) -> int | None:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)


def run(model: onnx.ModelProto, **feeds: NDArray[Any]) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC  # the others compute fp8 wrongly
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, feeds)
    return np.asarray(result)


SINGLE: dict[str, tuple[onnx.NodeProto, list[int | str], tuple[int, ...], int]] = {
    "Conv": (conv("x", "w", "y", "b", pads=[1] * 4), ["N", 16, 5, 5], (6, 16, 3, 3), 0),
    "grouped Conv": (conv("x", "w", "y", "b", group=2), ["N", 32, 5, 5], (6, 16, 3, 3), 0),
    "Gemm": (helper.make_node("Gemm", ["x", "w", "b"], ["y"], "gemm"), ["N", 8], (8, 6), 1),
    "Gemm transB": (helper.make_node("Gemm", ["x", "w", "b"], ["y"], "gemm", transB=1), ["N", 8], (6, 8), 0),
    "MatMul": (helper.make_node("MatMul", ["x", "w"], ["y"], "matmul"), ["N", 8], (8, 6), 1),
    "MatMul of rank 3": (helper.make_node("MatMul", ["x", "w"], ["y"], "matmul"), ["N", 4, 8], (8, 6), 1),
}


class TestTable:
    @pytest.mark.parametrize("kind", ["int8", "fp8"])
    @pytest.mark.parametrize("case", SINGLE)
    def test_one_operator(self, case: str, kind: Quantized) -> None:
        node, shape, weight_shape, axis = SINGLE[case]
        weight, bias = random(*weight_shape), random(6)
        weights = {"w": weight, "b": bias} if len(node.input) == 3 else {"w": weight}
        model = quantised(model_of(node, shape=shape, **weights), kind)
        tensors = initializers(model)
        kinds = ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", node.op_type]
        assert [each.op_type for each in model.graph.node] == kinds
        quantize, dequantize_x, dequantize_w, operator = model.graph.node

        assert quantize.input[0] == "x"
        assert dequantize_x.input[:] == [quantize.output[0], *quantize.input[1:]]
        assert operator.input[0] == dequantize_x.output[0]
        assert tensors[quantize.input[1]].dims == []
        assert numpy_helper.to_array(tensors[quantize.input[1]]) == np.float32(2.0 / (127 if kind == "int8" else 448))

        assert operator.input[1] == dequantize_w.output[0]
        assert axis_of(dequantize_w) == (axis if kind == "int8" else None)
        assert tensors[dequantize_w.input[0]].data_type == TYPE[kind]
        assert tensors[dequantize_w.input[1]].dims == ([6] if kind == "int8" else [])
        others = tuple(i for i in range(weight.ndim) if i != axis)
        largest = np.abs(weight).max(axis=others) / 127 if kind == "int8" else np.abs(weight).max() / 448
        np.testing.assert_allclose(numpy_helper.to_array(tensors[dequantize_w.input[1]]), largest, rtol=1e-6)

        for each in (quantize, dequantize_x, dequantize_w):
            zero, scale = tensors[each.input[2]], tensors[each.input[1]]
            assert (zero.data_type, scale.data_type, zero.dims) == (TYPE[kind], FLOAT, scale.dims)
            assert not numpy_helper.to_array(zero).astype(np.float32).any()
        if len(operator.input) == 3:
            np.testing.assert_array_equal(numpy_helper.to_array(tensors[operator.input[2]]), bias)
        assert operator.output[0] == model.graph.output[0].name == "y"
        assert "w" not in tensors, "the float weight is gone"

    @pytest.mark.parametrize("kind", ["int8", "fp8"])
    def test_numbers_by_hand(self, kind: Quantized) -> None:
        weight, bias, x = random(4, 8), random(4), random(50, 8)
        node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "gemm", transB=1)
        model = quantised(model_of(node, shape=["N", 8], w=weight, b=bias), kind, largest=1.5)
        if kind == "int8":
            scale_x, scale_w = np.float32(1.5 / 127), np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
            x_back = np.clip(np.rint(x / scale_x), -128, 127) * scale_x  # ONNX saturates at -128
            w_back = np.rint(weight / scale_w) * scale_w
        else:
            scale_x, scale_w = np.float32(1.5 / 448), np.abs(weight).max() / np.float32(448)
            x_back = np.clip(x / scale_x, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale_x
            w_back = (weight / scale_w).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale_w
        expected = x_back @ w_back.T + bias
        assert np.abs(expected - (x @ weight.T + bias)).max() > 0.1, "x beyond 1.5 is clipped"
        # float32 sums of eight products, in another order
        np.testing.assert_allclose(run(model, x=x), expected, rtol=1e-5, atol=1e-5)
        (reference,) = ReferenceEvaluator(model).run(None, {"x": x})
        np.testing.assert_allclose(np.asarray(reference), expected, rtol=1e-5, atol=1e-5)

    def test_int8_weights_use_the_whole_range_and_no_more(self) -> None:
        model = quantised(model_of(conv("x", "w", "y"), shape=["N", 3, 4, 4], w=random(5, 3, 3, 3)))
        values = numpy_helper.to_array(initializers(model)["w/q"])
        assert np.all(np.abs(values.astype(int)).max(axis=(1, 2, 3)) == 127)

    def test_what_lies_between_stays_float(self) -> None:
        model = quantised(
            model_of(
                conv("x", "w1", "a", pads=[1] * 4),
                helper.make_node("Relu", ["a"], ["r"], "relu"),
                conv("r", "w2", "c", pads=[1] * 4),
                helper.make_node("Add", ["c", "r"], ["s"], "residual"),
                helper.make_node("Concat", ["s", "r"], ["y"], "concat", axis=1),
                shape=["N", 3, 4, 4],
                w1=random(3, 3, 3, 3),
                w2=random(3, 3, 3, 3),
            )
        )
        assert producer(model, "y").input[:] == ["s", "r"]
        assert producer(model, "s").input[:] == ["c", "r"]
        assert producer(model, "r").input[:] == ["a"]

    def test_nothing_else_is_quantised(self) -> None:
        """Two activations or two weights, a weight of another rank, a scaled or transposed Gemm: not in the table."""
        model = model_of(
            helper.make_node("MatMul", ["x", "x"], ["a"], "activations"),
            helper.make_node("MatMul", ["a", "w3"], ["b"], "rank_3"),
            helper.make_node("MatMul", ["w", "b"], ["c"], "weight_first"),
            helper.make_node("Squeeze", ["c"], ["d"], "squeeze"),
            helper.make_node("MatMul", ["w", "w"], ["ww"], "weights"),
            helper.make_node("Gemm", ["d", "w", "ww"], ["e"], "scaled", alpha=2.0),
            helper.make_node("Gemm", ["e", "w"], ["y"], "transposed", transA=1),
            shape=[4, 4],
            w=random(4, 4),
            w3=random(1, 4, 4),
        )
        assert quantizable(model, "int8") == []

    def test_half_precision_weights_are_not_ours(self) -> None:
        model = model_of(conv("x", "w", "y"), shape=["N", 3, 4, 4], w=random(3, 3, 3, 3))
        half = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float16)
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(half, "w"))
        assert quantizable(model, "int8") == []


class TestShared:
    def test_an_activation_that_several_read_is_quantised_once(self) -> None:
        model = quantised(
            model_of(
                conv("x", "w1", "a"),
                conv("x", "w2", "b"),
                helper.make_node("Add", ["a", "b"], ["y"], "add"),
                shape=["N", 3, 4, 4],
                w1=random(3, 3, 3, 3),
                w2=random(3, 3, 3, 3, seed=1),
            )
        )
        assert len(nodes_of(model, "QuantizeLinear")) == 1
        assert len(nodes_of(model, "DequantizeLinear")) == 3
        first, second = nodes_of(model, "Conv")
        assert first.input[0] == second.input[0]
        assert first.input[1] != second.input[1]

    def test_a_weight_that_two_nodes_read_is_stored_once(self) -> None:
        model = quantised(
            model_of(
                conv("x", "w", "a", pads=[1] * 4),
                conv("a", "w", "y", pads=[1] * 4),
                shape=["N", 3, 4, 4],
                w=random(3, 3, 3, 3),
            )
        )
        assert sum(tensor.data_type == INT8 and len(tensor.dims) == 4 for tensor in model.graph.initializer) == 1
        first, second = nodes_of(model, "Conv")
        assert first.input[1] == second.input[1]

    def test_a_weight_that_a_float_node_reads_too_stays_beside(self) -> None:
        weight = random(3, 3, 1, 1)
        model = quantised(
            model_of(
                conv("x", "w", "a"),
                helper.make_node("ReduceSum", ["w"], ["sum"], "sum", keepdims=0),
                helper.make_node("Add", ["a", "sum"], ["y"], "add"),
                shape=["N", 3, 4, 4],
                w=weight,
            )
        )
        np.testing.assert_array_equal(numpy_helper.to_array(initializers(model)["w"]), weight)
        assert initializers(model)["w/q"].data_type == INT8

    def test_a_weight_that_a_branch_reads_too_stays_beside(self) -> None:
        result = helper.make_tensor_value_info("b", FLOAT, None)
        branches = [
            helper.make_graph([helper.make_node(op, ["a", "w"], ["b"])], op, [], [result]) for op in ("Add", "Sub")
        ]
        model = quantised(
            model_of(
                conv("x", "w", "a"),
                helper.make_node("Constant", [], ["yes"], "yes", value=numpy_helper.from_array(np.array(True))),
                helper.make_node("If", ["yes"], ["y"], "choice", then_branch=branches[0], else_branch=branches[1]),
                shape=["N", 1, 4, 4],
                w=random(1, 1, 1, 1),
            )
        )
        assert initializers(model)["w"].data_type == FLOAT


class TestExclude:
    @pytest.fixture
    def model(self) -> onnx.ModelProto:
        return model_of(
            conv("x", "w1", "features.0"),
            conv("features.0", "w2", "features.10"),
            conv("features.10", "w3", "y"),
            shape=["N", 3, 9, 9],
            **{f"w{i}": random(3, 3, 3, 3, seed=i) for i in (1, 2, 3)},
        )

    @pytest.mark.parametrize(
        ("exclude", "left"),
        [
            (None, 3),
            ("", 3),
            (r"features", 1),
            (r"features\.0$", 2),
            (r"^conv_y$", 2),
            (r".", 0),
        ],
    )
    def test_by_regular_expression(self, exclude: str | None, left: int, model: onnx.ModelProto) -> None:
        assert len(quantizable(model, "int8", exclude)) == left

    def test_an_expression_that_matches_nothing_leaves_nothing_in_float(self, model: onnx.ModelProto) -> None:
        name = quantizable(model, "int8")[0].name
        with pytest.raises(UsageError, match=rf"--exclude classifer: matches no node .* names like {re.escape(name)}"):
            quantizable(model, "int8", "classifer")

    def test_an_excluded_node_is_as_before(self, model: onnx.ModelProto) -> None:
        model = quantised(model, exclude="^conv_features.10$")
        excluded = producer(model, "features.10")
        assert excluded.input[:] == ["features.0", "w2"]
        assert initializers(model)["w2"].data_type == FLOAT

    def test_what_is_no_regular_expression(self, model: onnx.ModelProto) -> None:
        with pytest.raises(UsageError, match=r"--exclude conv\(: is not a regular expression"):
            quantizable(model, "int8", "conv(")


class TestFp8:
    @pytest.mark.parametrize(("channels", "quantises"), [(3, False), (15, False), (16, True)])
    def test_a_convolution_of_few_channels_stays_float(self, channels: int, quantises: bool) -> None:
        def model() -> onnx.ModelProto:
            return model_of(conv("x", "w", "y"), shape=["N", channels, 4, 4], w=random(4, channels, 3, 3))

        assert bool(quantizable(model(), "fp8")) == quantises
        assert quantizable(model(), "int8")

    def test_a_gemm_of_few_features_does_not(self) -> None:
        node = helper.make_node("Gemm", ["x", "w"], ["y"], "gemm", transB=1)
        assert quantizable(model_of(node, shape=["N", 3], w=random(4, 3)), "fp8")


class TestExtremes:
    @pytest.mark.parametrize("kind", ["int8", "fp8"])
    def test_a_dead_channel_stays_zero(self, kind: Quantized) -> None:
        weight = random(4, 16, 1, 1)
        weight[2] = 0
        model = quantised(model_of(conv("x", "w", "y"), shape=["N", 16, 2, 2], w=weight), kind)
        assert numpy_helper.to_array(initializers(model)["w/scale"]).min() >= SMALLEST_SCALE
        y = run(model, x=random(3, 16, 2, 2))
        assert np.all(y[:, 2] == 0)
        assert np.all(np.isfinite(y))

    def test_a_dead_channel_keeps_its_bias(self) -> None:
        """A pruned filter still adds its bias; with a tiny scale ONNX Runtime's int32 bias overflowed to -0.85."""
        weight = random(4, 16, 1, 1)
        weight[2] = 0
        bias = np.array([0.0, 1.0, 2.0, 3.0], np.float32)
        both = (conv("x", "w", "h", "b"), conv("h", "v", "y"))  # between two of them ONNX Runtime changes the bias
        passing = np.eye(4)[:, :, None, None]
        model = model_of(*both, shape=["N", 16, 2, 2], w=weight, b=bias, v=passing)
        insert_qdq(model, quantizable(model, "int8"), {"x": 1.0, "h": 4.0}, "int8")
        y = run(model, x=0.1 * random(3, 16, 2, 2))
        np.testing.assert_allclose(y[:, 2], 2.0, atol=4 / 127)  # one step of h

    def test_a_weight_of_nothing_but_zeros(self) -> None:
        model = quantised(model_of(conv("x", "w", "y"), shape=["N", 16, 2, 2], w=np.zeros((4, 16, 1, 1))), "fp8")
        assert np.all(run(model, x=random(3, 16, 2, 2)) == 0)

    def test_every_scale_has_a_float16(self) -> None:
        """int8+fp16 turns them into float16, where a smaller one would become 0."""
        model = model_of(conv("x", "w", "y"), shape=["N", 3, 2, 2], w=random(4, 3, 1, 1) * 1e-7)
        quantised(model, largest=1e-9)
        for name in ("x/scale", "w/scale"):
            assert np.all(numpy_helper.to_array(initializers(model)[name]).astype(np.float16) > 0)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("kind", ["int8", "fp8"])
    def test_a_weight_that_is_not_finite(self, kind: Quantized, value: float) -> None:
        weight = random(4, 16, 1, 1)
        weight[1, 2] = value
        model = model_of(conv("x", "w", "y"), shape=["N", 16, 2, 2], w=weight)
        with pytest.raises(InputError, match=r"weight w holds NaN or infinity"):
            quantised(model, kind)
