"""AlexNet under the names of other libraries: timm's and transformers' conventions, renamed to torchvision's.

Neither library has an AlexNet of its own; these are the names that a model by their conventions has.

    timm's, of its VGG      features.N, pre_logits.fc1, pre_logits.fc2 (6 x 6 and 1 x 1 convolutions), head.fc
    transformers'           alexnet.features.N, alexnet.classifier.1, alexnet.classifier.4, classifier (the last layer)
                            alexnet.features.N, classifier.1, classifier.4, classifier.6

A dense layer is the same numbers as a convolution over its whole input: the order of both is channel, row, column.
"""

from __future__ import annotations

import re

from torch import Tensor

_TIMM = re.compile(r"(?P<prefix>(?:.*\.)?)(?P<layer>pre_logits\.fc1|pre_logits\.fc2|head\.fc)\.(?P<kind>weight|bias)")
_TIMM_LAYERS = {"pre_logits.fc1": "classifier.1", "pre_logits.fc2": "classifier.4", "head.fc": "classifier.6"}
_BASE = re.compile(r"(?P<base>(?P<outer>(?:.*\.)?)[^.]+\.)(?:features|feature_extraction)\.0\.weight")


def with_torchvisions_names(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """``tensors`` by torchvision's names, below the same prefix, and whose names they had; empty if torchvision's."""
    if any(key.endswith("pre_logits.fc1.weight") for key in tensors):
        return {_from_timm(key): _dense(key, value) for key, value in tensors.items()}, "timm's"
    base = next((found for key in tensors if (found := _BASE.fullmatch(key))), None)
    if base is None:
        return tensors, ""
    renamed = {_from_transformers(key, base["base"], base["outer"], tensors): value for key, value in tensors.items()}
    return (renamed, "transformers'") if renamed.keys() != tensors.keys() else (tensors, "")


def _from_timm(key: str) -> str:
    found = _TIMM.fullmatch(key)
    return key if found is None else f"{found['prefix']}{_TIMM_LAYERS[found['layer']]}.{found['kind']}"


def _dense(key: str, value: Tensor) -> Tensor:
    return value.flatten(1) if _TIMM.fullmatch(key) and value.ndim == 4 else value


def _from_transformers(key: str, base: str, outer: str, tensors: dict[str, Tensor]) -> str:
    """The name within ``base`` of a dense layer that stands beside it, below ``outer``."""
    has_dense = any(name.startswith(f"{base}classifier.") for name in tensors)
    is_last = key in (f"{outer}classifier.weight", f"{outer}classifier.bias")
    if is_last and has_dense and f"{base}classifier.6.weight" not in tensors:
        return f"{base}classifier.6.{key.rpartition('.')[2]}"
    if not has_dense and re.fullmatch(rf"{re.escape(outer)}classifier\.[146]\..+", key):
        return base + key.removeprefix(outer)
    return key
