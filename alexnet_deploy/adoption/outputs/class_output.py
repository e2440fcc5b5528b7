"""The output of a model of another tool: logits ``[N, K]`` in its place, and what makes probabilities of them.

Scores may be logits, or probabilities in any form. Where ONNX Runtime is installed, they are measured on a few
artificial images. A softmax or sigmoid is removed if the rest adds nothing but shape, a constant factor and rounding.
Other probabilities get their logarithm appended: the softmax of log p is p again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.adoption.outputs.endings import (
    ROUNDING,
    Ending,
    activation_behind,
    find_ending,
    may_be_bounded,
    nodes_behind_the_last_layer,
)
from alexnet_deploy.adoption.outputs.logits_nodes import NAMES, append_logits
from alexnet_deploy.adoption.outputs.score_samples import sample
from alexnet_deploy.contract import Activation
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.onnx_graph import onnx_file
from alexnet_deploy.onnx_graph.edits import free_names
from alexnet_deploy.onnx_graph.sizes import without_weights
from alexnet_deploy.probabilities import activate

# Legend: N image, K class

_SUM_TOLERANCE = 5e-3
"""A thousand float16 probabilities, each rounded by 2^-12 of itself, sum to 1 within 5e-4; bfloat16's within 4e-3."""
WHOLES = (1.0, 100.0, 255.0, 256.0, 1000.0)
"""What the probabilities of an image may sum to: 1, percent, the steps of a byte, per mille."""
_SUM_TOLERANCE_ROUNDED = 0.1
"""Behind a Softmax that the graph shows: int8 steps and the bounds of a Clip move the sum more."""


@dataclass(frozen=True, slots=True)
class ClassOutput:
    """What the output of a foreign model turned out to be.

    ``classes`` is K, 2 for one score of a binary classifier. ``notes`` say in one line each what a user should know.
    """

    classes: int
    activation: Activation
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Meaning:
    """``tensor`` holds logits, or probabilities that need ``undo``, times ``factor``; no activation: unknown."""

    tensor: str
    activation: Activation | None = None
    undo: Literal["log", "logit"] | None = None
    factor: float = 1.0


def end_in_logits(model: onnx.ModelProto, path: Path, options: ImportOptions) -> ClassOutput:
    """Make ``logits``, float32 ``[N, K]``, the only output of ``model``, which has one output with class scores.

    ``model`` is at our opset and takes pixels. A batch that the graph freezes becomes the input's.
    Raises InputError where the output is not one score per class, UsageError where ``options.activation`` contradicts
    what the output is.
    """
    free_names(model.graph, NAMES)
    scores = model.graph.output[0].name
    ending = find_ending(model, scores)
    tensors = [tensor for tensor in (scores, ending.before) if tensor is not None]
    inferred = _inferred(model, tensors)
    if ending.before is not None:  # computed in float16 from the start, no Cast shows it
        rounding = ROUNDING.get(inferred[ending.before].elem_type, 0.0)
        ending = replace(ending, tolerance=max(ending.tolerance, rounding))
    values, why_not = _sample(model, tensors, inferred[scores], path)
    notes = []
    if values is None:
        notes.append(f"its outputs were not measured ({why_not}): what they mean follows from its operators alone")
        shape = [dim.dim_value for dim in inferred[scores].shape.dim]
        rows_NK, classes = None, _classes(shape, onnx_file.fixed_batch(model) or 0, path, scores)
        meaning = _by_structure(scores, ending)
    else:
        rows_NK, classes = _rows(model, values[scores], path, scores)
        before_NK = _as_rows(values.get(ending.before or "", []), len(rows_NK), classes)
        last_nodes = nodes_behind_the_last_layer(model, scores)
        if (ranking := next((node for node in last_nodes if node.op_type == "TopK"), None)) is not None:
            raise InputError(
                f"{path}: output {scores} comes from node {ranking.name} (TopK), which sorts the scores, so their "
                "order is not that of the classes; export the scores before it"
            )
        meaning = _measured(scores, ending, rows_NK, before_NK, bounded=may_be_bounded(last_nodes))
        squashing = activation_behind(last_nodes)
        if meaning.activation is None and squashing is not None and rows_NK.min() >= 0 and options.activation is None:
            raise InputError(
                f"{path}: output {scores} comes from node {squashing.name} ({squashing.op_type}), but holds neither "
                "probabilities nor percent; export the scores before it, or give `activation` if they are logits"
            )
    if meaning.activation == "sigmoid" and rows_NK is not None and np.ptp(rows_NK) == 0:
        raise InputError(
            f"{path}: output {scores} gives every class of every image the score {rows_NK.flat[0]:g}, as a softmax "
            "over the wrong axis does; export the model with a softmax over its classes, or without one"
        )
    activation = _agreed(meaning, options.activation, classes, path, scores)
    if meaning.undo:
        what = "probabilities" if meaning.activation == "softmax" else "scores within 0..1 for each class alone"
        notes.append(f"output {scores} holds {what}: the graph now ends in their {meaning.undo}")
    binary = classes == 1
    append_logits(model, meaning.tensor, inferred[meaning.tensor], meaning.undo, meaning.factor, classes=classes)
    # Two classes with logits 0 and z: softmax gives the second sigmoid(z).
    return ClassOutput(2 if binary else classes, "softmax" if binary else activation, tuple(notes))


