"""Constants are folded within a budget of memory and time, and no name of ours meets one of a foreign graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.onnx_graph import edits
from alexnet_deploy.onnx_graph.edits import fold_constants, free_names, fresh_name, names_in
from alexnet_deploy.onnx_graph.onnx_file import initializers
from tests.helpers.models.graphs import graph_model, run_graph

X = np.array([[0.5, -1.25, 3.0]], np.float32)
SIGNATURE = "(float[N,3] x) => (float[N,3] y)"


def folded(body: str, **weights: object) -> onnx.ModelProto:
    model = graph_model(SIGNATURE, body, **weights)
    fold_constants(model)
    return model


class TestFolding:
    def test_what_constants_compute_becomes_a_weight(self) -> None:
        body = "t = Transpose (w); s = Mul (t, two); shape = Shape (s); y = Add (x, s)"
        model = folded(body, w=np.ones((3, 1), np.float32), two=np.float32(2))
        assert [node.op_type for node in model.graph.node] == ["Add"]
        np.testing.assert_array_equal(numpy_helper.to_array(initializers(model)["s"]), [[2, 2, 2]])
        assert numpy_helper.to_array(initializers(model)["shape"]).tolist() == [1, 3]
        np.testing.assert_array_equal(run_graph(model, x=X)[0], X + 2)

    @pytest.mark.parametrize(
        "op",
        [
            "ConstantOfShape (long)",
            "Expand (one, long)",
            "Tile (one, long)",
            "Range (zero, many, step)",
            'Resize <mode = "linear"> (grid, , , sizes)',
            "Conv <kernel_shape = [200, 200]> (grid, grid)",
            'Einsum <equation = "abcd,efgh->"> (grid, grid)',
        ],
    )
    def test_what_costs_much_memory_or_time_stays_a_node(self, op: str) -> None:
        """Computed, each would take gigabytes or minutes; the test would not end."""
        model = folded(
            f"big = {op}; y = Relu (x)",
            long=np.array([10**12]),
            one=np.ones(1, np.float32),
            zero=np.int64(0),
            many=np.int64(10**12),
            step=np.int64(1),
            grid=np.ones((1, 1, 200, 200), np.float32),
            sizes=np.array([1, 1, 2000, 2000]),
        )
        assert "big" in {name for node in model.graph.node for name in node.output}

    def test_small_growth_adds_up_to_a_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each Concat doubles: forty of them would be a terabyte. The bound is 2 GiB, which take seconds to write."""
        monkeypatch.setattr(edits, "_MAX_FOLDED", 1 << 25)
        body = "; ".join(f"s{i + 1} = Concat <axis = 0> (s{i}, s{i})" for i in range(40))
        model = folded(f"{body}; y = Relu (x)", s0=np.zeros(1 << 18, np.int8))
        assert 30 < sum(node.op_type == "Concat" for node in model.graph.node) < 40

    def test_random_numbers_and_sequences_stay_nodes(self) -> None:
        body = "r = RandomNormal <shape = [3]> (); parts = SplitToSequence (w); d = Dropout (w, , yes); y = Relu (x)"
        model = folded(body, w=np.ones(3, np.float32), yes=np.array(True))
        assert [node.op_type for node in model.graph.node] == ["RandomNormal", "SplitToSequence", "Dropout", "Relu"]


NAMES = st.sampled_from(["x", "pixels", "pixels/mean", "a", "a/scale", "a/scale_2", "model/pixels", "logits", "w/fp16"])


class TestNames:
    def test_a_name_that_is_free_stays_and_is_then_taken(self) -> None:
        taken = {"a", "a_2"}
        assert [fresh_name(taken, "b"), fresh_name(taken, "b"), fresh_name(taken, "a")] == ["b", "b_2", "a_3"]
        assert taken == {"a", "a_2", "a_3", "b", "b_2"}

    def test_names_in_branches_count(self) -> None:
        result = [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)]
        branch = helper.make_graph([helper.make_node("Relu", ["x"], ["inner"], "inside")], "b", [], result)
        node = helper.make_node("If", ["yes"], ["y"], "choice", then_branch=branch, else_branch=branch)
        model = graph_model(SIGNATURE, [node], yes=np.array(True))
        assert names_in(model.graph) >= {"x", "y", "yes", "inner", "inside", "choice"}

    @given(
        tensors=st.lists(NAMES, min_size=4, max_size=4, unique=True),
        nodes=st.lists(NAMES, min_size=2, max_size=2, unique=True),
    )
    @settings(max_examples=50, deadline=None)
    def test_freed_names_are_nobodys_and_the_graph_computes_the_same(
        self, tensors: list[str], nodes: list[str]
    ) -> None:
        x, w, a, y = tensors
        ops = [("Mul", [x, w], a), ("Neg", [a], y)]
        graph = helper.make_graph(
            [helper.make_node(op, inputs, [out], name) for (op, inputs, out), name in zip(ops, nodes, strict=False)],
            "g",
            [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, 3])],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 3])],
            [numpy_helper.from_array(np.float32(2), w)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        wanted = ("pixels", "pixels/mean", "logits", "a/scale")
        free_names(model.graph, wanted)
        assert names_in(model.graph).isdisjoint(wanted)
        onnx.checker.check_model(model, full_check=True)
        np.testing.assert_array_equal(run_graph(model, **{model.graph.input[0].name: X})[0], -2 * X)
