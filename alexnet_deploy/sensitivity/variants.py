"""One float model in many variants, each with other layers quantised, over the same images.

All run in ONNX Runtime with its basic optimisations (``layerwise.Tapped``): Q/DQ is then computed as the ONNX standard
defines it, the same on every machine, where the integer kernels of a runtime round in ways of their own. The value
ranges are measured once and serve every variant. Memory is two models, one batch and the float logits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from alexnet_deploy.evaluation.answers import predicted
from alexnet_deploy.evaluation.compare_layers import Errors, Tapped
from alexnet_deploy.precision.qdq import Quantized, insert_qdq

# Legend: N image, H height, W width, C channel (RGB), K class


@dataclass(frozen=True, slots=True)
class Effect:
    """How a partly quantised model answers, beside the float one on the same images.

    ``kl_nats`` is the mean of KL(softmax(float) || softmax(quantised)); ``top1_percent`` is None without labels.
    """

    agreement_percent: float
    kl_nats: float
    top1_percent: float | None


class Variants:
    """``model`` is float32 with named nodes; ``batches`` starts a pass over the same images each time it is called."""

    def __init__(
        self,
        model: onnx.ModelProto,
        threshold_by_tensor: dict[str, float],
        kind: Quantized,
        batches: Callable[[], Iterator[NDArray[np.uint8]]],
        targets: Sequence[int] | None,
    ) -> None:
        self._model = model
        self._threshold_by_tensor = threshold_by_tensor
        self._kind: Quantized = kind
        self._batches = batches
        self._output = model.graph.output[0].name
        self._logits_NK = np.concatenate([values[self._output] for values in self._runs(_copy(model), [self._output])])
        self._target_N = None if targets is None else np.array(targets)

    @property
    def float_top1_percent(self) -> float | None:
        """Accuracy of the float model; None without labels."""
        return self._top1_percent(predicted(self._logits_NK))

    def noise(self, nodes: Collection[str]) -> dict[str, Errors]:
        """How far each node's output is from its float value where that node alone is quantised.

        One pass for all: beside each node the graph gets a quantised twin, which reads the same float input.
        """
        model = _copy(self._model)
        body: list[onnx.NodeProto] = []
        pairs: dict[str, tuple[str, str]] = {}
        for node in self._model.graph.node:
            body.append(node)
            if node.name in nodes:
                twin = onnx.NodeProto.FromString(node.SerializeToString())
                twin.name, twin.output[0] = f"{node.name}/twin", f"{node.output[0]}/twin"
                pairs[node.name] = node.output[0], twin.output[0]
                body.append(twin)
        del model.graph.node[:]
        model.graph.node.extend(body)
        self._quantise(model, {f"{name}/twin" for name in nodes})
        errors = {name: Errors() for name in nodes}
        for values in self._runs(model, [tensor for pair in pairs.values() for tensor in pair]):
            for name, (exact, rounded) in pairs.items():
                errors[name].add(values[exact], values[rounded])
        return errors

    def effect(self, quantised: Collection[str]) -> Effect:
        """What quantising the named nodes, and no others, does to the answers."""
        model = _copy(self._model)
        self._quantise(model, quantised)
        kl_N: list[NDArray[np.float64]] = []
        answer_N: list[NDArray[np.int64]] = []
        seen = 0
        for values in self._runs(model, [self._output]):
            changed_NK = values[self._output]
            kl_N.append(kl_nats(self._logits_NK[seen : seen + len(changed_NK)], changed_NK))
            answer_N.append(predicted(changed_NK))
            seen += len(changed_NK)
        answers_N = np.concatenate(answer_N)
        agreement = float((answers_N == predicted(self._logits_NK)).mean())
        return Effect(100 * agreement, float(np.concatenate(kl_N).mean()), self._top1_percent(answers_N))

    def _top1_percent(self, answer_N: NDArray[np.int64]) -> float | None:
        return None if self._target_N is None else 100 * float((answer_N == self._target_N).mean())

    def _quantise(self, model: onnx.ModelProto, names: Collection[str]) -> None:
        nodes = [node for node in model.graph.node if node.name in names]
        insert_qdq(model, nodes, self._threshold_by_tensor, self._kind)

    def _runs(self, model: onnx.ModelProto, tensors: Sequence[str]) -> Iterator[dict[str, NDArray[np.float32]]]:
        run = Tapped(model, list(dict.fromkeys(tensors)), source="a quantised variant of the model")
        yield from map(run, self._batches())


def kl_nats(p_NK: NDArray[np.float32], q_NK: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(softmax(p) || softmax(q)) of each row of logits, in nats."""
    log_p_NK, log_q_NK = _log_softmax(p_NK), _log_softmax(q_NK)
    kl_N: NDArray[np.float64] = (np.exp(log_p_NK) * (log_p_NK - log_q_NK)).sum(axis=1)
    return np.maximum(kl_N, 0.0)  # rounding can leave a 0 just below it


def _log_softmax(logits_NK: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted_NK = logits_NK.astype(np.float64) - logits_NK.max(axis=1, keepdims=True)
    result_NK: NDArray[np.float64] = shifted_NK - np.log(np.exp(shifted_NK).sum(axis=1, keepdims=True))
    return result_NK


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
