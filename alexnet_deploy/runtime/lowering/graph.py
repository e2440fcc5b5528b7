"""The graph that ONNX Runtime opens on a CPU for a quantised engine: the same function, in nodes that it runs fast.

int8: ``integer.py`` and ``input_rows.py``. The float16 of a +fp16 engine becomes float32, which this processor has
kernels for: exact, but that the numbers between the layers are no longer rounded to float16. fp8: no CPU multiplies
float8, so the weights are float32 from the start, and the activations are still rounded to float8. Weights alone:
``nbits.py``.
"""

from __future__ import annotations

import logging
from pathlib import Path

import onnx
from onnx import TensorProto, external_data_helper

from alexnet_deploy.onnx_graph.float32 import widen_to_float32
from alexnet_deploy.onnx_graph.layers import LAYERS
from alexnet_deploy.precision.types import is_weights_only
from alexnet_deploy.runtime.lowering.cpu_options import exact_integers
from alexnet_deploy.runtime.lowering.dequantise import dequantise_weights
from alexnet_deploy.runtime.lowering.input_rows import input_in_rows
from alexnet_deploy.runtime.lowering.integer import to_integers
from alexnet_deploy.runtime.lowering.nbits import multiply_in_blocks
from alexnet_deploy.runtime.lowering.own_weights import own_weights

_log = logging.getLogger(__name__)


def graph_for_cpu(path: Path, precision: str) -> bytes | None:
    """The model of a quantised engine, rewritten and serialised; None where the file itself is as good.

    ``path`` is a bundle's file, which was checked when it was opened. Raises OSError.
    """
    model = onnx.ModelProto.FromString(path.read_bytes())
    if any(external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer):
        _log.debug("%s: its weights lie in another file, so it runs as it is written", path)
        return None
    if widen_to_float32(model, (TensorProto.FLOAT16,), str(path)):
        _log.debug("%s: its float16 parts are computed in float32", path)
        del model.graph.value_info[:]
    if is_weights_only(precision):
        for name, kernel in multiply_in_blocks(model).items():
            _log.debug("%s: %s: %s", path, name, kernel)
        return bytes(model.SerializeToString())
    if precision.startswith("fp8"):
        dequantise_weights(model, [node for node in model.graph.node if node.op_type in LAYERS])
        _log.debug("%s: layers are computed in float32, on activations that are rounded to float8", path)
        return bytes(model.SerializeToString())
    found = to_integers(model)
    if not found.fused and not found.left:
        return None
    _log.debug("%s: ONNX Runtime computes %d layers in integers", path, len(found.fused))
    for name, reason in found.left.items():
        _log.debug("%s: %s stays in float32: %s", path, name, reason)
    unchanged = input_in_rows(model, found.fused)
    if unchanged is not None:
        _log.debug("%s: the pixels are normalised as the file says: %s", path, unchanged)
    if exact_integers(precision):
        own_weights(model)
    return bytes(model.SerializeToString())
