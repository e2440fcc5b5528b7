"""Find AlexNet's weights in what a training script saved: wrappers, prefixes, averages, and whose network it is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.model.architecture import FAMILY, AlexNet, Architecture
from alexnet_deploy.model.layouts import with_torchvisions_names
from alexnet_deploy.model.weights.weights_file import OTHER_TOOL

MAX_NUMBERS = 1 << 30
"""Of all weights together: sixteen times AlexNet. A few bytes of a pickle can declare a tensor of any size."""
_MAX_DICTS, _MAX_DEPTH = 10_000, 8
_FIRST = re.compile(rf"(.*\.)?(?:{'|'.join({arch.feature_name for arch in FAMILY.values()})})\.0\.weight")
_AVERAGED = re.compile(r"(?:^|_)(?:ema|swa|averaged?|shadow)(?:_|$)")
_TEACHER = re.compile(r"(?:^|_)(?:teacher|target)(?:_|$)")
_STUDENT = re.compile(r"(?:^|_)student(?:_|$)")
_COUNTERS = ("num_batches_tracked", "n_averaged")
"""Buffers that count steps: they change no answer."""
_LOSS_WEIGHT = re.compile(r"(?:criterion|loss|loss_fn|loss_function)\.(?:weight|pos_weight)")
_FAMILIES = (
    ("ResNet", r"layer1\.0\.conv1\.weight"),
    ("vision transformer", r"(patch_embed|encoder_layer_0|blocks\.0\.(attn|norm1)|attention\.)"),
    ("DenseNet", r"(conv0|denseblock1)\."),
    ("SqueezeNet", r"features\.\d+\.squeeze\."),
    ("MobileNet or EfficientNet", r"(features\.0\.0\.weight|conv_stem|_conv_stem)"),
    ("ConvNeXt", r"stages\.0\."),
    ("Inception", r"(Conv2d_1a|inception3a|Mixed_5b)"),
    ("RegNet", r"trunk_output"),
)


@dataclass(frozen=True, slots=True)
class StateDict:
    """Weights by AlexNet's own names, and where they were found."""

    weights: dict[str, Tensor]
    wrapper: str
    """Keys of the dicts around them, joined by dots; empty without one."""
    prefix: str
    """What stood before each name, such as ``module.``."""
    averaged: bool
    note: str = ""
    """What was passed over, for people."""
    layout: str = ""
    """Whose names they had; empty if torchvision's."""
    left_over: tuple[str, ...] = ()
    """Names of tensors beside the weights that were passed over, without counters."""

    def where(self) -> str:
        """For people, such as ``state_dict_ema, prefix module.``."""
        prefix = f"prefix {self.prefix}" if self.prefix else "no prefix"
        layout = f", {self.layout} names" if self.layout else ""
        return f"{self.wrapper or 'plain state dict'}, {prefix}{layout}"


@dataclass(frozen=True, slots=True)
class _Candidate:
    path: tuple[str, ...]
    tensors: dict[str, Tensor]
    prefix: str
    layout: str

    def named(self, words: re.Pattern[str]) -> bool:
        """Whether a key or a part of the prefix has one of ``words``."""
        return any(words.search(part.lower()) for part in (*self.path, *self.prefix.split(".")))

    def __str__(self) -> str:
        return ".".join((*self.path, self.prefix)).rstrip(".") or "the weights without a prefix"


def find_state_dict(raw: object, *, source: str, ema: bool = True, beside: bool = False) -> StateDict:
    """The one state dict of this family in ``raw``, what a weights file holds.

    Averaged weights (EMA, SWA) come first, as timm does it, unless ``ema`` is False; a student before its teacher.
    Counters, optimizer state and other entries are passed over. InputError, which names ``source``, if there is none,
    if several are left, or if tensors beside it belong to a larger model, unless ``beside`` lets them be left over.
    """
    if not isinstance(raw, Mapping):
        kind = type(raw).__name__
        raise InputError(f"{source}: holds one {kind}, not a state dict; save model.state_dict() alone")
    dicts = list(_dicts(raw))
    candidates = [
        _Candidate(path, tensors, found[1] or "", layout)
        for path, tensors, layout in dicts
        for key in tensors
        if (found := _FIRST.fullmatch(key))
    ]
    if not candidates:
        raise _no_alexnet([key for _, tensors, _ in dicts for key in tensors], source)
    chosen = _chosen(candidates, source, ema)
    averaged = chosen.named(_AVERAGED)
    nameless = _nameless_average(raw) if ema and not averaged else None
    note = f"{nameless} holds no weights by name and is left out" if nameless else ""
    siblings = [c.prefix for c in candidates if c.tensors is chosen.tensors and c is not chosen]
    weights: dict[str, Tensor] = {}
    left_over: list[str] = []
    for key, value in chosen.tensors.items():
        if key.rpartition(".")[2] in _COUNTERS:
            continue
        if any(p.startswith(chosen.prefix) and key.startswith(p) for p in siblings):
            left_over.append(key)
        elif key.startswith(chosen.prefix):
            weights[key.removeprefix(chosen.prefix)] = value.detach()
        elif beside or any(p and key.startswith(p) for p in siblings) or _LOSS_WEIGHT.fullmatch(key):
            left_over.append(key)
        else:
            raise InputError(
                f"{source}: holds {key} beside the weights below {chosen.prefix!r}, so it is a larger model; "
                f"{OTHER_TOOL}"
            )
    wrapper = ".".join(chosen.path)
    return StateDict(weights, wrapper, chosen.prefix, averaged, note, chosen.layout, tuple(left_over))


