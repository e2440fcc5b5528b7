"""What the layers of a model make of one photo: a sheet of maps per layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.errors import InputError
from alexnet_deploy.explanation.grid import save_png, sheet
from alexnet_deploy.files import atomic_directory
from alexnet_deploy.onnx_graph.cut import layers_in
from alexnet_deploy.onnx_graph.edits import readers_in

# Legend: N batch, C channel, H height, W width

NORMALISATION = (
    "brightness is the square root of the share of the layer's largest value, so that weak ones are seen; black is 0, "
    "or where a layer has negative values, mid-grey is 0"
)
_SIDE = 56
"""Pixels of a tile: 55 x 55 maps of AlexNet's first layer stay as they are."""
_MOST_TILES = 1024
_ACTIVATIONS = frozenset((
    "Celu", "Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu", "Selu", "Sigmoid",
    "Softplus", "Softsign", "Swish", "Tanh", "ThresholdedRelu",
))  # fmt: skip
_SHOWN = _ACTIVATIONS | {"Add", "AveragePool", "BatchNormalization", "Concat", "Conv", "LRN", "MaxPool", "Mul"}
_BETWEEN = frozenset(("Cast", "DequantizeLinear", "Identity", "QuantizeLinear"))


@dataclass(frozen=True, slots=True)
class LayerMaps:
    """The output of one layer for one photo."""

    name: str
    kind: str
    """The operator or the module: ``Relu``, ``MaxPool``."""
    maps_CHW: NDArray[np.float32]

    @property
    def silent(self) -> int:
        """Number of channels that are 0 everywhere."""
        return int((self.maps_CHW == 0).all(axis=(1, 2)).sum())

    @property
    def zero_percent(self) -> float:
        """Share of the values that are 0."""
        return 100 * float((self.maps_CHW == 0).mean())


def maps_of_onnx(model: onnx.ModelProto, pixels_HWC: NDArray[np.uint8], source: str) -> list[LayerMaps]:
    """The layers of ``model`` that give maps, from the first convolution on, computed by ONNX Runtime on the CPU.

    A convolution is shown after its activation. Quantised numbers are shown as what they stand for. Raises InputError
    where there is no such layer.
    """
    from alexnet_deploy.onnx_graph.taps import TensorSession

    nodes = {node.name: node for node in model.graph.node}
    readers = readers_in(model.graph)
    found, started = [], False
    for layer in layers_in(model):
        node = nodes[layer.node]
        started |= node.op_type == "Conv"
        wanted = started and node.op_type in _SHOWN and len(layer.shape) == 3
        if wanted and not (node.op_type == "Conv" and _is_activated(layer.tensor, readers)):
            found.append((layer.name, node.op_type, layer.tensor))
    if not found:
        raise InputError(f"{source}: no layer gives maps of the photo; name a network with convolutions")
    session = TensorSession(model, [tensor for _, _, tensor in found], source=source)
    values = session(pixels_HWC[None])
    return [LayerMaps(name, kind, np.asarray(values[tensor][0], np.float32)) for name, kind, tensor in found]


def _is_activated(tensor: str, readers: dict[str, list[onnx.NodeProto]]) -> bool:
    """Whether only activation functions read a tensor, also behind a change of its type."""
    found = readers.get(tensor, [])
    return bool(found) and all(
        node.op_type in _ACTIVATIONS or (node.op_type in _BETWEEN and _is_activated(node.output[0], readers))
        for node in found
    )


def draw_maps(layer: LayerMaps) -> Image.Image:
    """One tile per channel, in their order; see ``NORMALISATION``. At most the first 1,024 channels."""
    maps_CHW = layer.maps_CHW[:_MOST_TILES]
    largest = float(np.abs(layer.maps_CHW).max()) or 1.0
    share_CHW = np.sign(maps_CHW) * np.sqrt(np.abs(maps_CHW) / largest)
    if layer.maps_CHW.min() < 0:
        share_CHW = (share_CHW + 1) / 2
    grey_CHW = np.round(255 * share_CHW).astype(np.uint8)
    return sheet([np.repeat(grey_HW[..., None], 3, axis=2) for grey_HW in grey_CHW], _SIDE).convert("L")


def write_maps(layers: Sequence[LayerMaps], output: Path) -> list[str]:
    """Write a PNG per layer into the folder ``output``, which appears whole or not at all; the names of the files."""
    names = []
    with atomic_directory(output) as temporary:
        for number, layer in enumerate(layers, start=1):
            name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{layer.name}-{layer.kind}")[:80].strip("-.")
            names.append(f"{number:02d}-{name}.png")
            save_png(draw_maps(layer), temporary / names[-1])
    return names
