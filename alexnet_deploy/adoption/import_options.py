"""What an ONNX of another tool does not record, and the user must provide."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from alexnet_deploy.contract import MAX_SIDE, Activation, Channels, CropOffset, Interpolation
from alexnet_deploy.errors import UsageError, require_one_of

PresetName = Literal[
    "torchvision", "timm", "inception", "clip", "keras", "keras-tf", "keras-torch", "keras-caffe", "keras-raw",
    "caffe", "ultralytics", "paddle", "raw",
]  # fmt: skip
Resize = Literal["stretch", "shorter-side"]
Scale = Literal["0..1", "0..255"]
_MAX_STD = 1.5
"""On the 0..1 scale no data varies as much as 0.5; 2 and above is the 0..255 scale."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Preprocessing of an ONNX of another tool, and the meaning of its outputs; None: not known.

    What is given here comes first, then ``preprocessing``, then what the file or a file beside it records, then the
    default. UsageError names a parameter out of range, or two that contradict each other.
    """

    mean: tuple[float, ...] | None = None
    """One value, or one for red, green and blue, in this order also for ``channels="bgr"``."""
    std: tuple[float, ...] | None = None
    labels: str | Path | None = None
    """A file or folder as ``labels.read_labels`` reads it, or ``imagenet1k``."""
    resize: Resize | None = None
    """None: ``"shorter-side"``."""
    resize_to: int | None = None
    """Pixels before the crop: of the shorter side, or with ``"stretch"`` of both. None: for the shorter side
    torchvision's share of the crop, 256 for 224; with ``"stretch"`` no crop."""
    crop_pct: float | None = None
    """The share crop / resize_to, as timm states it, in place of ``resize_to``."""
    crop: tuple[int, int] | None = None
    """Height and width of the input, for a model with free H x W; None: the model's own."""
    crop_offset: CropOffset | None = None
    """None: ``"round"``."""
    interpolation: Interpolation | None = None
    """None: ``"bilinear"``."""
    channels: Channels | None = None
    """None: what the input has: RGB for three channels."""
    output_name: str | None = None
    """The output with the class scores, of a model with several outputs."""
    activation: Activation | None = None
    """What makes probabilities of the outputs, where the graph does not end in it; None: softmax."""
    preprocessing: PresetName | None = None
    """The rules of another library."""
    scale: Scale | None = None
    """The pixel values that ``mean`` and ``std`` are for; None: 0..1."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None:
                _require_three_numbers(name, values)
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) is not None:
                require_one_of(choices, **{name: value})
        if self.preprocessing == "keras":
            raise UsageError(
                "`preprocessing` keras: Keras has four, by the model: keras-tf (MobileNet, MobileNetV2, Inception, "
                "Xception, NASNet, ResNetV2), keras-caffe (VGG, ResNet), keras-torch (DenseNet), keras-raw "
                "(EfficientNet, MobileNetV3, ConvNeXt); choose one"
            )
        if self.resize_to is not None and not 1 <= self.resize_to <= MAX_SIDE:
            raise UsageError(f"`resize_to` {self.resize_to}: must be within 1..{MAX_SIDE} pixels")
        if self.crop_pct is not None and not 0.05 <= self.crop_pct <= 1:
            raise UsageError(f"`crop_pct` {self.crop_pct:g}: is a share of the image, such as 0.875; use 0.05 to 1")
        if self.crop_pct is not None and self.resize_to is not None:
            raise UsageError("`crop_pct` and `resize_to` both set the size before the crop; give one of them")
        if self.crop is not None and not all(1 <= side <= MAX_SIDE for side in self.crop):
            raise UsageError(f"`crop` {'x'.join(map(str, self.crop))}: each side must be within 1..{MAX_SIDE} pixels")
        if self.scale is not None and self.mean is None and self.std is None:
            raise UsageError("`scale` is the scale of `mean` and `std`; give them, or leave it out")
        self._check_scale()

    def given(self) -> tuple[str, ...]:
        """Names of the parameters that are set."""
        return tuple(field.name for field in dataclasses.fields(self) if getattr(self, field.name) is not None)

    def for_each(self, names: Sequence[str | None]) -> list[ImportOptions]:
        """These options for each ONNX file among the engines ``names``, none for the others.

        Without an ONNX file all get them, to be refused (``refuse_for``): options must not be ignored in silence.
        """
        is_onnx = [name is not None and name.endswith(".onnx") for name in names]
        return [self if this or not any(is_onnx) else NO_IMPORT_OPTIONS for this in is_onnx]

    def refuse_for(self, bundle: Path) -> None:
        """UsageError if any of these options is set: a bundle has a contract of its own."""
        if self.given():
            given = " and ".join(f"`{option}`" for option in self.given())
            raise UsageError(f"{given}: for an ONNX of another tool, and {bundle} is a bundle; leave it out")

    def over(self, lower: ImportOptions) -> ImportOptions:
        """These options, with those of ``lower`` where a parameter is not set; both on the 0..1 scale.

        The size before the crop belongs to its resize rule: where one of them is set here, that of ``lower`` is left.
        """
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        own_size = {"resize", "resize_to", "crop_pct"}.intersection(self.given())
        for name in lower.given():
            if values[name] is None and not (own_size and name in ("resize_to", "crop_pct")):
                values[name] = getattr(lower, name)
        return ImportOptions(**values)

    def on_unit_scale(self) -> ImportOptions:
        """These options with ``mean`` and ``std`` on the 0..1 scale."""
        if self.scale != "0..255":
            return dataclasses.replace(self, scale=None)
        mean, std = (values and tuple(value / 255 for value in values) for values in (self.mean, self.std))
        return dataclasses.replace(self, mean=mean, std=std, scale=None)

    def _check_scale(self) -> None:
        """UsageError if ``mean`` or ``std`` is on another scale than ``scale``: the answers would be wrong."""
        mean, std = self.mean or (0.0,), self.std or (1.0,)
        if self.scale == "0..255":
            if self.mean and self.std and 0 < max(mean) <= 1 and max(std) < 1:
                raise UsageError(
                    f"`mean` {_typed(mean)} and `std` {_typed(std)}: are on the 0..1 scale; leave out `scale`"
                )
            return
        mean_is_large = max(map(abs, mean)) > 1
        std_is_large = max(std) > _MAX_STD and self.scale is None
        if not (mean_is_large or std_is_large):
            return
        wrong = " and ".join(
            f"`{name}` {_typed(getattr(self, name))}" for name in ("mean", "std") if getattr(self, name)
        )
        if max(map(abs, mean)) > 255 or max(std) > 255:
            raise UsageError(f"{wrong}: on neither the 0..1 nor the 0..255 scale; check the numbers")
        # Means of the 0..255 scale may stand beside deviations of 0..1, and the other way round.
        mixed = (mean_is_large and self.std is not None and max(std) < 1) or (std_is_large and 0 < max(mean) <= 1)
        right_mean = tuple(m / 255 for m in mean) if mean_is_large else mean
        right_std = std if mixed and not std_is_large else tuple(s / 255 for s in std)
        numbers = [f"`mean` {_typed(right_mean)}"] if self.mean else []
        numbers += [f"`std` {_typed(right_std)}"] if self.std else []
        either = "" if mixed else ", or `scale` 0..255 beside the numbers as they are"
        raise UsageError(f"{wrong}: on the 0..255 scale, expected 0..1; give {' and '.join(numbers)}{either}")


def _require_three_numbers(name: str, values: Any) -> None:
    try:
        fits = len(values) in (1, 3) and all(map(math.isfinite, values))
    except TypeError:  # not numbers
        fits = False
    if not fits:
        raise UsageError(f"`{name}` {values}: must be one finite number, or three for red, green and blue")
    if name == "std" and min(values) <= 0:
        raise UsageError(f"`std` {values}: must be above 0")


def _typed(values: Iterable[float]) -> str:
    """Numbers as they are typed on the command line."""
    return ",".join(f"{value:.6g}" for value in values)


_CHOICES: dict[str, tuple[str, ...]] = {
    "resize": get_args(Resize), "interpolation": get_args(Interpolation), "channels": get_args(Channels),
    "crop_offset": get_args(CropOffset),
    "activation": get_args(Activation), "preprocessing": get_args(PresetName), "scale": get_args(Scale),
}  # fmt: skip
NO_IMPORT_OPTIONS = ImportOptions()
