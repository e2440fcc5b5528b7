"""Whether the numbers between the layers of a float16 model fit into float16.

On a CPU, ONNX Runtime and OpenVINO compute such a model in float32, where nothing overflows. On a GPU the same layer
gives infinity, and an answer that may still look like one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from alexnet_deploy.errors import ProofError
from alexnet_deploy.machine.packages import onnxruntime_version
from alexnet_deploy.onnx_graph.edits import fresh_name, names_in
from alexnet_deploy.onnx_graph.element_types import element_types
from alexnet_deploy.onnx_graph.float32 import widen_to_float32
from alexnet_deploy.onnx_graph.onnx_file import load_onnx

# Legend: N image, H height, W width, C channel

LARGEST = float(np.finfo(np.float16).max)
_NEAR = LARGEST / 4
"""From here on, other photos than the ones tried may well pass the limit: a note says so."""


def require_float16_range(typed: Path, pixels_NHWC: NDArray[np.uint8], *, name: str, instead: str) -> list[str]:
    """Compute the float16 tensors of ``typed`` in float32 on photos; ProofError where one exceeds float16.

    The error calls the model ``name``, and ends with the advice ``instead``. Returns notes for people: that the check
    could not be made, or that a number comes close. A model without float16 costs nothing.
    """
    model = load_onnx(typed)
    types = element_types(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    made = {
        output: node
        for node in model.graph.node
        for output in node.output
        if output and types.get(output) == TensorProto.FLOAT16 and not set(node.input) <= constants
    }
    if not made:
        return []
    if onnxruntime_version() is None:
        return ["not checked whether its numbers fit into float16: ONNX Runtime is not installed"]
    largest = _largest(model, list(made), pixels_NHWC, name)
    for tensor, node in made.items():
        # One that is infinite in float32 as well, such as a mask, is so on every runtime.
        if LARGEST < largest[tensor] < np.inf:
            raise ProofError(describe_overflow(name, node.name, node.op_type, largest[tensor], instead))
    finite = {tensor: value for tensor, value in largest.items() if value < np.inf}
    tensor = max(finite, key=finite.__getitem__, default=None)
    if tensor is None or finite[tensor] < _NEAR:
        return []
    return [
        f"numbers of {made[tensor].name} reach {finite[tensor]:.5g} on {len(pixels_NHWC)} photos, and float16 ends at "
        f"{LARGEST:.0f}: on other images they may exceed it"
    ]


def describe_overflow(name: str, node: str, kind: str, largest: float, instead: str) -> str:
    """The text of a ProofError about numbers that a node gives or reads."""
    return (
        f"{name}: not written: numbers of {node} ({kind}) reach {largest:.3g}, and float16 ends at {LARGEST:.0f}, so a "
        f"GPU would compute infinity; {instead}"
    )


def _largest(model: onnx.ModelProto, tensors: list[str], pixels_NHWC: NDArray[np.uint8], name: str) -> dict[str, float]:
    """The largest magnitude of each tensor, computed in float32; ``model`` is changed."""
    # Late, as it imports ONNX Runtime
    from alexnet_deploy.onnx_graph.taps import TensorSession

    widen_to_float32(model, (TensorProto.FLOAT16,), name)
    graph = model.graph
    del graph.value_info[:]
    taken = names_in(graph)
    outputs = {}
    for tensor in tensors:
        # Reduced in the graph: all activations of a large model at once would need gigabytes.
        magnitude, outputs[tensor] = (fresh_name(taken, f"{tensor}/{suffix}") for suffix in ("magnitude", "largest"))
        graph.node.append(helper.make_node("Abs", [tensor], [magnitude]))
        graph.node.append(helper.make_node("ReduceMax", [magnitude], [outputs[tensor]], keepdims=0))
    found = TensorSession(model, list(outputs.values()), source=name)(pixels_NHWC)
    return {tensor: float(np.max(found[output])) for tensor, output in outputs.items()}
