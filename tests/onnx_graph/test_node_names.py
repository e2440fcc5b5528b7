"""Node names are unique and printable: converters, builders and reports find nodes by them."""

from __future__ import annotations

import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from alexnet_deploy.onnx_graph.onnx_file import name_nodes


@given(
    st.lists(st.sampled_from(["", "a", "a_1", "a_2_2"]) | st.text(st.characters(exclude_categories=["Cs"])), max_size=8)
)
def test_any_names(names: list[str]) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"], name) for name in names]
    model = onnx.ModelProto(graph=helper.make_graph(nodes, "g", [], []))
    name_nodes(model)
    found = [node.name for node in model.graph.node]
    assert len(set(found)) == len(found)
    assert all(name and name.isprintable() for name in found)
    if len(set(names)) == len(names):
        assert all(new == old for new, old in zip(found, names, strict=True) if old and old.isprintable())
