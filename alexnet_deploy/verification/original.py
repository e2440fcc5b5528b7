"""The original ONNX of another tool, run on our pixels as its own tool would run it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from alexnet_deploy.adoption.image_input import ImageInput, find_input
from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.adoption.outputs.output_choice import choose_output
from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError
from alexnet_deploy.onnx_graph.onnx_file import graph_inputs
from alexnet_deploy.onnx_graph.taps import TensorSession

# Legend: N image, H height, W width, C channel, K class


def original_scores(
    model: onnx.ModelProto,
    source: Path,
    options: ImportOptions,
    pre: Preprocessing,
    pixels_NHWC: NDArray[np.uint8],
    *,
    batch: int | None,
) -> NDArray[np.float64]:
    """The output ``[N, ...]`` of the original; InputError where ONNX Runtime does not run it.

    ``batch`` is the only batch size that it accepts, which need not be declared (None: any). ``model`` is changed.
    """
    image = find_input(model, source)
    choose_output(model, source, options.output_name)
    name = model.graph.output[0].name
    dims = graph_inputs(model)[0].type.tensor_type.shape.dim
    values = original_input(image, pre, pixels_NHWC)
    if image.batched:
        if batch is not None:
            dims[0].dim_value = batch
        elif dims[0].dim_value < 0:  # Paddle's way to say that it is free
            dims[0].dim_param = "N"
        scores = TensorSession(model, [name], source=str(source))(values)[name]
    else:
        # TensorSession takes the first size for the batch: one call per image, with that size.
        session = TensorSession(model, [name], source=str(source))
        scores = np.stack([session(each)[name] for each in values])
    try:
        return np.asarray(scores).reshape(len(pixels_NHWC), -1).astype(np.float64)
    except (TypeError, ValueError) as exc:
        raise InputError(
            f"{source}: its output {name} holds no scores per image; choose another `output_name`"
        ) from exc


def original_input(image: ImageInput, pre: Preprocessing, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.generic]:
    """The input of the original for our pixels, in NumPy: channels, scale, mean, std, layout, type."""
    mean, std = np.array(pre.mean), np.array(pre.std)
    values = pixels_NHWC.astype(np.float64)
    if pre.channels == "bgr":
        values, mean, std = values[..., ::-1], mean[::-1], std[::-1]
    elif pre.channels == "grey":  # Pillow's convert("L")
        red, green, blue = np.moveaxis(pixels_NHWC.astype(np.int64), -1, 0)
        values = ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16)[..., None].astype(np.float64)
        mean, std = mean[:1], std[:1]
    elif pre.channels == "rgba":
        opaque = np.full((*values.shape[:3], 1), 255.0)
        values = np.concatenate([values, opaque], axis=-1)
        mean, std = np.append(mean, mean[0]), np.append(std, std[0])
    values = (values / 255 - mean) / std
    if not image.channels_last:
        values = np.moveaxis(values, -1, 1)
    dtype = helper.tensor_dtype_to_np_dtype(image.elem_type)
    return (np.rint(values) if np.issubdtype(dtype, np.integer) else values).astype(dtype)
