"""A classifier by hand that is right on ``photo_folder``, with one layer that int8 ruins."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.onnx_graph.onnx_file import OPSET, save_onnx, set_contract
from tests.helpers.models.graphs import graph_model
from tests.helpers.photos import CLASSES

CHANNELS = 16
"""What TensorRT takes for an int8 convolution without padding."""
OUTLIER = 1000.0


def hostile_classifier(path: Path, *, outlier: float = OUTLIER, batch: int | str = "N") -> Path:
    """Nearest colour of ``CLASSES``: convolutions ``features.0`` and ``features.1``, then ``classifier``.

    ``features.0`` adds a channel that is ``outlier`` everywhere, and ``features.1`` gives it no weight. With one scale
    for the whole tensor, the other channels (0..1) round to 0 in int8: ``features.1`` is lost unless it stays float.
    """
    spread = np.zeros((CHANNELS, 3, 1, 1), np.float32)
    spread[[0, 1, 2], [0, 1, 2]] = 1.0
    extra = np.zeros(CHANNELS, np.float32)
    extra[3] = outlier
    back = np.zeros((CHANNELS, CHANNELS, 1, 1), np.float32)
    back[range(CHANNELS), range(CHANNELS)] = 1.0
    back[3, 3] = 0.0
    colours = np.zeros((len(CLASSES), CHANNELS), np.float32)
    colours[:, :3] = np.array([*CLASSES.values()]) / 255.0
    # |x - c|^2 = |x|^2 - 2 c.x + |c|^2: the nearest colour has the largest c.x - |c|^2 / 2.
    model = graph_model(
        f"(uint8[{batch},8,8,3] pixels) => (float[{batch},{len(CLASSES)}] logits)",
        "cast = Cast <to = 1> (pixels); nchw = Transpose <perm = [0, 3, 1, 2]> (cast); scaled = Mul (nchw, scale);"
        "a = Conv (scaled, spread, extra); b = Conv (a, back); pooled = GlobalAveragePool (b);"
        "flat = Flatten (pooled); logits = Gemm <transB = 1> (flat, colours, norms)",
        opset=OPSET,
        scale=np.float32(1 / 255),
        spread=spread,
        extra=extra,
        back=back,
        colours=100 * colours,
        norms=-50 * (colours**2).sum(axis=1),
    )
    modules = ("pixels", "pixels", "pixels", "features.0", "features.1", "avgpool", "flatten", "classifier")
    for node, module in zip(model.graph.node, modules, strict=True):
        node.name = f"{module}/{node.op_type}"
    pre = Preprocessing(8, 8, "stretch", None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    set_contract(model, ModelContract("colours", ("red", "green", "blue"), tuple(CLASSES), pre))
    return save_onnx(model, path)
