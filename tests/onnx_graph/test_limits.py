"""Files that describe work without a bound are refused in one line, before anything follows their structure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph import limits
from alexnet_deploy.onnx_graph.onnx_file import load_onnx
from tests.helpers.models.graphs import graph_model

OPSETS = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]


def refusal(model: onnx.ModelProto, folder: Path) -> str:
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError) as caught:
        load_onnx(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_functions(*calls: list[str], attribute: onnx.AttributeProto | None = None) -> onnx.ModelProto:
    """Functions F0, F1, ... of the given chains of operators; the graph calls the last one."""
    model = graph_model("(float[1,3] x) => (float[1,3] y)", f"y = f.F{len(calls) - 1} (x)")
    if attribute is not None:
        model.graph.node[0].attribute.append(attribute)
    for i, ops in enumerate(calls):
        names = ["a", *(f"t{j}" for j in range(1, len(ops))), "b"]
        nodes = [
            helper.make_node(op, names[j : j + 1], names[j + 1 : j + 2], domain="f" if op.startswith("F") else "")
            for j, op in enumerate(ops)
        ]
        model.functions.append(helper.make_function("f", f"F{i}", ["a"], ["b"], nodes, OPSETS))
    model.opset_import.append(OPSETS[1])
    return model


class TestFunctions:
    def test_a_function_that_calls_itself(self, tmp_path: Path) -> None:
        assert "function F0 calls itself" in refusal(with_functions(["F0"]), tmp_path)
        assert "calls itself" in refusal(with_functions(["F1"], ["F0"]), tmp_path)

    def test_functions_that_double_at_every_level(self, tmp_path: Path) -> None:
        calls = [["Relu"], *([f"F{i}"] * 2 for i in range(25))]
        assert f"more than {limits.MAX_NODES} nodes" in refusal(with_functions(*calls), tmp_path)

    def test_a_large_attribute_in_every_node_of_a_function(self, tmp_path: Path) -> None:
        calls = [["Relu"] * 300, *([f"F{i}"] * 3 for i in range(4))]
        large = helper.make_attribute("table", numpy_helper.from_array(np.zeros(100_000, np.int8)))
        assert "MiB" in refusal(with_functions(*calls, attribute=large), tmp_path)

    def test_many_levels(self, tmp_path: Path) -> None:
        calls = [["Relu"], *([f"F{i}"] for i in range(limits.MAX_DEPTH + 1))]
        assert "nested more than" in refusal(with_functions(*calls), tmp_path)

    def test_an_ordinary_one_is_loaded(self, tmp_path: Path) -> None:
        path = tmp_path / "net.onnx"
        path.write_bytes(with_functions(["Relu", "Neg"], ["F0", "F0"]).SerializeToString())
        assert len(load_onnx(path).functions) == 2


class TestControlFlow:
    @pytest.mark.parametrize("op", ["Loop", "Scan", "SequenceMap"])
    def test_what_repeats(self, op: str, tmp_path: Path) -> None:
        model = graph_model("(float[1,3] x) => (float[1,3] y)", "y = Relu (x)")
        body = helper.make_graph([helper.make_node("Relu", ["x"], ["b"])], "body", [], [])
        model.graph.node.insert(0, helper.make_node(op, ["x"], ["z"], "again", body=body))
        assert f"node again: the work of a {op} has no bound" in refusal(model, tmp_path)


def grown(op: str, **weights: Any) -> onnx.ModelProto:
    signature = "(float[N,3] x) => (float[a,b] y)"
    return graph_model(signature, f"big = {op}; best = ReduceMax <keepdims = 0> (big); y = Add (x, best)", **weights)


class TestSizes:
    @pytest.mark.parametrize(
        "op",
        ["ConstantOfShape (shape)", "Expand (x, shape)", "Tile (x, shape)"],
    )
    def test_a_tensor_that_no_memory_holds(self, op: str, tmp_path: Path) -> None:
        assert "tensor big" in refusal(grown(op, shape=np.array([10**10, 3])), tmp_path)

    def test_a_weight_that_declares_more_than_it_holds(self, tmp_path: Path) -> None:
        model = graph_model("(float[N,3] x) => (float[N,3] y)", "y = Add (x, w)", w=np.zeros(3, np.float32))
        model.graph.initializer[0].dims[0] = 2**40
        assert "tensor w: has 12 bytes of data, its shape needs 4398046511104" in refusal(model, tmp_path)

    def test_a_convolution_that_takes_days(self, tmp_path: Path) -> None:
        body = "y = Conv <pads = [2000, 2000, 2000, 2000], kernel_shape = [4000, 4000]> (x, w)"
        weights = {"w": np.zeros((1, 1, 4000, 4000), np.int8).astype(np.float16)}
        model = graph_model("(float16[N,1,2000,2000] x) => (float16[N,1,h,w] y)", body, **weights)
        assert "node y (Conv) takes 6.41e+13 multiply-adds" in refusal(model, tmp_path)

    @pytest.mark.parametrize("growth", ["Concat <axis = 0> ({0}, {0})", "Unsqueeze ({0}, axes)", "Gather ({0}, {0})"])
    def test_shapes_that_grow_from_node_to_node(self, growth: str, tmp_path: Path) -> None:
        """Shape inference would write them out, gigabytes of them."""
        chain = "; ".join(f"s{i + 1} = {growth.format(f's{i}')}" for i in range(70))
        model = graph_model(
            "(float[N,3] x) => (float[N,3] y)", f"s0 = Shape (x); {chain}; y = Relu (x)", axes=np.array([0])
        )
        assert "; export it again" in refusal(model, tmp_path)

    def test_a_fixed_batch(self, tmp_path: Path) -> None:
        model = graph_model("(float[1000000,3] x) => (float[1000000,3] y)", "y = Relu (x)")
        assert "accepts only batches of 1000000; export it with a free batch" in refusal(model, tmp_path)

    def test_long_weights_joined_once_are_no_shapes(self, tmp_path: Path) -> None:
        path = tmp_path / "net.onnx"
        halves = {name: np.zeros(80_000, np.float32) for name in ("v", "w")}
        model = graph_model(
            "(float[N,160000] x) => (float[N,160000] y)", "b = Concat <axis = 0> (v, w); y = Add (x, b)", **halves
        )
        path.write_bytes(model.SerializeToString())
        assert load_onnx(path).graph.node


def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.onnx")
    with pytest.raises(InputError, match=r"net.onnx: cannot be read \(it is a FIFO"):
        load_onnx(tmp_path / "net.onnx")
    with pytest.raises(InputError, match=r"/dev/zero: cannot be read \(it is a device"):
        load_onnx(Path("/dev/zero"))
