"""What another decoder or resizer would change: the same files, the same engine, other pixels.

``images/decode.py`` is the only definition of preprocessing. A service with another decoder replaces it; each variant
here is one way in which common libraries differ from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from alexnet_deploy.contract import Decoding, Preprocessing, torchvision_resize_to
from alexnet_deploy.errors import InputError
from alexnet_deploy.evaluation.answers import find_or_choose, targets_if_labelled
from alexnet_deploy.evaluation.results import Interval
from alexnet_deploy.evaluation.statistics import PairedCounts
from alexnet_deploy.images.decode import crop_box, load_pixels, open_photo, open_rgb, to_pixels
from alexnet_deploy.images.photo import Photo
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.probabilities import finite_rows, predicted_classes
from alexnet_deploy.progress import Progress, no_progress
from alexnet_deploy.runtime.runner import Runner

# Legend: N image, H height, W width, C channel (RGB), K class, V variant

BATCH = 16
"""Images in memory at the same time, in every variant."""
Pixels = Callable[[Path, Photo, Preprocessing], NDArray[np.uint8]]
"""Called with a file and with its image as ``open_photo`` decodes it."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to make pixels from a file."""

    name: str
    differs: str
    """How it differs from the reference, for people."""
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class VariantResult:
    """The effect of one variant on the answers, compared with the reference on the same images."""

    name: str
    differs: str
    touched: int
    """Images with at least one different pixel value."""
    mean_abs_pixel: float
    """Mean absolute difference of a channel value (0..255) over all images."""
    max_pixel: int
    """Largest absolute difference of a channel value."""
    max_logit_change: float
    changed: int
    """Images with a different first answer."""
    top1_points: float | None
    """Change of accuracy; None without labels."""
    points_interval: Interval | None
    """95 % interval of paired proportions."""


@dataclass(frozen=True, slots=True)
class PreprocessingParity:
    """The results of all variants on one folder of images."""

    preprocessing: Preprocessing
    images: int
    unreadable: tuple[str, ...]
    largest_logit: float
    """The largest magnitude of a logit with the reference, as a scale for ``max_logit_change``."""
    top1_percent: float | None
    """Accuracy with the reference; None without labels."""
    variants: tuple[VariantResult, ...]
    unlabelled: str | None = None
    """The reason if the accuracy is missing."""


def preprocessing_parity(
    runner: Runner, data: Path, *, images: int | None = None, on_progress: Progress = no_progress
) -> PreprocessingParity:
    """Run the images below ``data``, or ``images`` of them, through ``runner`` with the pixels of every variant.

    If they are labelled, the accuracies are measured as well. Raises the errors of ``run_variants``.
    """
    files = find_or_choose(data, images)
    targets, unlabelled = targets_if_labelled(data, files, runner.contract)
    found = run_variants(runner, files, targets, on_progress=on_progress)
    return dataclasses.replace(found, unlabelled=unlabelled)


def run_variants(
    runner: Runner,
    files: Sequence[Path],
    targets: Sequence[int] | None,
    *,
    on_progress: Progress = no_progress,
) -> PreprocessingParity:
    """Run ``files`` through ``runner`` with the pixels of every variant; ``targets`` are their class numbers.

    Memory holds the pixels of one batch and the logits. Raises InputError if no image can be read or a logit is not
    finite.
    """
    pre = runner.contract.preprocessing
    variants = variants_of(pre)
    kept: list[int] = []
    unreadable: list[str] = []
    touched_V, pixel_error_V = np.zeros(len(variants), np.int64), np.zeros(len(variants))
    largest_V = np.zeros(len(variants), np.int64)
    parts: list[list[NDArray[np.float32]]] = [[] for _ in range(len(variants) + 1)]
    with closing(_batches(files, pre, variants)) as batches:
        for start, decoded in batches:
            good = [pixels for pixels in decoded if not isinstance(pixels, str)]
            kept += [start + i for i, pixels in enumerate(decoded) if not isinstance(pixels, str)]
            unreadable += [error for error in decoded if isinstance(error, str)]
            for pixels_VHWC in good:
                gap_VHWC = np.abs(pixels_VHWC[1:].astype(np.int16) - pixels_VHWC[0])
                touched_V += gap_VHWC.any(axis=(1, 2, 3))
                pixel_error_V += gap_VHWC.mean(axis=(1, 2, 3))
                largest_V = np.maximum(largest_V, gap_VHWC.max(axis=(1, 2, 3)))
            if good:
                for v, part in enumerate(parts):
                    part.append(runner(np.stack([pixels_VHWC[v] for pixels_VHWC in good])))
            on_progress("images", start + len(decoded), len(files))
    if not kept:
        raise InputError(f"none of the {len(files)} images can be read ({unreadable[0]})")
    reference_NK, *logits_NK = (np.concatenate(part) for part in parts)
    if not all(finite_rows(found_NK).all() for found_NK in (reference_NK, *logits_NK)):
        raise InputError("the engine's output on some images is not finite; try one of higher precision")
    target_N = None if targets is None else np.array(targets, np.int64)[kept]
    before_N = predicted_classes(reference_NK)
    results = []
    for v, (variant, changed_NK) in enumerate(zip(variants, logits_NK, strict=True)):
        after_N = predicted_classes(changed_NK)
        pairs = None if target_N is None else PairedCounts.of(before_N == target_N, after_N == target_N)
        results.append(
            VariantResult(
                name=variant.name,
                differs=variant.differs,
                touched=int(touched_V[v]),
                mean_abs_pixel=float(pixel_error_V[v]) / len(kept),
                max_pixel=int(largest_V[v]),
                max_logit_change=float(np.abs(changed_NK - reference_NK).max()),
                changed=int((before_N != after_N).sum()),
                top1_points=None if pairs is None else pairs.points,
                points_interval=None if pairs is None else pairs.points_interval,
            )
        )
    return PreprocessingParity(
        preprocessing=pre,
        images=len(kept),
        unreadable=tuple(unreadable),
        largest_logit=float(np.abs(reference_NK).max()),
        top1_percent=None if target_N is None else 100 * float((before_N == target_N).mean()),
        variants=tuple(results),
    )


