"""Normalisations for which onnx infers no shapes -> standard operators that compute the same.

Of the operators at our opset these are two: GroupNormalization, whose own definition by a function names a version
that onnx has withdrawn, and MeanVarianceNormalization without ``axes``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph.edits import fresh_name, names_in
from alexnet_deploy.onnx_graph.limits import STANDARD_DOMAINS, subgraphs
from alexnet_deploy.onnx_graph.onnx_file import initializers

_DEFAULT_AXES = (0, 2, 3)
"""Of MeanVarianceNormalization, with the batch among them: such a model answers for one image at a time."""
_DEFAULT_EPSILON = 1e-5


def write_out_normalisations(model: onnx.ModelProto, path: Path) -> None:
    """Replace each GroupNormalization of the main graph, and write out the axes of MeanVarianceNormalization, in place.

    ``model`` is at our opset. InputError for a GroupNormalization in a branch.
    """
    graph = model.graph
    for node in graph.node:
        for inner in subgraphs(node):
            _refuse_inside(inner, path)
    for node in graph.node:
        if _is(node, "MeanVarianceNormalization") and not any(a.name == "axes" for a in node.attribute):
            node.attribute.append(helper.make_attribute("axes", _DEFAULT_AXES))
    if not any(_is(node, "GroupNormalization") for node in graph.node):
        return
    writer = _Writer(names_in(graph), initializers(model))
    for node in graph.node:
        if _is(node, "GroupNormalization"):
            writer.write_out(node)
        else:
            writer.nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(writer.nodes)
    graph.initializer.extend(writer.weights)


def _is(node: onnx.NodeProto, op_type: str) -> bool:
    return bool(node.op_type == op_type and node.domain in STANDARD_DOMAINS)


def _refuse_inside(graph: onnx.GraphProto, path: Path) -> None:
    for node in graph.node:
        if _is(node, "GroupNormalization"):
            raise InputError(
                f"{path}: node {node.name or node.op_type} ({node.op_type}) stands in a branch of control flow, where "
                "its shapes cannot be inferred; export the model without the branch"
            )
        for inner in subgraphs(node):
            _refuse_inside(inner, path)


class _Writer:
    def __init__(self, taken: set[str], constants: dict[str, TensorProto]) -> None:
        self.taken, self.constants = taken, constants
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self.prefix = ""

    def write_out(self, node: onnx.NodeProto) -> None:
        """Each group is a channel of an InstanceNormalization; the scale and the bias are per channel, [C]."""
        self.prefix = node.name or node.output[0]
        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        groups = int(settings["num_groups"])
        tensor, scale, bias = node.input
        known = self.constants.get(scale)
        elem_type = TensorProto.FLOAT if known is None else known.data_type
        sizes = self.add("Shape", tensor)
        flat = self.add("Reshape", tensor, self.weight(np.array([0, 0, -1], np.int64)))
        flat_sizes = self.add("Shape", flat)
        found = self.add("Reshape", flat, self.weight(np.array([0, groups, -1], np.int64)))
        if elem_type != TensorProto.FLOAT:  # the mean and the variance are float32 by ``stash_type``
            found = self.add("Cast", found, to=TensorProto.FLOAT)
        ones, zeros = self.weight(np.ones(groups, np.float32)), self.weight(np.zeros(groups, np.float32))
        epsilon = float(settings.get("epsilon", _DEFAULT_EPSILON))
        found = self.add("InstanceNormalization", found, ones, zeros, epsilon=epsilon)
        if elem_type != TensorProto.FLOAT:
            found = self.add("Cast", found, to=elem_type)
        found = self.add("Reshape", found, flat_sizes)
        column = self.weight(np.array([-1, 1], np.int64))
        found = self.add("Mul", found, self.add("Reshape", scale, column))
        found = self.add("Add", found, self.add("Reshape", bias, column))
        self.add("Reshape", found, sizes)
        self.nodes[-1].output[0] = node.output[0]

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = fresh_name(self.taken, f"{self.prefix}/{op}")
        output = fresh_name(self.taken, f"{name}_output")
        self.nodes.append(helper.make_node(op, inputs, [output], name, **attributes))
        return output

    def weight(self, values: NDArray[Any]) -> str:
        name = fresh_name(self.taken, f"{self.prefix}/number")
        self.weights.append(numpy_helper.from_array(values, name))
        return name