def _agreed(meaning: _Meaning, given: Activation | None, classes: int, path: Path, scores: str) -> Activation:
    """The activation by what was found and what was ``given``."""
    if classes == 1:
        if meaning.activation == "softmax":
            raise InputError(f"{path}: its softmax is over a single class, which always gives 1; export it again")
        if meaning.activation is None and given != "sigmoid":
            raise InputError(
                f"{path}: output {scores} is one number per image without a sigmoid, as of a regression; if it is the "
                "logit of the second of two classes, give `activation` sigmoid"
            )
    elif given and meaning.activation and given != meaning.activation:
        found = {
            "softmax": "probabilities that sum to 1",
            "sigmoid": "scores within 0..1 that do not sum to 1",
        }[meaning.activation]
        raise UsageError(f"`activation` {given}: the output {scores} of {path} holds {found}; leave it out")
    return meaning.activation or given or "softmax"


def _by_structure(scores: str, ending: Ending) -> _Meaning:
    if ending.activation is None or ending.before is None:
        return _Meaning(scores)
    return _Meaning(ending.before, "softmax" if ending.activation == "Softmax" else "sigmoid")


def _measured(
    scores: str, ending: Ending, rows_NK: NDArray[np.float64], before_NK: NDArray[np.float64] | None, *, bounded: bool
) -> _Meaning:
    """What ``rows_NK`` are; ``before_NK`` holds what ``ending.before`` was for them."""
    finite_N = np.isfinite(rows_NK).all(axis=1)
    if not finite_N.any():
        return _by_structure(scores, ending)
    rows_NK = rows_NK[finite_N] / ending.factor  # a softmax spelt out may overflow for noise
    before_NK = None if before_NK is None else before_NK[finite_N]
    if before_NK is not None:
        expected_NK = activate(before_NK, "sigmoid" if ending.activation == "Sigmoid" else "softmax")
        found_NK = np.exp(rows_NK) if ending.logarithm else rows_NK
        # What rounding does to logits grows with them.
        tolerance = ending.tolerance * max(1.0, np.abs(before_NK).max() / 8)
        if np.abs(expected_NK - found_NK).max() <= tolerance:  # false for NaN
            return _by_structure(scores, ending)
    sums_N = rows_NK.sum(axis=1)
    tolerance = _SUM_TOLERANCE_ROUNDED if ending.activation == "Softmax" else _SUM_TOLERANCE
    whole_numbers = bool((rows_NK == np.rint(rows_NK)).all())
    for whole in WHOLES:
        if whole > 1 and whole_numbers:  # each is half a unit off at most, or a whole one where it was cut
            tolerance = max(tolerance, min(rows_NK.shape[1] / whole, _SUM_TOLERANCE_ROUNDED))
        # Rounding may leave a 0 just below it.
        if rows_NK.shape[1] > 1 and rows_NK.min() >= -1e-6 * whole and np.abs(sums_N / whole - 1).max() <= tolerance:
            return _Meaning(scores, "softmax", "log", whole * ending.factor)
    if bounded and rows_NK.min() >= 0 and rows_NK.max() <= 1:
        return _Meaning(scores, "sigmoid", "logit", ending.factor)
    return _Meaning(scores)


