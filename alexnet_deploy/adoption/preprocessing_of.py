"""What is known about the preprocessing of a model of another tool -> the rules of its contract."""

from __future__ import annotations

import math
from pathlib import Path

from alexnet_deploy.adoption.image_input import ImageInput, check_channels
from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.contract import MAX_SIDE, NEW_DECODING, Preprocessing, torchvision_resize_to
from alexnet_deploy.errors import UsageError

Triple = tuple[float, float, float]
_RAW = ((0.0,), (1 / 255,))
_AS_THEY_ARE = "leave out `mean` and `std`, or give 0 and 0.00392157 (1/255), which keep the values"
_MAX_STD_OF_RAW = 0.05
"""Values that the graph is to scale itself span 20 at least."""


def preprocessing_of(options: ImportOptions, image: ImageInput, path: Path, *, own: ImportOptions) -> Preprocessing:
    """The rules of ``options`` for ``image``; ``options`` are complete and on the 0..1 scale (``presets.with_preset``).

    ``own`` are those that the user gave one by one. UsageError for what is missing, or does not fit the model.
    """
    if image.raw and (own.mean or own.std) and (any(own.mean or ()) or not _is_raw(own.std)):
        raise UsageError(f"{path}: its uint8 input takes the pixel values 0..255 as they are; {_AS_THEY_ARE}")
    height, width = _size(options, image, path)
    channels = check_channels(image, options.channels, path)
    mean, std = _mean_and_std(options, image, path)
    if channels in ("grey", "rgba") and (len(set(mean)) > 1 or len(set(std)) > 1):
        why = "grey is one channel" if channels == "grey" else "the alpha channel would have none of them"
        raise UsageError(f"{path}: `mean` and `std` differ between channels, but {why}; give one number for each")
    resize = options.resize or "shorter-side"
    try:
        return Preprocessing(
            height,
            width,
            resize=resize,
            resize_to=resize_to_of(options, resize, height, width),
            interpolation=options.interpolation or "bilinear",
            mean=three(mean),
            std=three(std),
            channels=channels,
            crop_offset=options.crop_offset or "round",
            decoding=NEW_DECODING,
        )
    except ValueError as exc:
        raise UsageError(f"{path}: {exc}; check `crop`, `resize_to` and `crop_pct`") from exc


def _size(options: ImportOptions, image: ImageInput, path: Path) -> tuple[int, int]:
    crop = options.crop
    if crop is None:
        if image.height is None or image.width is None:
            raise UsageError(
                f"{path}: input {image.name} takes images of any size; give the one that it was trained with as `crop`"
            )
        crop = (image.height, image.width)
    for mine, its in zip(crop, (image.height, image.width), strict=True):
        if its is not None and mine != its:
            known = f"{image.height or 'any'} x {image.width or 'any'}"
            raise UsageError(
                f"{path}: `crop` {crop[0]}x{crop[1]} does not fit the input of {known} (height x width); leave it out"
            )
    if max(crop) > MAX_SIDE:
        raise UsageError(f"{path}: its input of {crop[0]} x {crop[1]} exceeds {MAX_SIDE} pixels; export it smaller")
    return crop


def resize_to_of(options: ImportOptions, resize: str, height: int, width: int) -> int | None:
    """``resize_to`` of the contract for a crop of ``height`` x ``width``."""
    if options.resize_to is not None:
        return None if resize == "stretch" and options.resize_to == height == width else options.resize_to
    if options.crop_pct is not None:
        side = math.floor(max(height, width) / options.crop_pct)
        return None if resize == "stretch" and side == height == width else side
    return None if resize == "stretch" else torchvision_resize_to(height, width)


def _mean_and_std(options: ImportOptions, image: ImageInput, path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    given = options.mean is not None or options.std is not None
    if image.raw or (image.scaling is not None and not given):
        return _RAW
    if image.scaling is not None and min(options.std or (1.0,)) > _MAX_STD_OF_RAW:
        raise UsageError(
            f"{path}: its graph scales the pixel values 0..255 itself (node {image.scaling}), and `mean` and `std` "
            f"would scale them twice; {_AS_THEY_ARE}"
        )
    if options.mean is None or options.std is None:
        lacks = "" if not given else f" (`{'std' if options.std is None else 'mean'}` is missing)"
        raise UsageError(
            f"{path}: does not record how its pixels are normalised; give `mean` and `std` on the 0..1 scale{lacks}, "
            "or `preprocessing`; models trained as torchvision's have 0.485,0.456,0.406 and 0.229,0.224,0.225"
        )
    return options.mean, options.std


def _is_raw(std: tuple[float, ...] | None) -> bool:
    return std is not None and all(math.isclose(value, 1 / 255, rel_tol=1e-3) for value in std)


def three(values: tuple[float, ...]) -> Triple:
    """``values`` for red, green and blue: one stands for all."""
    red, *others = values
    green, blue = others or (red, red)
    return red, green, blue
