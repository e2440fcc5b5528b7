"""A model whose answer depends on one known square of the picture, for tests of what an engine looks at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from alexnet_deploy.contract import Activation, ModelContract, Preprocessing
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, set_contract
from tests.helpers.models.onnx_models import Graph

SIDE, TOP, LEFT, REGION = 32, 8, 16, 8
"""Side of the picture; the square of ``REGION`` pixels that counts."""
STRENGTH = 3.0
"""Logit of class ``yes`` where the square is white; that of ``no`` is always 0, as is ``yes`` where it is black."""


def region_model(
    path: Path, *, activation: Activation = "softmax", batch: int | str = "N", strength: float = STRENGTH
) -> Path:
    """uint8 ``pixels`` [batch, 32, 32, 3] -> ``logits`` of ``yes`` and ``no``: the square's mean, times a number."""
    weight = np.zeros((2, SIDE, SIDE, 3), np.float32)
    weight[0, TOP : TOP + REGION, LEFT : LEFT + REGION] = strength / (255 * 3 * REGION**2)
    g = Graph()
    x = g.node("Flatten", g.node("Cast", "pixels", to=TensorProto.FLOAT))
    x = g.node("Gemm", x, g.constant(weight.reshape(2, -1)), transB=1)
    g.save(x, path, [batch, SIDE, SIDE, 3], TensorProto.UINT8)
    model = load_onnx(path)
    pre = Preprocessing(SIDE, SIDE, "stretch", None, mean=(0.5, 0.4, 0.2))
    set_contract(model, ModelContract("region", ("yes", "no"), ("n1", "n2"), pre, activation=activation))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    onnx.save(model, path)
    return path
