"""The network as other programs want it: float32 ``[N, 3, H, W]`` in 0..1 in, probabilities out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper


def with_float_input(source: Path, out: Path) -> None:
    """Write ``source`` with the input ``images`` and the output ``output0``, and the metadata that Ultralytics reads.

    Removes Cast and Transpose, and scales the constants of the normalisation by 255: no work is added or removed.
    """
    model = onnx.load(source)
    graph = model.graph
    cast, transpose, sub, mul = graph.node[:4]
    assert [n.op_type for n in graph.node[:4]] == ["Cast", "Transpose", "Sub", "Mul"], "another exporter's graph"
    for node, factor in ((sub, 1 / 255), (mul, 255)):
        constant = next(weight for weight in graph.initializer if weight.name == node.input[1])
        scaled = numpy_helper.to_array(constant) * np.float32(factor)
        constant.CopyFrom(numpy_helper.from_array(scaled, constant.name))
    sub.input[0] = "images"
    graph.node.remove(cast)
    graph.node.remove(transpose)
    batch, height, width, channels = (
        dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim
    )
    shape = [batch, channels, height, width]
    graph.input[0].CopyFrom(helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, shape))
    logits = graph.output[0]
    classes = logits.type.tensor_type.shape.dim[1].dim_value
    graph.node.append(helper.make_node("Softmax", [logits.name], ["output0"]))
    logits.CopyFrom(helper.make_tensor_value_info("output0", onnx.TensorProto.FLOAT, [batch, classes]))
    del model.metadata_props[:]
    names = {index: f"class {index}" for index in range(classes)}
    properties = {
        "task": "classify",
        "stride": 1,
        "batch": 1,
        "imgsz": [height, width],
        "names": names,
        "channels": channels,
    }
    helper.set_model_props(model, {key: str(value) for key, value in properties.items()})
    onnx.save(model, out)
