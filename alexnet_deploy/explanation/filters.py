"""The filters of the first layer as pictures: figure 3 of the paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.contract import Channels
from alexnet_deploy.errors import InputError
from alexnet_deploy.explanation.grid import save_png, sheet
from alexnet_deploy.files import atomic_file
from alexnet_deploy.onnx_graph.onnx_file import layer_of
from alexnet_deploy.onnx_graph.weight_values import layers_with_weights

# Legend: F filter, C channel, H height, W width

_SIDE = 44
"""Pixels of a tile: four for each weight of an 11 x 11 filter."""
_GREY = 127.5
NORMALISATION = "each filter is divided by its own largest absolute weight; mid-grey is 0"


def first_filters(model: onnx.ModelProto, source: str) -> tuple[str, NDArray[np.float32]]:
    """Name and weights ``[F, C, H, W]`` of the first layer of ``model``, dequantised.

    Raises InputError, which names ``source``, where the first layer is no convolution of a picture.
    """
    layers = layers_with_weights(model)
    if not layers:
        raise InputError(f"{source}: has no layer with weights, so there are no filters to draw; name another model")
    first = layers[0]
    weight = first.weight
    if first.node.op_type != "Conv" or weight.ndim != 4:
        raise InputError(
            f"{source}: its first layer {first.node.name} is a {first.node.op_type}, not a convolution, so its weights "
            "are no pictures; name another model"
        )
    return layer_of(first.node), weight


def draw_filters(weight_FCHW: NDArray[np.float32], channels: Channels, source: str) -> Image.Image:
    """One tile per filter, in the order of the channels that they make; see ``NORMALISATION``.

    ``channels`` is what the model computes on, so that the colours are those of the photo. A fourth channel (alpha) is
    left out. Raises InputError, which names ``source``, for a number of channels that is no colour.
    """
    count = weight_FCHW.shape[1]
    if count not in (1, 3, 4):
        raise InputError(f"{source}: its first filters have {count} channels, which are no colours; name another model")
    colours_FCHW = weight_FCHW[:, :3] if count > 1 else np.repeat(weight_FCHW, 3, axis=1)
    if channels == "bgr":
        colours_FCHW = colours_FCHW[:, ::-1]
    largest_F = np.abs(colours_FCHW).max(axis=(1, 2, 3), keepdims=True)
    share_FCHW = colours_FCHW / np.where(largest_F > 0, largest_F, 1)
    tiles_FHWC = np.round(_GREY + _GREY * share_FCHW.transpose(0, 2, 3, 1)).astype(np.uint8)
    return sheet(list(tiles_FHWC), _SIDE)


def write_filters(picture: Image.Image, path: Path) -> None:
    """Write a PNG, atomically; UnavailableError if it cannot be written."""
    with atomic_file(path) as temporary:
        save_png(picture, temporary)


def describe_filters(layer: str, weight_FCHW: NDArray[np.float32]) -> str:
    """One line for people: how many, how large, and how much their strength differs."""
    count, channels, height, width = weight_FCHW.shape
    largest_F = np.abs(weight_FCHW).max(axis=(1, 2, 3))
    return (
        f"{layer}: {count} filters of {height} x {width} pixels and {channels} channels, largest weight "
        f"{largest_F.min():.3g} to {largest_F.max():.3g}; {NORMALISATION}"
    )
