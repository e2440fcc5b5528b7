"""Any image-classification ONNX -> ours: uint8 ``pixels`` in, ``logits`` out, contract in the metadata.

Supports opsets 6 to onnx's newest, a static or free batch, one input of 1, 3 or 4 channels in either layout, float or
uint8. A softmax at the end is removed, since calibration, comparison and temperature work on logits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import inliner

from alexnet_deploy.adoption.image_input import find_input, fix_size, start_from_pixels
from alexnet_deploy.adoption.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.adoption.labels import checked, read_labels
from alexnet_deploy.adoption.operators.opset import at_our_opset
from alexnet_deploy.adoption.outputs.class_output import end_in_logits
from alexnet_deploy.adoption.outputs.output_choice import choose_output
from alexnet_deploy.adoption.preprocessing_of import preprocessing_of
from alexnet_deploy.adoption.presets import with_preset
from alexnet_deploy.adoption.recorded import Recorded, read_recorded
from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import InputError, UsageError, one_line
from alexnet_deploy.onnx_graph import onnx_file
from alexnet_deploy.onnx_graph.edits import fold_constants, free_names, tensors_read

# Legend: N batch, H height, W width, C channel (RGB), K class

INPUT, OUTPUT = "pixels", "logits"


def adopt(onnx_path: Path, out: Path, import_options: ImportOptions = NO_IMPORT_OPTIONS) -> ModelContract:
    """Write ``onnx_path`` to ``out`` in our form and return its contract; a model of ours is copied as it is.

    A model of another tool needs its preprocessing in ``import_options``, unless its file or one beside it records it:
    a wrong guess costs accuracy without a warning. Raises InputError or UsageError; ``out`` is then as it was.
    """
    return adopt_with_notes(onnx_path, out, import_options)[0]


def adopt_with_notes(
    onnx_path: Path, out: Path, import_options: ImportOptions = NO_IMPORT_OPTIONS
) -> tuple[ModelContract, tuple[str, ...]]:
    """``adopt``, and in one line each what was taken from where, for people."""
    model = onnx_file.load_onnx(onnx_path)
    contract = onnx_file.contract_in(model, source=str(onnx_path))
    onnx_file.refuse_nan(model, str(onnx_path))
    if contract is not None:
        if contract.features is not None:
            raise InputError(
                f"{onnx_path}: is a feature engine: it ends at layer {contract.features.layer}; give the ONNX of the "
                "whole network"
            )
        if given := import_options.given():
            names = " and ".join(f"`{name}`" for name in given)
            raise UsageError(f"{onnx_path}: has its own contract; leave out {names}")
        onnx_file.save_onnx(model, out)
        return contract, ()
    model = inliner.inline_local_functions(model)
    recorded = read_recorded(model, onnx_path)
    choose_output(model, onnx_path, import_options.output_name)
    model = at_our_opset(model, onnx_path)
    image = find_input(model, onnx_path)
    options = with_preset(import_options)
    pre, notes = _preprocessing(
        options,
        recorded,
        onnx_path,
        lambda full: preprocessing_of(full, image, onnx_path, own=import_options.on_unit_scale()),
    )
    free_names(model.graph, (INPUT, OUTPUT))  # many exporters use these for tensors of their own
    fix_size(model, image, pre.height, pre.width)
    batch_notes = _one_at_a_time(model)
    fold_constants(model)
    onnx_file.name_nodes(model)
    start_from_pixels(model, pre, input_name=INPUT, channels_last=image.channels_last)
    output = end_in_logits(model, onnx_path, options)
    if not any(INPUT in tensors_read(node) for node in model.graph.node):
        raise InputError(f"{onnx_path}: its class scores do not depend on the image; export the model again")
    class_ids, labels, label_notes = _labels(options, recorded, output.classes)
    try:
        contract = ModelContract(onnx_path.stem, labels, class_ids, pre, activation=output.activation)
    except ValueError as exc:
        raise UsageError(f"{onnx_path}: {exc}; check `labels`") from exc
    onnx_file.set_contract(model, contract)
    try:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx_file.save_onnx(model, out)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as exc:
        raise InputError(f"{onnx_path}: cannot have pixel input ({one_line(exc, 160)}); export it again") from exc
    return contract, (*notes, *batch_notes, *label_notes, *output.notes)


def _one_at_a_time(model: onnx.ModelProto) -> tuple[str, ...]:
    """Fix the batch to 1 where a node takes its scale from the values of the whole batch, and say so.

    The tool that made such a model measured it on single images; in a batch each image would change the others.
    """
    (value,) = onnx_file.graph_inputs(model)
    batch = value.type.tensor_type.shape.dim[0]
    dynamic = [node.name or node.output[0] for node in model.graph.node if node.op_type == "DynamicQuantizeLinear"]
    if not dynamic or batch.dim_value:
        return ()
    batch.dim_value = 1
    return (f"runs one image at a time: node {dynamic[0]} (DynamicQuantizeLinear) would mix the images of a batch",)


def _preprocessing(
    options: ImportOptions, recorded: Recorded, path: Path, complete: Callable[[ImportOptions], Preprocessing]
) -> tuple[Preprocessing, tuple[str, ...]]:
    """The rules of ``options``, with what is ``recorded`` where they are silent, and a note on what was taken."""
    full = options.over(recorded.options)
    try:
        pre = complete(full)
    except UsageError as exc:
        if recorded.problem and (options.mean is None or options.std is None):
            raise UsageError(f"{exc} ({recorded.problem})") from exc
        raise
    taken = [name for name in recorded.options.given() if full != options and getattr(options, name) is None]
    taken = [name for name in taken if getattr(full, name) is not None]
    if not taken:
        return pre, ()
    return pre, (f"{', '.join(taken)} from {recorded.source}: {pre.describe()}",)


def _labels(
    options: ImportOptions, recorded: Recorded, classes: int
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Class ids, labels and notes."""
    if options.labels is None and recorded.names is not None:
        try:
            class_ids, labels = checked(None, recorded.names, classes, recorded.names_source)
        except InputError as exc:
            return *read_labels(None, classes), (f"labels not taken from {exc}",)
        return class_ids, labels, (f"labels from {recorded.names_source}",)
    return *read_labels(options.labels, classes), ()
