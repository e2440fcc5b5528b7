"""The last nodes of an adopted graph: from a tensor with scores to ``logits``, float32 ``[N, K]``."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.adoption.outputs.endings import nodes_behind_the_last_layer
from alexnet_deploy.onnx_graph.edits import remove_unused
from alexnet_deploy.onnx_graph.onnx_file import fixed_batch, name_nodes

IN_FLOAT32 = "probabilities/"
"""Nodes with such names stay float32 in a float16 graph: small probabilities are 0 there, large powers infinite."""
_SMALLEST = np.finfo(np.float32).tiny
"""Its logarithm is -87: a probability of 0 becomes 1e-38."""
_LARGEST = np.float32(1 - 2**-24)
"""The largest float32 below 1: its logit is 16.6."""
_OURS = (
    "Flatten", "Reshape", "Cast", "Scale", "Max", "Log", "Clip", "Negative", "Complement", "LogComplement",
    "Difference", "TwoClasses",
)  # fmt: skip
NAMES = (
    "logits",
    *(
        f"{prefix}{name}{end}"
        for prefix in ("logits/", IN_FLOAT32)
        for name in _OURS
        for end in ("", "/out", "/0", "/1")
    ),
)
"""Of nodes and tensors that ``append_logits`` may add."""


class _Nodes:
    """Appends nodes one behind the other."""

    def __init__(self, graph: onnx.GraphProto, tensor: str, prefix: str) -> None:
        self.graph, self.tensor, self.prefix = graph, tensor, prefix
        self.made: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def add(self, op: str, name: str, *others: np.ndarray | str, after: str | None = None, **attributes: Any) -> str:
        """Apply ``op`` to the last tensor (or ``after``) and ``others``; constants are arrays."""
        inputs = [after or self.tensor]
        for index, other in enumerate(others):
            if not isinstance(other, str):
                self.weights.append(numpy_helper.from_array(other, f"{self.prefix}{name}/{index}"))
                other = self.weights[-1].name
            inputs.append(other)
        self.tensor = f"{self.prefix}{name}/out"
        self.made.append(helper.make_node(op, inputs, [self.tensor], f"{self.prefix}{name}", **attributes))
        return self.tensor

    def save(self) -> None:
        """Put nodes and weights into the graph, the last output as ``logits``."""
        self.made[-1].output[0] = "logits"
        self.graph.node.extend(self.made)
        self.graph.initializer.extend(self.weights)


def append_logits(
    model: onnx.ModelProto,
    tensor: str,
    inferred: onnx.TypeProto.Tensor,
    undo: Literal["log", "logit"] | None,
    factor: float,
    *,
    classes: int,
) -> None:
    """Make ``logits`` the output of ``model``: ``tensor`` [N, K], apart from its shape and type, or what ``undo`` says.

    ``inferred`` is the type of ``tensor``. No other name in ``model`` is one of ``NAMES``.

    "log" gives log(p) and "logit" log(p / (1 - p)) of p = ``tensor`` / ``factor``. One class becomes two, of which the
    first has logit 0.
    """
    graph = model.graph
    prefix = "logits/"
    if undo:
        prefix = IN_FLOAT32
        for node in nodes_behind_the_last_layer(model, tensor):
            node.name = f"{prefix}{node.name}"
        name_nodes(model)
    nodes = _Nodes(graph, tensor, prefix)
    if len(inferred.shape.dim) > 1:
        # Flatten also undoes the reshapes that an exporter or the opset converter adds around a softmax.
        nodes.add("Flatten", "Flatten", axis=1)
    else:
        nodes.add("Reshape", "Reshape", np.array([-1, classes], np.int64))
    if inferred.elem_type != TensorProto.FLOAT:
        nodes.add("Cast", "Cast", to=TensorProto.FLOAT)
    if undo:
        if factor != 1:
            nodes.add("Mul", "Scale", np.array(1 / factor, np.float32))
        if undo == "log":
            nodes.add("Max", "Max", np.array(_SMALLEST))
            nodes.add("Log", "Log")
        else:
            p = nodes.add("Clip", "Clip", np.array(_SMALLEST), np.array(_LARGEST))
            log_p = nodes.add("Log", "Log", after=p)
            other = _complement(nodes, p)
            nodes.add("Sub", "Difference", other, after=log_p)
    if classes == 1:
        nodes.add("Mul", "TwoClasses", np.array([[0, 1]], np.float32))
    nodes.save()
    del graph.output[:]
    graph.output.append(
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [fixed_batch(model) or "N", max(classes, 2)])
    )
    remove_unused(graph)


def _complement(nodes: _Nodes, p: str) -> str:
    """log(1 - p): the negative first, so that the constant stands second."""
    nodes.add("Neg", "Negative", after=p)
    nodes.add("Add", "Complement", np.array(1, np.float32))
    return nodes.add("Log", "LogComplement")
