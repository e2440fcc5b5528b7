"""Changes to a training picture beyond the model's own preprocessing, drawn from the caller's generator alone.

"The paper" is Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks" (2012).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import one_hot

from alexnet_deploy.images.decode import open_rgb

# Legend: H height, W width, C channel (RGB), N pixel

SAMPLED_FILES, SAMPLED_SIDE = 4000, 16
"""A million pixels, some seconds: on Imagenette eigenvalues differ by 4 % between seeds (40 % with 500 files)."""


def random_box(
    width: int, height: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A box ``(left, top, right, bottom)`` with a random share of the area and an aspect ratio of 3/4..4/3.

    (Szegedy et al. 2014.) The central square if no box fits in ten tries.
    """
    area = width * height
    for _ in range(10):
        target = area * rng.uniform(*scale)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(target * ratio)), round(np.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return x, y, x + w, y + h
    side = min(width, height)
    x, y = (width - side) // 2, (height - side) // 2
    return x, y, x + side, y + side


def random_crop(picture_HWC: NDArray[np.uint8], height: int, width: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A view of ``height`` x ``width`` pixels, every place equally likely."""
    y, x = (int(rng.integers(have - want + 1)) for have, want in zip(picture_HWC.shape, (height, width), strict=False))
    return picture_HWC[y : y + height, x : x + width]


@dataclass(frozen=True, slots=True)
class Colours:
    """Principal components of RGB values on the 0..1 scale; ``eigenvectors[k]`` belongs to ``eigenvalues[k]``."""

    eigenvalues: tuple[float, ...]
    eigenvectors: tuple[tuple[float, ...], ...]


def measure_colours(files: Sequence[Path], seed: int) -> Colours:
    """Principal components of the colours in a seeded sample of ``files``, to six decimals, largest first.

    Raises InputError where a file of the sample cannot be read.
    """
    chosen = np.random.default_rng(seed).permutation(len(files))[:SAMPLED_FILES]
    # Nearest neighbours are true pixels; an average would narrow their spread.
    size, nearest = (SAMPLED_SIDE, SAMPLED_SIDE), Image.Resampling.NEAREST
    samples = [np.asarray(open_rgb(files[i]).resize(size, nearest)).reshape(-1, 3) for i in chosen]
    return principal_colours(np.concatenate(samples))


def principal_colours(pixels_NC: NDArray[np.uint8]) -> Colours:
    """Eigenvalues and eigenvectors of the covariance of ``pixels_NC / 255``, to six decimals, largest first."""
    values, vectors = np.linalg.eigh(np.cov(pixels_NC / 255.0, rowvar=False, bias=True))
    rows = vectors.T[::-1].round(6).tolist()
    return Colours(tuple(values[::-1].round(6).tolist()), tuple(tuple(row) for row in rows))


def add_colour_noise(
    pixels_HWC: NDArray[np.uint8], colours: Colours, sigma: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The paper's colour noise (section 4.1): one shift for all pixels, sum over k of N(0, sigma) λ_k p_k.

    The paper does not give the scale on which λ is the variance. It is 0..1 here, as in most implementations since (on
    0..255 the noise would hide the picture). The shift is rounded and the result clipped to 0..255.
    """
    strengths = rng.normal(0.0, sigma, 3) * np.array(colours.eigenvalues)
    shift_C = np.rint(255 * (strengths @ np.array(colours.eigenvectors))).astype(np.int16)
    shifted_HWC: NDArray[np.int16] = np.clip(pixels_HWC.astype(np.int16) + shift_C, 0, 255)
    return shifted_HWC.astype(np.uint8)


def cutmix(pixels_NHWC: Tensor, targets_N: Tensor, classes: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al., arXiv:1905.04899): a box of each picture comes from the one before it in the batch.

    Returns the pixels, changed in place, and targets ``[N, classes]`` that are shares of the area. There is one box per
    batch, uniform in area as the paper's alpha of 1 draws it. kornia's RandomCutMixV2 does the same on float NCHW
    images in half a second per batch of 128 at 224 pixels, half as long as the training step; this takes milliseconds.
    """
    height, width = pixels_NHWC.shape[1:3]
    side = np.sqrt(rng.random())
    h, w = round(height * side), round(width * side)
    y, x = int(rng.integers(height)) - h // 2, int(rng.integers(width)) - w // 2  # the centre may lie anywhere
    rows, columns = slice(max(y, 0), max(y + h, 0)), slice(max(x, 0), max(x + w, 0))
    box_NHWC = pixels_NHWC[:, rows, columns].roll(1, 0)
    pixels_NHWC[:, rows, columns] = box_NHWC
    pasted = box_NHWC.shape[1] * box_NHWC.shape[2] / (height * width)
    own_NK = one_hot(targets_N, classes).float()
    return pixels_NHWC, own_NK.lerp(own_NK.roll(1, 0), pasted)
