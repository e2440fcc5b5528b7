"""What another decoder or resizer would do to the answers: the same files, the same engine, other pixels.

``images.py`` is the one definition of preprocessing; whoever serves an engine with a decoder of their own replaces it.
Each variant here is one way in which common libraries differ, everything else as in ``images.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import InputError
from alexnet_deploy.evaluation.answers import predicted
from alexnet_deploy.evaluation.statistics import Interval, difference_points
from alexnet_deploy.images.decode import crop_box, open_rgb, to_pixels
from alexnet_deploy.images.labelled import list_labelled
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.runtime.runner import Runner

# Legend: N image, H height, W width, C channel (RGB), K class, V variant

BATCH = 16
"""Images in memory at once, in every variant."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to make pixels of a file."""

    name: str
    differs: str
    """In what from the reference, for people."""
    pixels: Callable[[Path, Image.Image, Preprocessing], NDArray[np.uint8]]
    """Of the file, and of the file as ``images.open_rgb`` decodes it."""


@dataclass(frozen=True, slots=True)
class Shift:
    """What one variant did to the answers, beside the reference on the same images."""

    name: str
    differs: str
    touched: int
    """Images with at least one other pixel value."""
    mean_abs_pixel: float
    """Mean absolute difference of a channel value, of 0..255, over all images."""
    max_logit_change: float
    changed: int
    """Images with another first answer."""
    top1_points: float | None
    """Change of accuracy; None without labels."""
    points_interval: Interval | None
    """Its paired 95 % interval."""


@dataclass(frozen=True, slots=True)
class PreprocessingParity:
    """What every variant did on one folder of images."""

    preprocessing: Preprocessing
    images: int
    unreadable: tuple[str, ...]
    largest_logit: float
    """The largest magnitude with the reference: what ``max_logit_change`` is to be seen against."""
    top1_percent: float | None
    """With the reference."""
    variants: tuple[Shift, ...]
    unlabelled: str | None = None
    """Why there is no accuracy."""


