"""The search for a model's own scaling takes time in proportion to its nodes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.adoption.own_scaling import scaling_node
from alexnet_deploy.onnx_graph.edits import fresh_name

MANY = 30_000
"""A search of all nodes at each node would take minutes."""


def test_a_scaling_behind_very_many_nodes_is_found() -> None:
    nodes = [helper.make_node("Identity", [f"t{k}"], [f"t{k + 1}"]) for k in range(MANY)]
    nodes.append(helper.make_node("Div", [f"t{MANY}", "unit"], ["y"], "scales"))
    x = helper.make_tensor_value_info("t0", TensorProto.FLOAT, ["N", 3, 8, 8])
    unit = numpy_helper.from_array(np.array(255, np.float32), "unit")
    model = onnx.ModelProto(graph=helper.make_graph(nodes, "g", [x], [], [unit]))
    assert scaling_node(model, "t0") == "scales"


def test_very_many_requests_for_one_name() -> None:
    taken = {"a"}
    found = [fresh_name(taken, "a") for _ in range(MANY)]
    assert found[:2] == ["a_2", "a_3"]
    assert len(set(found)) == MANY