def variants_of(pre: Preprocessing) -> tuple[Variant, ...]:
    """Return the variants for a model with this preprocessing."""
    other = "bicubic" if pre.interpolation == "bilinear" else "bilinear"
    stretch = pre.resize == "stretch"
    return (
        *_other_decodings(pre),
        Variant("reduced decode", "JPEG decoded at 1/2, 1/4 or 1/8, the smallest that covers the input", _reduced),
        Variant(
            other, f"{other} resampling instead of {pre.interpolation}, antialiased", _by_rule(interpolation=other)
        ),
        Variant("no antialias", "bilinear between the four nearest pixels at any scale", _no_antialias),
        Variant(
            "shorter-side" if stretch else "stretch",
            "shorter side resized, centre cropped" if stretch else "whole image, aspect ratio ignored",
            _by_rule(resize="shorter-side", resize_to=torchvision_resize_to(pre.height, pre.width))
            if stretch
            else _by_rule(resize="stretch", resize_to=None),
        ),
    )


def _other_decodings(pre: Preprocessing) -> Iterator[Variant]:
    for rule in get_args(Decoding):
        other = dataclasses.replace(pre, decoding=rule)
        if other.decoded_side == pre.decoded_side:
            continue
        if other.decoded_side is None:
            yield Variant("full decode", "JPEG decoded in full, whatever its size", _decoded_by(rule))
        else:
            differs = f"JPEG decoded at 1/2, 1/4 or 1/8 to {other.decoded_side} pixels or more"
            yield Variant(rule, differs, _decoded_by(rule))


def _batches(
    files: Sequence[Path], pre: Preprocessing, variants: Sequence[Variant]
) -> Generator[tuple[int, list[NDArray[np.uint8] | str]]]:
    """Yield the first index and, per file, the pixels ``[1 + V, H, W, 3]`` (reference first) or the error."""

    def decode(path: Path) -> NDArray[np.uint8] | str:
        try:
            photo = open_photo(path, pre)
            return np.stack([to_pixels(photo, pre), *(variant.pixels(path, photo, pre) for variant in variants)])
        except InputError as exc:
            return str(exc)

    with ThreadPoolExecutor(cores(), thread_name_prefix="decode") as pool:
        for start in range(0, len(files), BATCH):
            yield start, list(pool.map(decode, files[start : start + BATCH]))


def _decoded_by(rule: Decoding) -> Pixels:
    """Our own decoder by another rule."""
    return lambda path, _, pre: load_pixels(path, dataclasses.replace(pre, decoding=rule))


def _reduced(path: Path, photo: Photo, pre: Preprocessing) -> NDArray[np.uint8]:
    """Decode as thumbnailers and data loaders do: the inverse DCT of fewer coefficients (libjpeg's scale_denom)."""
    side = pre.resize_to or max(pre.height, pre.width)
    try:
        with Image.open(path) as reduced:
            if reduced.format != "JPEG":
                return to_pixels(photo, pre)
            reduced.draft(reduced.mode, (side, side))
            upright = ImageOps.exif_transpose(reduced)
            return to_pixels(upright.convert("RGB"), pre)
    except Exception as exc:  # as in images/decode.py: Pillow's parsers raise anything on a hostile file
        raise InputError(f"{path}: cannot be decoded at a reduced size ({type(exc).__name__})") from exc


def _by_rule(**changes: Any) -> Pixels:
    """Our own decoder, and the resizer with ``changes`` to the preprocessing."""
    return lambda _, photo, pre: to_pixels(photo, dataclasses.replace(pre, **changes))


def _no_antialias(path: Path, photo: Photo, pre: Preprocessing) -> NDArray[np.uint8]:
    """Resize as OpenCV's INTER_LINEAR and torch's interpolate(antialias=False), with the geometry of the reference.

    Those who resize so decode in full.
    """
    image = photo.image if photo.scale == 1 else open_rgb(path)
    left, top, right, bottom = crop_box(*image.size, pre)
    y0, y1, fy = _taps(top, bottom, pre.height, image.height)
    x0, x1, fx = _taps(left, right, pre.width, image.width)
    source_HWC = np.asarray(image)
    fy, fx = fy[:, None, None], fx[:, None]
    rows = source_HWC[y0] * (1 - fy) + source_HWC[y1] * fy
    return np.rint(rows[:, x0] * (1 - fx) + rows[:, x1] * fx).astype(np.uint8)


def _taps(
    start: float, stop: float, count: int, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return the two neighbours of each of ``count`` sampling points and the weight of the second; edges repeat."""
    centre = (np.arange(count) + 0.5) * (stop - start) / count + start - 0.5
    centre = np.clip(centre, 0, size - 1)
    first = np.floor(centre).astype(np.int64)
    return first, np.minimum(first + 1, size - 1), (centre - first).astype(np.float32)
