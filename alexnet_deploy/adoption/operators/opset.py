"""A model of any supported opset -> the opset that all transforms work on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import AttributeProto, TensorProto, defs, helper, numpy_helper, version_converter

from alexnet_deploy.adoption.operators.contributed import rewrite_contributed
from alexnet_deploy.adoption.operators.normalisations import write_out_normalisations
from alexnet_deploy.adoption.operators.old_broadcasts import NUMPY_SINCE, write_out_broadcasts
from alexnet_deploy.errors import InputError, one_line
from alexnet_deploy.onnx_graph.limits import subgraphs
from alexnet_deploy.onnx_graph.onnx_file import IR_VERSION, OPSET, initializers

OLDEST_OPSET = 6
"""The converter has no rules for older ones."""
_STANDARD = ("", "ai.onnx")
_ASSUMED_SIDE = 224
_HALF_PIXEL_SINCE, _HARDMAX_BY_AXIS_SINCE = 11, 13


def at_our_opset(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """``model`` at ``OPSET``; InputError where it cannot be converted, with the operator that prevents it."""
    rewrite_contributed(model, path)
    unknown = next((node for node in _all_nodes(model.graph) if not _is_standard(node)), None)
    if unknown is not None:
        domain = unknown.domain or "ai.onnx"
        raise InputError(
            f"{path}: operator {domain}.{unknown.op_type} (node {unknown.name!r}) is not a standard ONNX "
            "operator; export it without"
        )
    opset = next((entry.version for entry in model.opset_import if entry.domain in _STANDARD), 0)
    newest = defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise InputError(f"{path}: opset {opset} is not within {OLDEST_OPSET}..{newest}; export it with opset {OPSET}")
    if opset < _HARDMAX_BY_AXIS_SINCE and any(node.op_type == "Hardmax" for node in _all_nodes(model.graph)):
        raise InputError(
            f"{path}: Hardmax of opset {opset} does not convert to {OPSET} (its axis has another meaning); export it "
            f"with opset {OPSET}"
        )
    if opset != OPSET:
        inputs = _without_weights(model)
        free = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in model.graph.input]
        if opset < NUMPY_SINCE:
            _assume_sizes(model)
            write_out_broadcasts(model, path)
        try:
            model = version_converter.convert_version(model, OPSET)
        except Exception as exc:  # the converter raises RuntimeError, ConvertError, and bare C++ exceptions
            raise InputError(
                f"{path}: opset {opset} does not convert to {OPSET} ({_cause(exc, model)}); export it "
                f"with opset {OPSET}"
            ) from exc
        _require_inputs(model, inputs, path)
        if opset < _HALF_PIXEL_SINCE:
            _keep_old_resize(model)
        if opset < NUMPY_SINCE:
            del model.graph.input[:], model.graph.value_info[:]
            model.graph.input.extend(free)
    write_out_normalisations(model, path)
    used = {*_STANDARD, *(node.domain for node in _all_nodes(model.graph))}
    imported = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(imported)
    model.ir_version = IR_VERSION
    return model


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _all_nodes(inner)


def _is_standard(node: onnx.NodeProto) -> bool:
    return bool(defs.has(node.op_type, "" if node.domain in _STANDARD else node.domain))


def _without_weights(model: onnx.ModelProto) -> list[str]:
    """Leave weights out of the inputs, where old tools list them; the names that remain."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != len(model.graph.input) and model.ir_version < 4:
        model.ir_version = 4  # the first that does not want weights among the inputs
    kept = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in inputs]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return [value.name for value in kept]


def _assume_sizes(model: onnx.ModelProto) -> None:
    """Give the inputs a batch of 1, and sides where they are free: the rules for old broadcasts need sizes.

    What they write depends on the number of axes alone, so the sizes can be taken back after the conversion.
    """
    for value in model.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value < 1:
                dim.dim_value = 1 if axis == 0 else _ASSUMED_SIDE
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def _keep_old_resize(model: onnx.ModelProto) -> None:
    """Let Resize compute as Upsample and the Resize of opset 10 did: the converter leaves out that they differ."""
    weights = initializers(model)
    for node in _all_nodes(model.graph):
        if node.op_type == "Resize":
            scales = weights.get(node.input[2]) if len(node.input) > 2 else None
            smaller = scales is not None and numpy_helper.to_array(scales).max() <= 1
            # ONNX Runtime rounds so, up where an image becomes smaller; the standard left it open.
            old = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "ceil" if smaller else "floor"}
            present = {attribute.name for attribute in node.attribute}
            node.attribute.extend(helper.make_attribute(k, v) for k, v in old.items() if k not in present)


def _require_inputs(model: onnx.ModelProto, names: list[str], path: Path) -> None:
    """The converter must neither drop nor add inputs."""
    if [value.name for value in model.graph.input] != names:
        raise InputError(f"{path}: its inputs are lost in the conversion to opset {OPSET}; export it with that opset")


def _cause(error: Exception, model: onnx.ModelProto) -> str:
    """The converter's message without its source file and line, after the operator that it is about."""
    text = one_line(error, 1000)
    text = (text.rpartition("failed: ")[2] or text)[:160]
    tried: set[str] = set()
    for node in model.graph.node:
        if node.op_type in tried or any(attribute.type == AttributeProto.GRAPH for attribute in node.attribute):
            continue
        tried.add(node.op_type)
        inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in {*node.input} if name]
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output if name]
        single = helper.make_model(
            helper.make_graph([node], "single", inputs, outputs), opset_imports=list(model.opset_import)
        )
        try:
            version_converter.convert_version(single, OPSET)
        except Exception as exc:  # as above
            if one_line(exc, 1000).endswith(text):
                return f"{node.op_type}: {text}"
    return text
