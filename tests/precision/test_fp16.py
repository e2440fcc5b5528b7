"""float32 graph -> float16 graph: types as facts of the graph, values as ONNX Runtime computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph.onnx_file import initializers
from alexnet_deploy.precision.fp16 import cast_to_float16
from tests.helpers.models.foreign_models import foreign_classifier
from tests.helpers.models.graphs import graph_model, run_graph
from tests.helpers.models.onnx_models import SIDE, tiny_classifier

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16


def model_of(body: str | Iterable[onnx.NodeProto], outputs: Iterable[str] = ("y",), **weights: Any) -> onnx.ModelProto:
    """A graph of float input ``x`` [2, 3] and ``outputs`` of rank 2."""
    results = ", ".join(f"float[{name}1,{name}2] {name}" for name in outputs)
    return graph_model(f"(float[2,3] x) => ({results})", body, **weights)


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor of a model, which the full check has passed."""
    onnx.checker.check_model(model, full_check=True)
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def nodes_by_name(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in model.graph.node}


def casts(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Cast" for node in model.graph.node)


ROUNDED = 4 * 2**-11
"""Relative: at most four roundings to float16's 11 bits in a row."""
RANDOM = np.random.default_rng(0)
X = np.array([[0.5, -1.25, 3.0], [2.0, 0.125, -0.75]], np.float32)


class TestInside:
    @pytest.mark.parametrize(
        ("make", "name", "images", "floats"),
        [
            (tiny_classifier, "pixels", RANDOM.integers(0, 256, (2, SIDE, SIDE, 3), np.uint8), {"logits"}),
            (foreign_classifier, "data", RANDOM.normal(size=(2, 3, 12, 12)).astype(np.float32), {"data", "scores"}),
        ],
        ids=["pixels", "every structure of AlexNet's heirs"],
    )
    def test_a_classifier_is_float16_between_its_input_and_output(
        self, make: Callable[[Path], Path], name: str, images: NDArray[Any], floats: set[str], tmp_path: Path
    ) -> None:
        model = onnx.load(make(tmp_path / "net.onnx"))
        half = cast_to_float16(model)
        assert {tensor for tensor, kind in types(half).items() if kind == FLOAT} == floats
        (expected,), (actual,) = (run_graph(each, **{name: images}) for each in (model, half))
        # 11 bits of precision, some ten roundings in a row.
        np.testing.assert_allclose(actual, expected, rtol=0, atol=0.01 * np.abs(expected).max())

    def test_it_is_a_copy_with_the_metadata(self) -> None:
        model = model_of("y = Relu (x)")
        helper.set_model_props(model, {"key": "value"})
        before = model.SerializeToString()
        assert cast_to_float16(model).metadata_props == model.metadata_props
        assert model.SerializeToString() == before

    @pytest.mark.parametrize(
        "node",
        [
            "Constant <value = float[3] {0.1, 0.1, 0.1}> ()",
            "Constant <value_floats = [0.1, 0.1, 0.1]> ()",
            "Constant <value_float = 0.1> ()",
            "ConstantOfShape <value = float[1] {0.1}> (three)",
        ],
    )
    def test_constants_made_by_nodes(self, node: str) -> None:
        model = model_of(f"c = {node}; y = Add (x, c)", three=[3])
        half = cast_to_float16(model)
        assert types(half)["c"] == FLOAT16
        np.testing.assert_allclose(run_graph(half, x=X)[0], X + 0.1, rtol=ROUNDED)

    def test_integer_constants_are_none_of_its_business(self) -> None:
        half = cast_to_float16(model_of("shape = Constant <value_ints = [3, 2]> (); y = Reshape (x, shape)"))
        assert types(half)["shape"] == TensorProto.INT64
        np.testing.assert_array_equal(run_graph(half, x=X)[0], X.reshape(3, 2))

    def test_shapes_and_indices_are_read_from_float16_without_a_cast(self) -> None:
        model = model_of(
            "e = Exp (x); shape = Shape (e); best = ArgMax <axis = 1> (e); best_float = Cast <to = 1> (best);"
            "wide = Expand (best_float, shape); y = Add (wide, e)"
        )
        half = cast_to_float16(model)
        named = nodes_by_name(half)
        assert [named["shape"].input[0], named["best"].input[0]] == ["e", "e"]
        assert casts(half) == 3  # x in, the model's own, y out
        assert types(half)["best_float"] == FLOAT16
        np.testing.assert_allclose(run_graph(half, x=X)[0], run_graph(model, x=X)[0], rtol=ROUNDED)


class TestStaysFloat:
    def test_a_kept_node_stands_between_casts(self) -> None:
        body = "a = Relu (x); kept = MatMul (a, w); halved = MatMul (kept, w); y = Add (halved, a)"
        model = model_of(body, w=np.full((3, 3), 0.3, np.float32))
        half = cast_to_float16(model, keep=frozenset({"kept"}))
        found, named = types(half), nodes_by_name(half)
        assert [found[name] for name in (*named["kept"].input, *named["kept"].output)] == [FLOAT] * 3
        assert [found[name] for name in (*named["halved"].input, *named["halved"].output)] == [FLOAT16] * 3
        assert set(initializers(half)) == {"w", "w/fp16"}
        np.testing.assert_allclose(run_graph(half, x=X)[0], run_graph(model, x=X)[0], rtol=ROUNDED)

    def test_a_kept_output_needs_no_cast(self) -> None:
        half = cast_to_float16(model_of("y = Relu (x)"), keep=frozenset({"y"}))
        assert [node.op_type for node in half.graph.node] == ["Relu"]

    def test_one_cast_serves_all_its_readers(self) -> None:
        half = cast_to_float16(model_of("a = Relu (x); b = Exp (x); c = Neg (x); y = Sum (a, b, c)"))
        assert casts(half) == 2

    def test_the_scales_of_resize(self) -> None:
        model = model_of('y = Resize <mode = "nearest"> (x, , scales)', scales=np.array([1, 2], np.float32))
        half = cast_to_float16(model)
        found, resize = types(half), nodes_by_name(half)["y"]
        assert [found[resize.input[0]], found[resize.input[2]], found[resize.output[0]]] == [FLOAT16, FLOAT, FLOAT16]
        np.testing.assert_array_equal(run_graph(half, x=X)[0], np.repeat(X, 2, axis=1))

    def test_an_operator_that_has_no_float16_form(self) -> None:
        """Range computes float32, float64 and integers only."""
        numbers = {"zero": np.float32(0), "three": np.float32(3), "one": np.float32(1)}
        model = model_of("r = Range (zero, three, one); y = Add (x, r)", **numbers)
        half = cast_to_float16(model)
        assert types(half)["r"] == FLOAT
        assert types(half)[nodes_by_name(half)["y"].input[1]] == FLOAT16
        np.testing.assert_allclose(run_graph(half, x=X)[0], X + np.arange(3), rtol=ROUNDED)


GUARDED = {
    "Clip": "n = ReduceL2 (x, axis); d = Clip (n, e); y = Div (x, d)",
    "Max": "n = ReduceL2 (x, axis); d = Max (n, e); y = Div (x, d)",
    "Add": "n = ReduceMean (x, axis); d = Add (n, e); y = Div (x, d)",
    "constant": "n = ReduceL2 (x, axis); c = Constant <value_float = 1e-12> (); d = Max (n, c); y = Div (x, d)",
}


class TestVanishing:
    @pytest.mark.parametrize("guard", GUARDED)
    @pytest.mark.parametrize("size", [1e-12, 1e-8])
    def test_a_guarded_division_by_0_is_none_in_float16(self, guard: str, size: float) -> None:
        """``F.normalize`` of a row of zeros is such a row: its bound of 1e-12 must not become 0."""
        half = cast_to_float16(model_of(GUARDED[guard], e=np.float32(size), axis=[1]))
        (found,) = run_graph(half, x=np.array([[0, 0, 0], [3, 0, 4]], np.float32))
        divisor = 7 / 3 if guard == "Add" else 5
        np.testing.assert_allclose(found, [[0, 0, 0], [3 / divisor, 0, 4 / divisor]], rtol=ROUNDED)

    def test_numbers_keep_their_sign_and_those_of_a_weight_may_vanish(self) -> None:
        numbers = {"a": np.float32(-1e-9), "b": np.float32([1e-9, 0, 1])}
        half = initializers(cast_to_float16(model_of("s = Add (x, a); y = Mul (s, b)", **numbers)))
        found = {name: numpy_helper.to_array(half[f"{name}/fp16"]).tolist() for name in numbers}
        assert found == {"a": -(2.0**-24), "b": [0, 0, 1]}


class TestRefused:
    @pytest.mark.parametrize(
        ("body", "weights"),
        [("y = Add (x, w)", {"w": np.float32(7e4)}), ("w = Constant <value_float = -70000.0> (); y = Add (x, w)", {})],
        ids=["weight", "constant"],
    )
    def test_a_number_too_large_for_float16(self, body: str, weights: dict[str, Any]) -> None:
        with pytest.raises(InputError, match=r"^w: 7e\+04 exceeds float16's 65504; build it without fp16"):
            cast_to_float16(model_of(body, **weights))

    def test_the_largest_float16_is_not_too_large(self) -> None:
        half = cast_to_float16(model_of("y = Mul (x, w)", w=np.float32(65504)))
        assert initializers(half)["w/fp16"].data_type == FLOAT16

    def test_a_large_weight_of_a_kept_node_is_fine(self) -> None:
        model = model_of("y = Mul (x, w)", w=np.float32(1e6))
        np.testing.assert_array_equal(
            run_graph(cast_to_float16(model, keep=frozenset({"y"})), x=X)[0], X * np.float32(1e6)
        )

    def test_control_flow(self) -> None:
        branch = helper.make_graph(
            [helper.make_node("Neg", ["x"], ["b"])], "b", [], [helper.make_tensor_value_info("b", FLOAT, [2, 3])]
        )
        node = helper.make_node("If", ["yes"], ["y"], "choice", then_branch=branch, else_branch=branch)
        with pytest.raises(InputError, match=r"node choice: control flow \(If\) has no float16 form"):
            cast_to_float16(model_of([node], yes=np.array(True)))

    def test_an_operator_that_onnx_does_not_know(self) -> None:
        model = model_of("sharpened = acme.Sharpen (x)", outputs=("sharpened",))
        model.opset_import.append(helper.make_opsetid("acme", 1))
        with pytest.raises(InputError, match=r"node sharpened: acme.Sharpen is not an ONNX operator"):
            cast_to_float16(model)


UNARY = ("Relu", "Neg", "Sigmoid", "Identity", "ToInteger", "Softmax")
BINARY = ("Add", "Mul", "Max", "Concat")


@st.composite
def random_graphs(draw: st.DrawFn) -> tuple[onnx.ModelProto, frozenset[str]]:
    """Up to eight nodes, each reading any tensors before it or a weight; any may be an output, any may be kept."""
    tensors, nodes = ["x"], []
    for i in range(draw(st.integers(1, 8))):
        op, name = draw(st.sampled_from(UNARY + BINARY)), f"t{i}"
        sources = [draw(st.sampled_from([*tensors, "w"])) for _ in range(2 if op in BINARY else 1)]
        if op == "ToInteger":
            nodes.append(helper.make_node("Cast", sources, [f"{name}i"], f"{name}i", to=TensorProto.INT32))
            nodes.append(helper.make_node("Cast", [f"{name}i"], [name], name, to=FLOAT))
        elif op == "Concat":
            nodes.append(helper.make_node("Concat", sources, [f"{name}c"], f"{name}c", axis=0))
            nodes.append(helper.make_node("Slice", [f"{name}c", "begin", "end"], [name], name))
        else:
            nodes.append(helper.make_node(op, sources, [name], name))
        tensors.append(name)
    outputs = draw(st.lists(st.sampled_from(tensors[1:]), min_size=1, max_size=3, unique=True))
    keep = draw(st.frozensets(st.sampled_from([node.name for node in nodes])))
    weight = np.array([[1.5, -2, 0.25], [0, 1, 2]], np.float32)
    model = model_of(nodes, outputs, w=weight, begin=np.array([1]), end=np.array([3]))
    return model, keep


@given(graph=random_graphs())
@settings(max_examples=60, deadline=None)
def test_any_graph_keeps_its_interface_passes_the_checker_and_its_meaning(
    graph: tuple[onnx.ModelProto, frozenset[str]],
) -> None:
    model, keep = graph
    half = cast_to_float16(model, keep=keep)
    found = types(half)
    assert [value.name for value in half.graph.output] == [value.name for value in model.graph.output]
    assert all(found[value.name] == FLOAT for value in (*half.graph.input, *half.graph.output))
    for node in half.graph.node:
        if node.op_type not in ("Cast", "Slice"):
            expected = FLOAT if node.name in keep else FLOAT16
            assert {found[name] for name in (*node.input, *node.output)} == {expected}
    x = np.array([[1, -2, 3], [0.5, 4, -1]], np.float32)  # exact in float16, as are the weights
    for actual, expected_values in zip(run_graph(half, x=x), run_graph(model, x=x), strict=True):
        # Squaring doubles the relative error and rounds once more. 1.5, the slowest to grow, passes 1e4 with the fifth
        # squaring; four leave it with 31 roundings of 2**-11, 1.5 %. Where numbers cancel, the rest counts absolutely.
        close = np.isclose(actual, expected_values, rtol=0.02, atol=0.02)
        # A product of products may pass 65504, and a number just beside an integer may be cut to its neighbour.
        unfair = (np.abs(expected_values) > 1e4) | (np.abs(actual - expected_values) >= 0.9)
        assert np.all(close | unfair)
