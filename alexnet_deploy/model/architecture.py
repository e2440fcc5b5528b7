"""The AlexNet family: one frozen description of an architecture, one nn.Module that builds any of them.

Sources: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks"
(NIPS 2012), called "the paper" below; Krizhevsky, "One weird trick" (arXiv:1404.5997), whose widths
torchvision's ``alexnet`` has.

The order of the layers gives the parameter names: ``alexnet`` loads torchvision's state dict, and
``alexnet-review-code`` a checkpoint of the review's own test code.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.json_format import convert
from alexnet_deploy.model.lrn import PaperLRN

# Legend: N batch, C channel, H height, W width, K class

INPUT_SIDE = 224
FEATURE_SIDE = 6
KERNELS = (11, 5, 3, 3, 3)
POOLED = (0, 1, 4)
"""Convolutions (from 0) that a max-pool follows; LRN may follow the first two."""
Size = Annotated[int, Meta(ge=1, le=1 << 16)]
"""Bounds the memory that a damaged or hostile checkpoint can make us allocate."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """One member of the family. The fields after ``widths`` are the paper's ideas as switches."""

    name: str
    widths: tuple[Size, Size, Size, Size, Size]
    num_classes: Size = 1000
    groups: tuple[Size, Size, Size, Size, Size] = (1, 1, 1, 1, 1)
    lrn: Literal["none", "before-pool", "after-pool"] = "none"
    activation: Literal["relu", "tanh"] = "relu"
    overlapping_pool: bool = True
    dropout: float = 0.5
    conv_bias: bool = True
    hidden: Size = 4096
    dense_rank: Size | None = None
    """Rank of the two hidden dense layers' weights; None: full. They hold 54.5 of AlexNet's 61.1 million weights."""
    feature_name: str = "features"

    def __post_init__(self) -> None:
        if self.lrn not in ("none", "before-pool", "after-pool") or self.activation not in ("relu", "tanh"):
            raise ValueError(f"unknown lrn {self.lrn!r} or activation {self.activation!r}")
        if self.num_classes < 2:
            raise UsageError(f"{self.name}: {self.num_classes} classes; a classifier needs at least 2")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"`dropout` {self.dropout}: must be a probability from 0 to below 1")
        if self.dense_rank is not None and not 1 <= self.dense_rank < self.hidden:
            raise UsageError(f"`dense_rank` {self.dense_rank}: must be within 1..{self.hidden - 1} for {self.name}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``architecture_from_dict`` reads them back."""
        return dataclasses.asdict(self)


FAMILY: dict[str, Architecture] = {
    arch.name: arch
    for arch in (
        Architecture("alexnet", (64, 192, 384, 256, 256)),
        Architecture("alexnet-2012", (96, 256, 384, 384, 256), groups=(1, 2, 1, 2, 2), lrn="before-pool"),
        Architecture("alexnet-review", (96, 256, 384, 384, 256), lrn="after-pool"),
        Architecture(
            "alexnet-review-code", (96, 192, 384, 256, 256), conv_bias=False, feature_name="feature_extraction"
        ),
    )
}


def get_architecture(name: str, **switches: Any) -> Architecture:
    """The member ``name`` of the family with some fields changed; UsageError for an unknown name."""
    if name not in FAMILY:
        raise UsageError(f"`architecture` {name}: unknown; choose one of {', '.join(FAMILY)}")
    return dataclasses.replace(FAMILY[name], **switches)


def architecture_from_dict(raw: object, *, source: str) -> Architecture:
    """Read the result of ``Architecture.to_dict``; InputError names ``source`` if a field is missing or wrong."""
    try:
        arch = convert(raw, Architecture)
        if arch.name not in FAMILY or FAMILY[arch.name].feature_name != arch.feature_name:
            raise ValueError(f"there is no {arch.name!r} with {arch.feature_name!r}")
        with torch.device("meta"):
            AlexNet(arch)  # raises where the groups do not divide the widths
    except (ValueError, TypeError, OverflowError, UsageError) as exc:
        raise InputError(
            f"{source}: its architecture is not one of this family ({exc}); export it with its own tool"
        ) from exc
    return arch


class AlexNet(nn.Module):
    """Normalised float pixels ``[N, 3, 224, 224]`` in, logits ``[N, num_classes]`` out.

    Images of another size, down to 63 pixels, work as in torchvision's module: the features are averaged to 6 x 6.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.add_module(arch.feature_name, _features(arch))
        self.classifier = _classifier(arch)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        features: Tensor = self.get_submodule(self.arch.feature_name)(x_NCHW)
        if features.shape[2:] != (FEATURE_SIDE, FEATURE_SIDE):  # smaller images, in training only
            features = nn.functional.adaptive_avg_pool2d(features, FEATURE_SIDE)
        logits_NK: Tensor = self.classifier(features.flatten(1))
        return logits_NK


def _features(arch: Architecture) -> nn.Sequential:
    layers: list[nn.Module] = []
    in_channels = 3
    for index, (width, kernel, groups) in enumerate(zip(arch.widths, KERNELS, arch.groups, strict=True)):
        stride, padding = (4, 2) if index == 0 else (1, kernel // 2)
        layers.append(nn.Conv2d(in_channels, width, kernel, stride, padding, groups=groups, bias=arch.conv_bias))
        layers.append(_activation(arch))
        normalised = arch.lrn if index in POOLED[:2] else "none"
        if normalised == "before-pool":
            layers.append(PaperLRN())
        if index in POOLED:
            # Windows of 3 overlap, windows of 2 do not; both shrink 55 -> 27 -> 13 -> 6.
            layers.append(nn.MaxPool2d(kernel_size=3 if arch.overlapping_pool else 2, stride=2))
        if normalised == "after-pool":
            layers.append(PaperLRN())
        in_channels = width
    return nn.Sequential(*layers)


def _classifier(arch: Architecture) -> nn.Sequential:
    flat = arch.widths[-1] * FEATURE_SIDE**2
    return nn.Sequential(
        nn.Dropout(arch.dropout),
        _dense(flat, arch.hidden, arch.dense_rank),
        _activation(arch),
        nn.Dropout(arch.dropout),
        _dense(arch.hidden, arch.hidden, arch.dense_rank),
        _activation(arch),
        nn.Linear(arch.hidden, arch.num_classes),
    )


def _activation(arch: Architecture) -> nn.Module:
    return nn.ReLU(inplace=True) if arch.activation == "relu" else nn.Tanh()


def _dense(fan_in: int, fan_out: int, rank: int | None) -> nn.Module:
    if rank is None:
        return nn.Linear(fan_in, fan_out)
    return nn.Sequential(nn.Linear(fan_in, rank, bias=False), nn.Linear(rank, fan_out))


@torch.no_grad()
def initialise(model: AlexNet, scheme: Literal["paper", "kaiming"]) -> None:
    """Draw new weights in place from torch's global generator.

    ``paper`` (section 5): weights N(0, 0.01), bias 1 in convolutions 2, 4, 5 and the hidden dense layers, 0
    elsewhere. ``kaiming`` (He et al., arXiv:1502.01852): variance 2 / fan_in, or 1 / fan_in where no ReLU follows
    (the last layer, the first factor of a low-rank one), bias 0.
    """
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    dense = [m for m in model.classifier.modules() if isinstance(m, nn.Linear)]
    factors = {id(m[0]) for m in model.classifier if isinstance(m, nn.Sequential)}
    last = dense[-1]
    ones = {id(convolutions[i]) for i in (1, 3, 4)} | {id(m) for m in dense if m is not last}
    layers: list[nn.Conv2d | nn.Linear] = [*convolutions, *dense]
    for layer in layers:
        if scheme == "paper":
            nn.init.normal_(layer.weight, std=0.01)
        else:
            linear = id(layer) in factors or layer is last
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear" if linear else "relu")
        if layer.bias is not None:
            nn.init.constant_(layer.bias, 1.0 if scheme == "paper" and id(layer) in ones else 0.0)


class PixelClassifier(nn.Module):
    """uint8 RGB pixels ``[N, H, W, 3]`` in, logits ``[N, K]`` out, as in every later stage.

    ``mean`` and ``std`` are per channel on the 0..1 scale.
    """

    mean_255: Tensor
    scale: Tensor

    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean_255", torch.tensor(mean).mul(255).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(std).mul(255).reciprocal().view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels_NHWC: Tensor) -> Tensor:
        # Cast, then permute: TensorRT cannot transpose uint8. NHWC seen as NCHW is channels-last: no copy.
        x_NCHW = pixels_NHWC.float().permute(0, 3, 1, 2)
        logits_NK: Tensor = self.model((x_NCHW - self.mean_255) * self.scale)
        return logits_NK
