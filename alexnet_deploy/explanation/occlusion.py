"""Occlusion sensitivity (Zeiler and Fergus 2014, arXiv:1311.2901, section 4.2), computed by the engine itself.

A patch covers one place after another, and the engine answers each of these pictures. A place matters as much as the
probability of the class drops when it is covered. Nothing but answers is needed, so every runtime and precision can do
it, and the map is that of the engine that is deployed, with all its rounding.

The probabilities here are those of the bare logits. A calibration fits them to how often answers are right, and may do
it in steps: they would appear in the map, and hide what lies between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError
from alexnet_deploy.explanation.settings import OcclusionSettings
from alexnet_deploy.probabilities import activate, finite_rows
from alexnet_deploy.runtime.runner import Runner

# Legend: N batch, H height, W width, C channel (RGB), K class, Y and X positions of the patch


@dataclass(frozen=True, slots=True)
class Occlusion:
    """What covering each place does to the probability of one class, from 0 to 1."""

    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    """Upper left corners of the patch, in pixels of what the network sees."""
    patch: int
    probability: float
    """Of the class when nothing is covered, without the engine's calibration."""
    drop_YX: NDArray[np.float64]
    """``probability`` minus that of the covered picture; below 0 where the class becomes more likely."""

    def pixels(self, height: int, width: int) -> NDArray[np.float64]:
        """The map ``[H, W]``: for each pixel the mean drop of the patches that cover it."""
        sum_HW, count_HW = np.zeros((height, width)), np.zeros((height, width))
        for y, top in enumerate(self.tops):
            for x, left in enumerate(self.lefts):
                place = np.s_[top : top + self.patch, left : left + self.patch]
                sum_HW[place] += self.drop_YX[y, x]
                count_HW[place] += 1
        return sum_HW / count_HW

    def strongest(self) -> tuple[int, int, float]:
        """Left and top of the patch that lowers the probability most, and the drop."""
        y, x = np.unravel_index(int(self.drop_YX.argmax()), self.drop_YX.shape)
        return self.lefts[int(x)], self.tops[int(y)], float(self.drop_YX[y, x])


def corners(side: int, settings: OcclusionSettings) -> tuple[int, ...]:
    """Upper or left edges of the patch along ``side`` pixels; the last one ends at the border, so all is covered."""
    last = side - settings.patch
    found = tuple(range(0, last + 1, settings.stride))
    return found if found[-1] == last else (*found, last)


def occlude(
    runner: Runner,
    pixels_HWC: NDArray[np.uint8],
    target: int,
    settings: OcclusionSettings,
    *,
    batch: int,
    on_batch: Callable[[int], None] = lambda count: None,
) -> Occlusion:
    """Cover each place of one picture and compare the probability of class ``target``.

    ``runner`` takes batches of any size up to ``batch``, as that of ``open_runner`` does; ``on_batch`` gets the number
    of pictures of each finished call. Raises InputError where an answer is not finite.
    """
    height, width = pixels_HWC.shape[:2]
    tops, lefts = corners(height, settings), corners(width, settings)
    places = [(top, left) for top in tops for left in lefts]
    probability = float(_probabilities(runner, pixels_HWC[None], target)[0])
    covered = np.empty(len(places))
    for start in range(0, len(places), batch):
        part = places[start : start + batch]
        pixels_NHWC = np.repeat(pixels_HWC[None], len(part), axis=0)
        for picture_HWC, (top, left) in zip(pixels_NHWC, part, strict=True):
            picture_HWC[top : top + settings.patch, left : left + settings.patch] = settings.fill
        covered[start : start + len(part)] = _probabilities(runner, pixels_NHWC, target)
        on_batch(len(part))
    drop_YX = (probability - covered).reshape(len(tops), len(lefts))
    return Occlusion(tops, lefts, settings.patch, probability, drop_YX)


def _probabilities(runner: Runner, pixels_NHWC: NDArray[np.uint8], target: int) -> NDArray[np.float64]:
    logits_NK = runner(pixels_NHWC)
    if not finite_rows(logits_NK).all():
        raise InputError("the model's output is not finite for a covered picture; try an engine of higher precision")
    found_N: NDArray[np.float64] = activate(logits_NK, runner.contract.activation)[:, target]
    return found_N
