"""The contract of a model: its input, its output, and the meaning of each output.

It travels with every artifact (safetensors metadata, ONNX metadata, ``bundle.json``). No stage asks for what an
artifact already holds.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from importlib import resources
from typing import Literal, get_args

from alexnet_deploy.calibration import Calibration, Rejection
from alexnet_deploy.errors import UsageError
from alexnet_deploy.json_format import JsonFormat

SCHEMA = 1
Precision = Literal["fp32", "fp16", "int8", "int8+fp16", "fp8", "fp8+fp16", "int8-weights", "int4"]
"""``int8+fp16``: int8 in the quantised layers, float16 in all others.

``int8-weights`` and ``int4`` store weights in that type and compute in float16: int8 in convolutions and dense layers,
int4 in dense layers.
"""
Channels = Literal["rgb", "bgr", "grey", "rgba"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
CropOffset = Literal["round", "floor"]
Decoding = Literal["full", "reduced-2x", "reduced-3x", "reduced-4x"]
"""How large a JPEG is decoded; each name stands for one rule for ever, so that a contract states its pixels."""
NEW_DECODING: Decoding = "reduced-2x"
"""Rule of contracts that are made now; docs/preprocessing.md has the measurements behind it."""
Activation = Literal["softmax", "sigmoid"]
ArchitectureName = Literal["alexnet", "alexnet-2012", "alexnet-review", "alexnet-review-code"]
"""Members of the AlexNet family, which ``model.architecture`` describes."""
METADATA_KEY = "alexnet_deploy.contract"
"""Key under which safetensors and ONNX metadata carry the contract as JSON."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_SIDE = 4096
"""Largest input side: bounds the memory that a damaged or hostile contract can make us allocate."""
LEAST_SIDE = 3
"""Of maps that still tell the places of a picture apart."""
MAX_FEATURES = 1 << 22
"""Most numbers per image of an inner layer, for the same reason. VGG's first layer has 3.2 million."""


