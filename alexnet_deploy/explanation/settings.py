"""What is covered, and with what: the parameters of occlusion, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import UsageError, require_positive

_NAMED = {"black": (0, 0, 0), "white": (255, 255, 255), "grey": (128, 128, 128)}
_SIDE_BY_PATCH, _PATCH_BY_STRIDE = 5, 4
"""The default patch is 45 of 224 pixels, moved by 11: 324 places. docs/explain.md compares sizes: those from
32 to 90 find drops of about the same size, and 32 takes twice as long."""

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class OcclusionSettings:
    """A square of ``patch`` pixels in the colour ``fill`` (RGB, 0 to 255) is moved by ``stride`` pixels."""

    patch: int
    stride: int
    fill: Colour


def occlusion_settings(
    pre: Preprocessing, *, patch: int | None = None, stride: int | None = None, fill: str = "mean"
) -> OcclusionSettings:
    """The settings for a model with this preprocessing; None is the default.

    ``fill`` is ``mean`` (the model's mean pixel, which its normalisation turns into 0), ``black``, ``white``, ``grey``
    or a colour such as ``127,127,127``. Raises UsageError for a patch that is larger than the picture, a stride above
    the patch (some pixels would never be covered), and an unknown ``fill``.
    """
    require_positive(patch=patch, stride=stride)
    shorter = min(pre.height, pre.width)
    if patch is None:
        patch = max(1, round(shorter / _SIDE_BY_PATCH))
    if patch > shorter:
        raise UsageError(
            f"`patch` {patch}: the picture has {pre.height} x {pre.width} pixels; choose {shorter} or less"
        )
    if stride is None:
        stride = max(1, patch // _PATCH_BY_STRIDE)
    if stride > patch:
        raise UsageError(f"`stride` {stride}: above the patch of {patch} it leaves pixels out; choose {patch} or less")
    return OcclusionSettings(patch, stride, _colour(fill, pre))


def _colour(fill: str, pre: Preprocessing) -> Colour:
    if fill == "mean":
        red, green, blue = (min(max(round(255 * value), 0), 255) for value in pre.mean)
        return red, green, blue
    if fill in _NAMED:
        return _NAMED[fill]
    found = re.fullmatch(r"(\d{1,3}),(\d{1,3}),(\d{1,3})", fill, re.ASCII)
    if found is None or any(int(value) > 255 for value in found.groups()):
        raise UsageError(
            f"`fill` {fill}: is no colour; choose mean, {', '.join(_NAMED)}, or red,green,blue from 0 to 255"
        )
    return int(found[1]), int(found[2]), int(found[3])
