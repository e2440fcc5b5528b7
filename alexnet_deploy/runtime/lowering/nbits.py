"""Weights alone in int4 or int8, as ONNX Runtime multiplies them on a CPU: the same function, in other nodes.

    before                                                    after
    DQ(int4 [K, N], blocks along K) -> MatMul                 MatMulNBits (com.microsoft), which reads the int4
    DQ(any other constant) -> Conv, Gemm, MatMul              the weight in float32, dequantised once

As written, it dequantises the weights in every call: 10 times as slow as float16. MatMulNBits also has a kernel for
int8, but that rounds the activations to int8 (``accuracy_level`` 4), and without it is 20 times as slow as float32.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.onnx_graph.edits import fresh_name, names_in, remove_unused
from alexnet_deploy.onnx_graph.layers import LAYERS, attribute
from alexnet_deploy.onnx_graph.onnx_file import initializers
from alexnet_deploy.runtime.lowering.dequantise import dequantised

# Legend: K input, N output, S block, B inputs per block

DOMAIN = "com.microsoft"
_MIN_BLOCK = 16
_ZERO = 8
"""MatMulNBits stores int4 as 0..15, and this one is 0 where it has no zero points."""


def multiply_in_blocks(model: onnx.ModelProto) -> dict[str, str]:
    """Rewrite a float32 ``model`` with quantised weights in place; by layer, how it is now computed."""
    graph = model.graph
    constants = initializers(model)
    makers = {name: node for node in graph.node for name in node.output}
    taken = names_in(graph)
    found: dict[str, str] = {}
    for layer in [node for node in graph.node if node.op_type in LAYERS]:
        source = makers.get(layer.input[1])
        if (
            source is None
            or source.op_type != "DequantizeLinear"
            or any(name not in constants for name in source.input)
        ):
            continue
        operands = [constants[name] for name in source.input]
        if layer.op_type == "MatMul" and _fits(source, operands):
            _use_nbits(graph, layer, source, operands, taken)
            found[layer.name] = "MatMulNBits on int4"
        else:
            name = fresh_name(taken, f"{source.output[0]}/float")
            graph.initializer.append(numpy_helper.from_array(dequantised(source, operands), name))
            layer.input[1] = name
            found[layer.name] = "float32, its weight dequantised once"
    if DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    remove_unused(graph)
    return found


def _fits(source: onnx.NodeProto, operands: list[TensorProto]) -> bool:
    """Whether MatMulNBits computes with this weight: int4 in blocks of a power of 2 along K, around zero."""
    values, scale, *zero = operands
    block = int(attribute(source, "block_size", 0))
    return (
        values.data_type == TensorProto.INT4
        and scale.data_type == TensorProto.FLOAT
        and len(values.dims) == 2
        and attribute(source, "axis", 1) in (0, -2)
        and block >= _MIN_BLOCK
        and block & (block - 1) == 0
        and not any(numpy_helper.to_array(tensor).astype(np.int8).any() for tensor in zero)
    )


def _use_nbits(
    graph: onnx.GraphProto, layer: onnx.NodeProto, source: onnx.NodeProto, operands: list[TensorProto], taken: set[str]
) -> None:
    """Make a MatMulNBits of ``layer``, whose weight is ``[N, S, B / 2]`` bytes, the earlier of two inputs lower."""
    values_KN, scale_SN = numpy_helper.to_array(operands[0]).astype(np.int8), numpy_helper.to_array(operands[1])
    inputs, outputs = values_KN.shape
    block = int(attribute(source, "block_size", 0))
    padded_KN = np.pad(values_KN, ((0, -inputs % block), (0, 0)))
    stored_NSB = np.ascontiguousarray((padded_KN + _ZERO).T.astype(np.uint8)).reshape(outputs, -1, block)
    packed = (stored_NSB[..., 0::2] | (stored_NSB[..., 1::2] << 4)).astype(np.uint8)
    names = [fresh_name(taken, f"{source.output[0]}/nbits"), fresh_name(taken, f"{source.output[0]}/nbits/scale")]
    for name, array in zip(names, (packed, np.ascontiguousarray(scale_SN.T)), strict=True):
        graph.initializer.append(numpy_helper.from_array(array, name))
    layer.op_type, layer.domain = "MatMulNBits", DOMAIN
    layer.input[:] = [layer.input[0], *names]
    layer.attribute.extend(helper.make_attribute(*pair) for pair in _attributes(inputs, outputs, block).items())


def _attributes(inputs: int, outputs: int, block: int) -> dict[str, int]:
    return {"K": inputs, "N": outputs, "bits": 4, "block_size": block}