def _dicts(raw: Mapping[object, object]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor], str]]:
    """Each dict within ``raw`` that holds tensors: the keys that lead to it, its tensors, whose names they had."""
    waiting: list[tuple[tuple[str, ...], Mapping[object, object]]] = [((), raw)]
    seen: set[int] = set()
    while waiting and len(seen) < _MAX_DICTS:
        path, inner = waiting.pop(0)
        if id(inner) in seen:  # a pickle can hold a dict within itself
            continue
        seen.add(id(inner))
        named = {key: value for key, value in inner.items() if isinstance(key, str)}
        tensors = {key: tensor for key, value in named.items() if (tensor := _tensor(value)) is not None}
        if tensors:
            yield path, *with_torchvisions_names(tensors)
        if len(path) < _MAX_DEPTH:
            waiting += [((*path, key), value) for key, value in named.items() if isinstance(value, Mapping)]


def _tensor(value: object) -> Tensor | None:
    if isinstance(value, np.ndarray) and value.dtype in (np.float16, np.float32, np.float64):
        return torch.from_numpy(np.ascontiguousarray(value))
    return value if isinstance(value, Tensor) else None


def _nameless_average(raw: Mapping[object, object]) -> str | None:
    """The key of an average that is a bare list of tensors, as torch_ema writes it."""
    for key, value in raw.items():
        if isinstance(key, str) and isinstance(value, Mapping | list) and _AVERAGED.search(key.lower()):
            return key
    return None


def _chosen(candidates: list[_Candidate], source: str, ema: bool) -> _Candidate:
    averaged = [c for c in candidates if c.named(_AVERAGED)]
    plain = [c for c in candidates if not c.named(_AVERAGED)]
    if not ema and not plain:
        raise InputError(f"{source}: holds averaged weights alone ({averaged[0]}); leave `ema` at its default")
    left = averaged if ema and averaged else plain
    left = [c for c in left if not c.named(_TEACHER)] or left
    left = [c for c in left if c.named(_STUDENT)] or left
    if len(left) > 1:
        names = ", ".join(map(str, left[:4]))
        raise InputError(
            f"{source}: holds {len(left)} state dicts that fit ({names}); save the one that you want alone"
        )
    return left[0]


def _no_alexnet(keys: list[str], source: str) -> InputError:
    for family, pattern in _FAMILIES:
        key = next((key for key in keys if re.search(pattern, key)), None)
        if key is not None:
            return InputError(
                f"{source}: holds the state dict of a {family} ({key}; its first keys: {', '.join(keys[:3])}), "
                f"not an AlexNet; {OTHER_TOOL}"
            )
    if keys:
        first = ", ".join(keys[:3])
        return InputError(f"{source}: holds no AlexNet of this family (its first keys: {first}); {OTHER_TOOL}")
    return InputError(f"{source}: holds no tensors with names; save model.state_dict() alone")


def fit_architecture(weights: Mapping[str, Tensor], architecture: str | None, *, source: str) -> Architecture:
    """The member of the family that has these names and shapes; its classes and hidden width are those of the weights.

    ``architecture`` names one member to accept alone. UsageError if it is another member, InputError if it is none.
    """
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    if shapes.get("classifier.6.weight", ())[:1] == (1,):
        raise InputError(f"{source}: has one output, a classifier needs at least 2; {OTHER_TOOL}")
    fitting = {name: _sized(arch, shapes) for name, arch in FAMILY.items()}
    matching = [name for name, arch in fitting.items() if arch and _expected(arch) == shapes]
    numbers = sum(value.numel() for value in weights.values())
    if numbers > MAX_NUMBERS:
        raise InputError(f"{source}: declares {numbers} numbers, more than the {MAX_NUMBERS} allowed; check the file")
    if architecture in matching or (architecture is None and len(matching) == 1):
        arch = fitting[architecture or matching[0]]
        assert arch is not None  # it matches
        return arch
    if architecture is not None and matching:
        raise UsageError(
            f"`architecture` {architecture}: does not fit {source}, which holds {matching[0]}; leave it out"
        )
    names = [architecture] if architecture else list(FAMILY)
    nearest = max(names, key=lambda name: len(_expected(fitting[name] or FAMILY[name]).items() & shapes.items()))
    expected = _expected(fitting[nearest] or FAMILY[nearest])
    key = next(k for k in (expected | shapes) if expected.get(k) != shapes.get(k))
    kind = _kind(shapes)
    raise InputError(
        f"{source}: {kind} {nearest}: {key} is {shapes.get(key, 'absent')}, expected {expected.get(key, 'absent')}; "
        f"{OTHER_TOOL}"
    )


def _kind(shapes: Mapping[str, tuple[int, ...]]) -> str:
    first = next((shape for key, shape in shapes.items() if key.endswith(".0.weight")), ())
    if first[2:] == (3, 3):
        return "holds the state dict of a VGG or the like (its first kernel is 3 x 3), which does not fit"
    return "does not fit"


def _sized(arch: Architecture, shapes: Mapping[str, tuple[int, ...]]) -> Architecture | None:
    """``arch`` with the classes, hidden width and rank of these shapes; None where they allow none."""
    last, factor = shapes.get("classifier.6.weight", ()), shapes.get("classifier.1.0.weight", ())
    hidden = shapes.get("classifier.1.1.weight" if factor else "classifier.1.weight", ())
    sizes = [shape[0] if len(shape) == 2 else 0 for shape in (last, hidden, *([factor] if factor else []))]
    if not all(1 <= size <= 1 << 16 for size in sizes):
        return None
    try:
        return dataclasses.replace(arch, num_classes=sizes[0], hidden=sizes[1], dense_rank=sizes[2] if factor else None)
    except UsageError:  # one class, or a rank above the width
        return None


def _expected(arch: Architecture) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in AlexNet(arch).state_dict().items()}
