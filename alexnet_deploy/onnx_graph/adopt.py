"""Any image-classification ONNX -> ours: uint8 ``pixels`` in, ``logits`` out, contract in the metadata.

Supports opsets 9 to 22, a static or free batch, float NCHW (or NHWC) input. A softmax at the end is removed, since
calibration, comparison and temperature work on logits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, inliner, numpy_helper, version_converter

from alexnet_deploy.contract import ModelContract, Preprocessing, imagenet1k_classes, torchvision_resize_to
from alexnet_deploy.errors import InputError, UsageError, one_line
from alexnet_deploy.json_format import decode_json, read_users_file
from alexnet_deploy.onnx_graph import onnx_file
from alexnet_deploy.onnx_graph.edits import fold_constants, remove_unused, rename_tensors
from alexnet_deploy.onnx_graph.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.onnx_graph.onnx_file import IR_VERSION, OPSET

# Legend: N batch, H height, W width, C channel (RGB), K class

OLDEST_OPSET, NEWEST_OPSET = 9, 22


def adopt(onnx_path: Path, out: Path, import_options: ImportOptions = NO_IMPORT_OPTIONS) -> ModelContract:
    """Write ``onnx_path`` to ``out`` in our form and return its contract; a model of ours is copied as it is.

    A model of another tool needs ``import_options.mean`` and ``std``: no file holds them, and a wrong guess costs
    accuracy without a warning. Raises InputError or UsageError; ``out`` is then as it was.
    """
    model = onnx_file.load_onnx(onnx_path)
    contract = onnx_file.contract_in(model, source=str(onnx_path))
    onnx_file.refuse_nan(model, str(onnx_path))
    if contract is not None:
        if import_options.mean or import_options.std or import_options.labels:
            raise UsageError(f"{onnx_path}: has its own contract; leave out `mean`, `std` and `labels`")
        onnx_file.save_onnx(model, out)
        return contract
    mean, std = import_options.mean, import_options.std
    if mean is None or std is None:
        raise UsageError(
            f"{onnx_path}: does not record how its pixels are normalised; give `mean` and `std` on the 0..1 scale; "
            "models trained as torchvision's have 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225"
        )
    model = _at_our_opset(inliner.inline_local_functions(model), onnx_path)
    inputs = onnx_file.graph_inputs(model)
    del model.graph.input[:]  # files of old tools also list their weights here
    model.graph.input.extend(inputs)
    # Many exporters use these names for tensors of their own.
    rename_tensors(model.graph, {name: f"model/{name}" for name in ("pixels", "logits")})
    fold_constants(model)
    onnx_file.name_nodes(model)
    height, width, channels_last = _image_size(model, onnx_path)
    _end_in_logits(model, onnx_path)
    classes = _class_count(model, onnx_path)
    class_ids, labels = _names(import_options.labels, classes)
    try:
        pre = Preprocessing(
            height,
            width,
            resize_to=torchvision_resize_to(height, width),
            mean=(mean[0], mean[1], mean[2]),
            std=(std[0], std[1], std[2]),
        )
        contract = ModelContract(onnx_path.stem, labels, class_ids, pre)
    except ValueError as exc:
        raise UsageError(f"{onnx_path}: {exc}; check `labels`") from exc
    _start_from_pixels(model, contract, channels_last=channels_last)
    onnx_file.set_contract(model, contract)
    try:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx_file.save_onnx(model, out)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise InputError(f"{onnx_path}: cannot have pixel input ({one_line(exc, 160)}); export it again") from exc
    return contract


def _at_our_opset(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    unknown = next((node for node in model.graph.node if not defs.has(node.op_type, node.domain)), None)
    if unknown is not None:
        raise InputError(
            f"{path}: operator {unknown.domain}.{unknown.op_type} (node {unknown.name!r}) is not a standard ONNX "
            "operator; export it without"
        )
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise InputError(
            f"{path}: opset {opset} is not within {OLDEST_OPSET}..{NEWEST_OPSET}; export it with opset {OPSET}"
        )
    if opset != OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        except (version_converter.ConvertError, RuntimeError, ValueError) as exc:
            cause = one_line(exc, 160)
            raise InputError(f"{path}: opset {opset} does not convert to {OPSET} ({cause}); export it again") from exc
    model.ir_version = IR_VERSION
    return model


def _image_size(model: onnx.ModelProto, path: Path) -> tuple[int, int, bool]:
    """Height, width and whether channels come last."""
    inputs = onnx_file.graph_inputs(model)
    if len(inputs) != 1:
        raise InputError(f"{path}: has {len(inputs)} inputs, an image classifier has one; cut the graph to that")
    tensor = inputs[0].type.tensor_type
    dims = [dim.dim_value for dim in tensor.shape.dim]
    if tensor.elem_type != TensorProto.FLOAT or len(dims) != 4:
        raise InputError(
            f"{path}: input {inputs[0].name} is not float32 [N, 3, H, W]; export the model with such an input"
        )
    channels_last = dims[3] == 3 and dims[1] != 3
    height, width = (dims[1], dims[2]) if channels_last else (dims[2], dims[3])
    if dims[3 if channels_last else 1] != 3 or not height or not width:
        raise InputError(
            f"{path}: input shape {dims} has no fixed 3 x H x W; export it with the size that it was trained with"
        )
    return height, width, channels_last


def _end_in_logits(model: onnx.ModelProto, path: Path) -> None:
    """Rename the output to ``logits``, remove a final softmax, flatten ``[N, K, 1, 1]``."""
    graph = model.graph
    if len(graph.output) != 1:
        raise InputError(f"{path}: has {len(graph.output)} outputs, a classifier has one; remove the auxiliary ones")
    producers = {name: node for node in graph.node for name in node.output}
    last = graph.output[0].name
    end = _through(producers, last)
    if end is not None and end.op_type == "Softmax":
        last = end.input[0]
    # Flatten also undoes the reshapes that an exporter or the opset converter adds around a softmax.
    graph.node.append(helper.make_node("Flatten", [last], ["logits"], "logits/Flatten", axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, None))
    remove_unused(graph)


def _through(producers: dict[str, onnx.NodeProto], name: str) -> onnx.NodeProto | None:
    """The node that computes ``name``, apart from nodes that only change its shape."""
    node = producers.get(name)
    while node is not None and node.op_type in ("Reshape", "Flatten", "Squeeze", "Identity"):
        node = producers.get(node.input[0])
    return node


def _class_count(model: onnx.ModelProto, path: Path) -> int:
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    dims = inferred.graph.output[0].type.tensor_type.shape.dim
    classes = int(dims[1].dim_value) if len(dims) == 2 else 0
    if classes < 2:
        raise InputError(
            f"{path}: its output has no fixed number of classes; export it with static class scores [N, K]"
        )
    if onnx_file.fixed_batch(model) is None and dims[0].dim_value:
        # A Reshape inside freezes a batch that the input calls free: with the real size, runners can split batches.
        onnx_file.graph_inputs(model)[0].type.tensor_type.shape.dim[0].dim_value = dims[0].dim_value
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [onnx_file.fixed_batch(model) or "N", classes])
    model.graph.output[0].CopyFrom(output)
    return classes


def _names(labels: str | Path | None, classes: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class ids and labels from ``ImportOptions.labels``; numbers if it is None."""
    if labels is None:
        numbers = tuple(map(str, range(classes)))
        return numbers, numbers
    if str(labels) == "imagenet1k":
        ids, names = imagenet1k_classes()
    else:
        try:
            text = read_users_file(Path(labels)).decode("utf-8-sig")
            names = tuple(decode_json(text, list)) if text.lstrip().startswith("[") else tuple(text.splitlines())
        except (OSError, ValueError, RecursionError) as exc:
            raise InputError(
                f"{labels}: cannot be read as labels ({exc}); give a text file with one label per line"
            ) from exc
        ids = names if len(set(names)) == len(names) else tuple(map(str, range(len(names))))
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{labels}: its list holds values that are not text; put each label in quotes")
    if len(names) != classes:
        raise InputError(
            f"{labels}: holds {len(names)} labels, the model has {classes} outputs; give one per line for each"
        )
    return ids, names