def torchvision_resize_to(height: int, width: int) -> int:
    """The ``resize_to`` for which a crop of ``height`` x ``width`` is torchvision's share of the image: 224 of 256."""
    return max(height, width) * 256 // 224


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image file becomes the uint8 pixels of a model.

    ``resize`` is ``"stretch"`` (aspect ratio ignored: both sides to height x width, or with ``resize_to`` both to that
    many pixels, then a centre crop) or ``"shorter-side"`` (the shorter side to ``resize_to`` pixels, then a centre crop
    of height x width: torchvision's Resize + CenterCrop).
    ``interpolation`` is Pillow's filter of that name; ``"nearest"`` alone is not antialiased. ``crop_offset`` makes the
    offset of the crop a whole number of pixels: ``"round"`` (half to even, torchvision) or ``"floor"`` (Hugging Face's
    image processors).

    ``decoding`` is ``"full"`` or, for ``"reduced-2x"``, decodes a large JPEG at 1/2, 1/4 or 1/8 of its size
    (libjpeg's scaled inverse DCT): the smallest whose shorter side is at least twice ``resize_to`` (without it: the
    longer of height and width). ``"full"`` holds for JPEGs that are too small for that, for ``"nearest"``, for all
    other formats, and for contracts of earlier versions, which do not name a rule.

    The graph itself applies the rest. ``channels`` is what the model computes on: ``"bgr"`` exchanges red and blue,
    ``"grey"`` is Pillow's luma (ITU-R 601-2), ``"rgba"`` adds an opaque alpha channel. ``mean`` and ``std`` are per
    channel red, green, blue on the 0..1 scale, in this order also for ``"bgr"``; three equal values for ``"grey"``.
    """

    height: int = 224
    width: int = 224
    resize: Literal["stretch", "shorter-side"] = "shorter-side"
    resize_to: int | None = 256
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    channels: Channels = "rgb"
    crop_offset: CropOffset = "round"
    decoding: Decoding = "full"

    def __post_init__(self) -> None:
        for name in ("height", "width") if self.resize_to is None else ("height", "width", "resize_to"):
            value: object = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= MAX_SIDE:
                raise ValueError(f"{name} {value!r} is not a whole number within 1..{MAX_SIDE}")
        if self.resize not in ("stretch", "shorter-side"):
            raise ValueError(f"unknown resize rule {self.resize!r}")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"unknown interpolation {self.interpolation!r}")
        if self.channels not in get_args(Channels):
            raise ValueError(f"unknown channels {self.channels!r}")
        if self.crop_offset not in get_args(CropOffset):
            raise ValueError(f"unknown crop offset {self.crop_offset!r}")
        if self.decoding not in get_args(Decoding):
            raise ValueError(f"unknown decoding {self.decoding!r}")
        if self.resize == "shorter-side" and self.resize_to is None:
            raise ValueError("resize 'shorter-side' needs resize_to")
        if self.resize_to is not None and self.resize_to < max(self.height, self.width):
            raise ValueError(f"{self.resize_to} pixels before the crop are fewer than its {self.height} x {self.width}")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError("mean and std need three values, one per channel")
        if not all(map(math.isfinite, self.mean)) or not all(math.isfinite(s) and s > 0 for s in self.std):
            raise ValueError(f"mean {self.mean} / std {self.std}: finite numbers, std above 0")

    @property
    def decoded_side(self) -> int | None:
        """Pixels that the shorter side of a JPEG keeps at least when it is decoded; None: it is decoded in full."""
        factor = self.decoded_factor
        return None if factor is None else factor * (self.resize_to or max(self.height, self.width))

    @property
    def decoded_factor(self) -> int | None:
        """Pixels that a JPEG keeps at least for each one it is resized to; None: it is decoded in full."""
        if self.decoding == "full" or self.interpolation == "nearest":  # nearest takes single pixels of the original
            return None
        return int(self.decoding.removeprefix("reduced-").removesuffix("x"))

    def describe(self) -> str:
        """All rules in one line, for people."""
        size = f"{self.height} x {self.width}"
        if self.resize_to is None:
            geometry = f"stretched to {size}"
        else:
            side = "both sides" if self.resize == "stretch" else "shorter side"
            rounded = " (offset rounded down)" if self.crop_offset == "floor" else ""
            geometry = f"{side} to {self.resize_to}, centre crop {size}{rounded}"
        mean, std = (",".join(f"{value:.5g}" for value in values) for values in (self.mean, self.std))
        decoded = "" if self.decoded_side is None else f"; large JPEGs decoded to {self.decoded_side} or more"
        channels = {"rgb": "RGB", "bgr": "BGR", "grey": "grey", "rgba": "RGB with alpha"}[self.channels]
        return f"{geometry}, {self.interpolation}; {channels}, mean {mean}, std {std} on 0..1{decoded}"


@dataclass(frozen=True, slots=True)
class FeatureOutput:
    """What an engine returns that ends at a layer inside: the layer's output for one image, in float32."""

    layer: str
    shape: tuple[int, ...]
    """Of the layer's output for one image; a row of the engine's output is this in C order."""
    sha256: str
    """Of the graph up to the layer, with its weights: engines in which it is the same compute the same features."""

    def __post_init__(self) -> None:
        if not self.shape or any(side < 1 for side in self.shape) or self.width > MAX_FEATURES:
            raise ValueError(f"features of shape {list(self.shape)}: 1 to {MAX_FEATURES} numbers per image")
        "".join((self.layer, self.sha256)).encode()  # as in ModelContract

    @property
    def width(self) -> int:
        """Numbers per image."""
        return math.prod(self.shape)

    @property
    def has_places(self) -> bool:
        """Whether the output is ``[C, H, W]`` with more than one place of the picture."""
        return len(self.shape) == 3 and min(self.shape[1:]) >= LEAST_SIDE


@dataclass(frozen=True, slots=True)
class ModelContract:
    """What one classifier expects and returns, or an engine that ends at a layer inside of one (``features``).

    Input: ``input_name``, uint8 ``[N, height, width, 3]`` RGB. Output: ``output_name``, float32 logits ``[N, K]``,
    K = ``len(labels)``. ``class_ids[k]`` is the folder name of class k in a labelled data set (a WordNet id for
    ImageNet), ``labels[k]`` its name for people. ``activation`` turns the logits into probabilities: ``"softmax"``
    where one class is right, ``"sigmoid"`` where each class is right or wrong by itself (multi-label).
    ``temperature`` divides the logits before that (Guo et al. 2017, arXiv:1706.04599), and ``calibration`` maps the
    probabilities after it; 1.0 and None mean uncalibrated. ``rejection`` marks answers as unknown; None where no rule
    was fitted. ``probabilities.probabilities`` and ``probabilities.unknown`` apply them.
    """

    architecture: str
    labels: tuple[str, ...]
    class_ids: tuple[str, ...]
    preprocessing: Preprocessing = Preprocessing()
    input_name: str = "pixels"
    output_name: str = "logits"
    temperature: float = 1.0
    activation: Activation = "softmax"
    calibration: Calibration | None = None
    rejection: Rejection | None = None
    features: FeatureOutput | None = None
    """None: the output are the logits of classes. Else it is ``[N, features.width]``, and there are no labels."""

    def __post_init__(self) -> None:
        if bool(self.labels) == (self.features is not None):
            raise ValueError("a contract needs at least one label, or features without labels")
        if len(self.labels) != len(self.class_ids):
            raise ValueError(f"{len(self.labels)} labels but {len(self.class_ids)} class ids")
        if len(set(self.class_ids)) != len(self.class_ids):
            raise ValueError("class ids are not unique")
        # UnicodeEncodeError (a ValueError) for text that no file can hold, such as half a surrogate pair
        "".join((self.architecture, self.input_name, self.output_name, *self.labels, *self.class_ids)).encode()
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature {self.temperature} is not above 0")
        if self.activation not in get_args(Activation):
            raise ValueError(f"unknown activation {self.activation!r}")
        if self.activation == "sigmoid" and (self.calibration is not None or self.rejection is not None):
            raise ValueError("a calibration or a rule for unknown answers needs activation 'softmax'")

    @property
    def outputs(self) -> int:
        """Numbers that the model returns per image."""
        return len(self.labels) if self.features is None else self.features.width

    @property
    def is_calibrated(self) -> bool:
        """Whether probabilities differ from those of the bare logits."""
        return self.temperature != 1.0 or self.calibration is not None

    def uncalibrated(self) -> ModelContract:
        """The same contract without anything that was fitted to the answers of one engine."""
        if not self.is_calibrated and self.rejection is None:
            return self
        return dataclasses.replace(self, temperature=1.0, calibration=None, rejection=None)

    def decoded(self, decoding: Decoding) -> ModelContract:
        """The same contract with another rule of decoding."""
        if decoding == self.preprocessing.decoding:
            return self
        return dataclasses.replace(self, preprocessing=dataclasses.replace(self.preprocessing, decoding=decoding))

    def to_json(self) -> str:
        """The contract as JSON with sorted keys; equal contracts have equal text."""
        return json.dumps({"schema": SCHEMA} | dataclasses.asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str) -> ModelContract:
        """Read what ``to_json`` wrote; ``source`` names the artifact in the ArtifactError if it is not valid."""
        return _FORMAT.decode(text, cls, source=source)


ADDED_FIELDS = frozenset(("activation", "calibration", "channels", "crop_offset", "decoding", "features", "rejection"))
"""Fields of a contract that files of earlier versions lack."""
_FORMAT = JsonFormat("contract", SCHEMA, "make the file again", added=ADDED_FIELDS)


def imagenet1k_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class ids (WordNet) and labels of ImageNet-1k, in the order of published models' outputs."""
    raw = json.loads((resources.files("alexnet_deploy") / "data" / "imagenet1k.json").read_text(encoding="utf-8"))
    return tuple(raw["class_ids"]), tuple(raw["labels"])


@dataclass(frozen=True, slots=True)
class BatchProfile:
    """Batch sizes that an engine accepts (``min``..``max``), and the one that it is tuned for (``opt``).

    Raises UsageError, which calls them as the options of ``build-engine``: `min_batch`, `opt_batch`, `max_batch`.
    """

    min: int = 1
    opt: int = 8
    max: int = 32

    def __post_init__(self) -> None:
        if self.min < 1:
            raise UsageError(f"`min_batch` {self.min}: a batch has at least one image; use 1 or more")
        if self.min > self.max:
            raise UsageError(f"`min_batch` {self.min} exceeds `max_batch` {self.max}; raise `max_batch`")
        if self.opt > self.max:
            raise UsageError(f"`opt_batch` {self.opt} exceeds `max_batch` {self.max}; raise `max_batch`")
        if self.opt < self.min:
            raise UsageError(f"`opt_batch` {self.opt} is below `min_batch` {self.min}; raise `opt_batch`")