def preprocessing_parity(
    runner: Runner,
    files: Sequence[Path],
    targets: Sequence[int] | None,
    *,
    unlabelled: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PreprocessingParity:
    """Run image ``files`` through ``runner`` with the pixels of every variant; ``targets`` are their class numbers.

    Raises InputError where no image can be read, or a logit is not finite. Memory is one batch's pixels and the logits.
    """
    pre = runner.contract.preprocessing
    variants = variants_of(pre)
    kept: list[int] = []
    unreadable: list[str] = []
    touched_V, pixel_error_V = np.zeros(len(variants), np.int64), np.zeros(len(variants))
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
            if good:
                for v, part in enumerate(parts):
                    part.append(runner(np.stack([pixels_VHWC[v] for pixels_VHWC in good])))
            on_progress(start + len(decoded), len(files))
    if not kept:
        raise InputError(f"none of the {len(files)} images is readable ({unreadable[0]})")
    reference_NK, *logits_NK = (np.concatenate(part) for part in parts)
    if not all(np.isfinite(found).all() for found in (reference_NK, *logits_NK)):
        raise InputError("the engine's output on some images is not finite; try one of higher precision")
    target_N = None if targets is None else np.array(targets, np.int64)[kept]
    shifts = [
        _shift(variant, int(touched), float(error) / len(kept), reference_NK, changed_NK, target_N)
        for variant, touched, error, changed_NK in zip(variants, touched_V, pixel_error_V, logits_NK, strict=True)
    ]
    return PreprocessingParity(
        preprocessing=pre,
        images=len(kept),
        unreadable=tuple(unreadable),
        largest_logit=float(np.abs(reference_NK).max()),
        top1_percent=None if target_N is None else 100 * float((predicted(reference_NK) == target_N).mean()),
        variants=tuple(shifts),
        unlabelled=unlabelled,
    )


def targets_if_labelled(
    data: Path, files: Sequence[Path], contract: ModelContract
) -> tuple[list[int] | None, str | None]:
    """The class numbers of ``files``, which lie below ``data``, or None and the line that says why there are none."""
    try:
        labelled = list_labelled(data, contract)
    except InputError as exc:
        return None, str(exc)
    target_of = dict(zip(labelled.files, labelled.targets, strict=True))
    outside = next((file for file in files if file not in target_of), None)
    if outside is not None:
        return None, f"{outside}: lies in no class folder"
    return [target_of[file] for file in files], None


def variants_of(pre: Preprocessing) -> tuple[Variant, ...]:
    """What to hold against the reference for a model of this preprocessing."""
    other = "bicubic" if pre.interpolation == "bilinear" else "bilinear"
    stretch = pre.resize == "stretch"
    return (
        Variant("reduced decode", "JPEG decoded at 1/2, 1/4 or 1/8, whichever still covers the input", _reduced),
        Variant(other, f"{other} resampling instead of {pre.interpolation}, antialiased", _other_filter),
        Variant("no antialias", "bilinear of the four nearest pixels, however much it shrinks", _no_antialias),
        Variant(
            "shorter-side" if stretch else "stretch",
            "shorter side resized, centre cropped" if stretch else "whole image, aspect ratio ignored",
            _other_rule,
        ),
    )


def _batches(
    files: Sequence[Path], pre: Preprocessing, variants: Sequence[Variant]
) -> Generator[tuple[int, list[NDArray[np.uint8] | str]]]:
    """First index and, a file, the pixels ``[1 + V, H, W, 3]`` (reference first) or the line that says why not."""

    def decode(path: Path) -> NDArray[np.uint8] | str:
        try:
            image = open_rgb(path)
            return np.stack([to_pixels(image, pre), *(variant.pixels(path, image, pre) for variant in variants)])
        except InputError as exc:
            return str(exc)

    with ThreadPoolExecutor(cores(), thread_name_prefix="decode") as pool:
        for start in range(0, len(files), BATCH):
            yield start, list(pool.map(decode, files[start : start + BATCH]))


def _reduced(path: Path, image: Image.Image, pre: Preprocessing) -> NDArray[np.uint8]:
    """As thumbnailers and data loaders decode: the inverse DCT of fewer coefficients (libjpeg's scale_denom)."""
    side = pre.resize_to or max(pre.height, pre.width)
    try:
        with Image.open(path) as reduced:
            if reduced.format != "JPEG":
                return to_pixels(image, pre)
            reduced.draft(reduced.mode, (side, side))
            upright = ImageOps.exif_transpose(reduced)
            return to_pixels(upright.convert("RGB"), pre)
    except Exception as exc:  # as in images.py: Pillow's parsers raise anything on a hostile file
        raise InputError(f"{path}: cannot be decoded at a reduced size ({type(exc).__name__})") from exc


def _other_filter(path: Path, image: Image.Image, pre: Preprocessing) -> NDArray[np.uint8]:
    return to_pixels(
        image,
        dataclasses.replace(pre, interpolation="bicubic" if pre.interpolation == "bilinear" else "bilinear"),
    )


def _other_rule(path: Path, image: Image.Image, pre: Preprocessing) -> NDArray[np.uint8]:
    if pre.resize == "shorter-side":
        return to_pixels(image, dataclasses.replace(pre, resize="stretch", resize_to=None))
    # torchvision's share: the crop is 224 of 256
    resize_to = max(pre.height, pre.width) * 256 // 224
    return to_pixels(image, dataclasses.replace(pre, resize="shorter-side", resize_to=resize_to))


def _no_antialias(path: Path, image: Image.Image, pre: Preprocessing) -> NDArray[np.uint8]:
    """OpenCV's INTER_LINEAR and torch's interpolate(antialias=False), in the geometry of the reference."""
    stretch = pre.resize == "stretch"
    left, top, right, bottom = (0.0, 0.0, image.width, image.height) if stretch else crop_box(*image.size, pre)
    y0, y1, fy = _taps(top, bottom, pre.height, image.height)
    x0, x1, fx = _taps(left, right, pre.width, image.width)
    source_HWC = np.asarray(image)
    fy, fx = fy[:, None, None], fx[:, None]
    rows = source_HWC[y0] * (1 - fy) + source_HWC[y1] * fy
    return np.rint(rows[:, x0] * (1 - fx) + rows[:, x1] * fx).astype(np.uint8)


def _taps(
    start: float, stop: float, count: int, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The two neighbours of each of ``count`` sampling points, and the weight of the second; edges repeat."""
    centre = (np.arange(count) + 0.5) * (stop - start) / count + start - 0.5
    centre = np.clip(centre, 0, size - 1)
    first = np.floor(centre).astype(np.int64)
    return first, np.minimum(first + 1, size - 1), (centre - first).astype(np.float32)


def _shift(
    variant: Variant,
    touched: int,
    mean_abs_pixel: float,
    reference_NK: NDArray[np.float32],
    changed_NK: NDArray[np.float32],
    target_N: NDArray[np.int64] | None,
) -> Shift:
    before_N, after_N = predicted(reference_NK), predicted(changed_NK)
    points = interval = None
    if target_N is not None:
        right_N, still_N = before_N == target_N, after_N == target_N
        both, lost, won = (int(x.sum()) for x in (right_N & still_N, right_N & ~still_N, ~right_N & still_N))
        points = 100 * (won - lost) / len(target_N)
        interval = difference_points(both, lost, won, len(target_N) - both - lost - won)
    return Shift(
        name=variant.name,
        differs=variant.differs,
        touched=touched,
        mean_abs_pixel=mean_abs_pixel,
        max_logit_change=float(np.abs(changed_NK - reference_NK).max()),
        changed=int((before_N != after_N).sum()),
        top1_points=points,
        points_interval=interval,
    )
