"""Whether the answer for an image is a function of that image alone."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.onnx_graph.onnx_file import fixed_batch
from alexnet_deploy.onnx_graph.taps import TensorSession
from alexnet_deploy.verification.difference import difference

# Legend: N image, H height, W width, C channel (RGB), K class

_ALONE = 4
"""Images that are also run one by one. What mixes the rows of a batch mixes all of them."""


def against_rows(
    model: onnx.ModelProto,
    session: TensorSession,
    contract: ModelContract,
    pixels_NHWC: NDArray[np.uint8],
    logits_NK: NDArray[np.float32],
    limit: float,
) -> str | None:
    """Return why the answer for one image is not a function of that image alone; None where it is."""
    centre = contract.activation == "softmax"

    def alone(i: int) -> NDArray[np.float32]:
        """The logits ``[1, K]`` of one image, in a fixed batch among copies of itself: other neighbours as well."""
        logits_1K: NDArray[np.float32] = session(pixels_NHWC[i : i + 1])[contract.output_name]
        return logits_1K

    alone_NK = np.concatenate([alone(i) for i in range(min(_ALONE, len(pixels_NHWC)))])
    if difference(alone(0), alone_NK[:1], centre=centre).largest > limit:
        return f"its answers change from call to call{_because(model, _RANDOM)}; export the model in inference mode"
    if fixed_batch(model) == 1:
        return None
    differs = difference(alone_NK, logits_NK[: len(alone_NK)], centre=centre)
    if differs.largest <= limit:
        return None
    return (
        f"its answer for an image depends on the other images of the batch (by up to {differs.largest:.1%} of the "
        f"range of the logits, {differs.changed} of {len(alone_NK)} first classes){_because(model, _MIXING)}; "
        "export the model in inference mode (model.eval()), or for a batch of 1"
    )


_RANDOM = frozenset((
    "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
))  # fmt: skip
_MIXING = frozenset(("BatchNormalization", "DynamicQuantizeLinear"))


def _because(model: onnx.ModelProto, suspects: frozenset[str]) -> str:
    """The first node of ``suspects``, in parentheses."""
    for node in model.graph.node:
        trains = any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
        if node.op_type in suspects and (trains or node.op_type not in ("BatchNormalization", "Dropout")):
            return f" (node {node.name}: {node.op_type}{' in training mode' if trains else ''})"
    return ""
