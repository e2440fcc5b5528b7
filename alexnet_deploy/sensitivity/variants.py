"""Variants of one float model, each with different layers quantised, measured on the same images.

All run in ONNX Runtime with basic optimisations (``taps.TensorSession``): Q/DQ is then computed as the ONNX standard
defines it, the same on every machine, while the integer kernels of the runtimes round differently. The tensor ranges
are measured once. Memory holds two models, one batch and the float logits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from alexnet_deploy.contract import Activation
from alexnet_deploy.evaluation.comparison.compare_layers import ErrorSums
from alexnet_deploy.images.choose import CalibrationSet
from alexnet_deploy.inference.batches import read_batches
from alexnet_deploy.onnx_graph.taps import TensorSession
from alexnet_deploy.precision.calibration.cache import CalibrationCache
from alexnet_deploy.precision.convert import Quantiser, calibrate
from alexnet_deploy.precision.float_model import FloatModel
from alexnet_deploy.precision.settings import CalibrationSettings
from alexnet_deploy.precision.types import QuantizedType
from alexnet_deploy.probabilities import kl_nats, predicted_classes

# Legend: N image, H height, W width, C channel (RGB), K class

BATCH = 16
"""Images computed at once. It changes the memory needed, not the result."""


@dataclass(frozen=True, slots=True)
class Effect:
    """The answers of a partly quantised model compared with those of the float model on the same images.

    ``kl_nats`` is the mean of KL(float || quantised) of their probabilities; ``top1_percent`` is None without labels.
    """

    agreement_percent: float
    kl_nats: float
    top1_percent: float | None


class Variants:
    """The variants of one calibrated model."""

    def __init__(
        self,
        quantiser: Quantiser,
        batches: Callable[[], Iterator[NDArray[np.uint8]]],
        targets: Sequence[int] | None,
        activation: Activation,
    ) -> None:
        """``quantiser`` is that of a float32 model. ``batches`` starts a pass; ``activation`` is the contract's."""
        self.nodes = {node.name: node for node in quantiser.nodes}
        """By name, in the order of the graph."""
        self._graph = graph = quantiser.model
        self._quantiser = quantiser
        self._batches = batches
        self._output = graph.graph.output[0].name
        self._logits_NK = np.concatenate([values[self._output] for values in self._runs(graph, [self._output])])
        self._activation: Activation = activation
        self._target_N = None if targets is None else np.array(targets)

    @property
    def float_top1_percent(self) -> float | None:
        """Accuracy of the float model; None without labels."""
        return self._top1_percent(predicted_classes(self._logits_NK))

    def noise(self) -> dict[str, ErrorSums]:
        """The difference of each node's output from its float value if only that node is quantised.

        One pass is enough: the graph gets a quantised twin of each node, which reads the same float input.
        """
        model = copy.deepcopy(self._graph)
        body: list[onnx.NodeProto] = []
        pairs: dict[str, tuple[str, str]] = {}
        for node in self._graph.graph.node:
            body.append(node)
            if node.name in self.nodes:
                twin = copy.deepcopy(node)
                twin.name, twin.output[0] = f"{node.name}/twin", f"{node.output[0]}/twin"
                pairs[node.name] = node.output[0], twin.output[0]
                body.append(twin)
        del model.graph.node[:]
        model.graph.node.extend(body)
        self._quantiser.quantise(model, {f"{name}/twin" for name in self.nodes})
        errors = {name: ErrorSums() for name in self.nodes}
        for values in self._runs(model, [tensor for pair in pairs.values() for tensor in pair]):
            for name, (exact, rounded) in pairs.items():
                errors[name].add(values[exact], values[rounded])
        return errors

    def effect(self, quantised: Collection[str]) -> Effect:
        """The effect of quantising the named nodes and no others."""
        model = copy.deepcopy(self._graph)
        self._quantiser.quantise(model, quantised)
        kl_N: list[NDArray[np.float64]] = []
        answer_N: list[NDArray[np.int64]] = []
        seen = 0
        for values in self._runs(model, [self._output]):
            logits_NK = values[self._output]
            exact_NK = self._logits_NK[seen : seen + len(logits_NK)]
            kl_N.append(kl_nats(exact_NK, logits_NK, self._activation))
            answer_N.append(predicted_classes(logits_NK))
            seen += len(logits_NK)
        answers_N = np.concatenate(answer_N)
        agreement = float((answers_N == predicted_classes(self._logits_NK)).mean())
        return Effect(100 * agreement, float(np.concatenate(kl_N).mean()), self._top1_percent(answers_N))

    def _top1_percent(self, answer_N: NDArray[np.int64]) -> float | None:
        return None if self._target_N is None else 100 * float((answer_N == self._target_N).mean())

    def _runs(self, model: onnx.ModelProto, tensors: Sequence[str]) -> Iterator[dict[str, NDArray[np.float32]]]:
        run = TensorSession(model, tensors, source="a quantised variant of the model")
        yield from map(run, self._batches())


def calibrate_variants(
    model: FloatModel,
    dtype: QuantizedType,
    images: CalibrationSet | None,
    settings: CalibrationSettings,
    files: Sequence[Path],
    targets: Sequence[int] | None = None,
    *,
    cache: CalibrationCache | None = None,
) -> Variants:
    """Calibrate ``model`` with ``images``, for variants measured on ``files``; ``targets`` are their classes.

    Without images, which weights alone do not need, these are rounded to nearest.
    """
    quantiser = calibrate(
        model.path,
        dtype=dtype,
        batches=None if images is None else lambda: model.batches(images),
        method=settings.calibration_method,
        exclude=settings.exclude,
        cache=cache,
        source=model.source,
    )

    def batches() -> Iterator[NDArray[np.uint8]]:
        return (read.pixels_NHWC for read in read_batches(files, model.contract.preprocessing, batch=BATCH))

    return Variants(quantiser, batches, targets, model.contract.activation)