def _inferred(model: onnx.ModelProto, tensors: list[str]) -> dict[str, onnx.TypeProto.Tensor]:
    """Types and shapes of ``tensors``, which become the outputs of ``model``: what those declare may be wrong."""
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    outputs = onnx.shape_inference.infer_shapes(without_weights(model), data_prop=True).graph.output
    return {value.name: value.type.tensor_type for value in outputs}


def _sample(
    model: onnx.ModelProto, tensors: list[str], scores: onnx.TypeProto.Tensor, path: Path
) -> tuple[dict[str, list[NDArray[np.float64]]] | None, str]:
    """``sample``, with the batch of ``scores`` where a Reshape inside freezes one that the input calls free.

    With its real size, runners can split batches.
    """
    dims = scores.shape.dim
    frozen = dims[0].dim_value if len(dims) > 1 and onnx_file.fixed_batch(model) is None else 0
    if frozen > 1:
        # A graph that takes one image is not frozen: its first axis is something else.
        values, why_not = sample(model, tensors, source=str(path))
        if values is not None:
            return values, why_not
    if frozen:
        _set_batch(model, frozen)
    return sample(model, tensors, source=str(path))


def _set_batch(model: onnx.ModelProto, size: int) -> None:
    onnx_file.graph_inputs(model)[0].type.tensor_type.shape.dim[0].dim_value = size


def _rows(
    model: onnx.ModelProto, values: list[NDArray[np.float64]], path: Path, scores: str
) -> tuple[NDArray[np.float64], int]:
    """The measured scores ``[N, K]`` of all images, and K."""
    if len({value.shape for value in values}) > 1:
        raise InputError(
            f"{path}: output {scores} has another shape for each image ({_text(values[0].shape)}, then "
            f"{_text(values[-1].shape)}), so it is no list of classes; a classifier gives [N, K]"
        )
    batch = onnx_file.fixed_batch(model)
    classes = _classes(list(values[0].shape), batch or 1, path, scores)
    if values[0].ndim == 1 and classes > 1 and batch is None:
        _set_batch(model, 1)  # a Squeeze without axes: the scores keep no axis for the batch
    return np.concatenate([value.reshape(-1, classes) for value in values]), classes


def _as_rows(values: list[NDArray[np.float64]], images: int, classes: int) -> NDArray[np.float64] | None:
    """``values`` as ``[N, K]``; None if they do not have one row of K numbers per image."""
    if not values or sum(value.size for value in values) != images * classes:
        return None
    if any(value.ndim > 1 and len(value) * len(values) != images for value in values):  # such as [K, N]
        return None
    return np.concatenate([value.reshape(-1, classes) for value in values])


def _classes(shape: list[int], images: int, path: Path, scores: str) -> int:
    """K of scores of ``shape`` for ``images`` images; ``images`` 0 and sizes of 0: not known."""
    count = "one image" if images == 1 else f"{images or 'any number of'} images"
    problem = f"{path}: output {scores} is {_text(shape)} for {count}"
    if not shape:
        raise InputError(f"{path}: output {scores} is a single number or of unknown shape; a classifier gives [N, K]")
    if len(shape) == 1:
        return shape[0] if images == 1 else 1
    if images and shape[0] and shape[0] != images:
        raise InputError(f"{problem}: its first axis is not the batch; a classifier gives [N, K]")
    sizes = [size for size in shape[1:] if size != 1]
    if len(sizes) > 1:
        kind = (
            "scores per position, as of a segmentation, a detector or a feature map"
            if len(shape) > 3
            else "scores per box or part, as of a detector or of features"
        )
        raise InputError(f"{problem}: {kind}, and a classifier gives [N, K]; export a classifier, or another output")
    if 0 in sizes:
        raise InputError(f"{problem}: its number of classes is not fixed; export it with static class scores [N, K]")
    return math.prod(sizes)


def _text(shape: list[int] | tuple[int, ...]) -> str:
    return f"[{', '.join(str(size or '?') for size in shape)}]"