def _start_from_pixels(model: onnx.ModelProto, contract: ModelContract, *, channels_last: bool) -> None:
    """Prepend cast, layout and normalisation, the same nodes as in a model of ``export``."""
    graph = model.graph
    old = onnx_file.graph_inputs(model)[0]
    batch = onnx_file.fixed_batch(model) or "N"
    pre = contract.preprocessing
    shape = (1, 1, 1, 3) if channels_last else (1, 3, 1, 1)
    mean = np.asarray(pre.mean, np.float32).reshape(shape) * np.float32(255)
    scale = np.float32(1) / (np.asarray(pre.std, np.float32).reshape(shape) * np.float32(255))
    source = "pixels/float"
    # Cast first: TensorRT cannot transpose uint8.
    front = [helper.make_node("Cast", [contract.input_name], [source], "pixels/Cast", to=TensorProto.FLOAT)]
    if not channels_last:
        front.append(helper.make_node("Transpose", [source], ["pixels/nchw"], "pixels/Transpose", perm=[0, 3, 1, 2]))
        source = "pixels/nchw"
    front += [
        helper.make_node("Sub", [source, "pixels/mean"], ["pixels/centred"], "pixels/Sub"),
        helper.make_node("Mul", ["pixels/centred", "pixels/scale"], [old.name], "pixels/Mul"),
    ]
    body = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:], graph.input[:]
    graph.input.append(
        helper.make_tensor_value_info(contract.input_name, TensorProto.UINT8, [batch, pre.height, pre.width, 3])
    )
    graph.node.extend([*front, *body])
    graph.initializer.extend(
        [numpy_helper.from_array(mean, "pixels/mean"), numpy_helper.from_array(scale, "pixels/scale")]
    )
