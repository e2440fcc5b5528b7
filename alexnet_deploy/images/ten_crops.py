"""The ten test views of one picture, for every model: the only definition, which training shares.

Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks" (2012), section 4.1:
the four corners and the centre of a picture, and their mirror images.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import MAX_SIDE, Preprocessing, torchvision_resize_to
from alexnet_deploy.errors import UsageError

# Legend: V view, H height, W width, C channel (RGB)

VIEWS = 10
NO_MARGIN = "the resized images have no margin around the crop: the ten views are the image and its mirror image"
NO_RULE = "no answer is marked as unknown: the engine's rule was fitted on one crop and does not hold for ten"


def picture_for_crops(pre: Preprocessing) -> Preprocessing:
    """Preprocessing that makes the picture which crops are taken from, larger than what the model sees.

    ``shorter-side``: the central square of the picture at ``resize_to``, as in the paper (section 2). ``stretch``: the
    whole picture at ``resize_to`` x ``resize_to``; without ``resize_to`` larger than the model's pixels by 256/224, the
    paper's proportion. Where ``resize_to`` is the model's size, the picture has no margin (``has_margin``).

    Raises UsageError where the picture would have more than ``MAX_SIDE`` pixels a side.
    """
    if pre.resize_to is not None:
        return dataclasses.replace(pre, height=pre.resize_to, width=pre.resize_to)
    height, width = (torchvision_resize_to(side, side) for side in (pre.height, pre.width))
    if max(height, width) > MAX_SIDE:
        raise UsageError(
            f"`ten_crop`: crops of {pre.height} x {pre.width} pixels need a picture of {height} x {width}, and "
            f"{MAX_SIDE} a side is the limit; leave it out"
        )
    return dataclasses.replace(pre, height=height, width=width)


def has_margin(pre: Preprocessing) -> bool:
    """Whether the five places of a crop differ; without a margin the ten views are the picture and its mirror image."""
    picture = picture_for_crops(pre)
    return (picture.height, picture.width) != (pre.height, pre.width)


def view(picture_HWC: NDArray[np.uint8], number: int, pre: Preprocessing) -> NDArray[np.uint8]:
    """View ``number`` (0 to 9) of a picture that ``picture_for_crops(pre)`` made: ``[H, W, 3]``, not copied.

    Top left, top right, bottom left, bottom right, centre, then their mirror images. As in torchvision's TenCrop, views
    of a picture without a margin coincide. The centre is rounded by ``pre.crop_offset``.
    """
    bottom, right = picture_HWC.shape[0] - pre.height, picture_HWC.shape[1] - pre.width
    if number % 5 == 4:
        y, x = (side // 2 if pre.crop_offset == "floor" else round(side / 2) for side in (bottom, right))
    else:
        y, x = bottom * (number % 5 // 2), right * (number % 5 % 2)
    cropped_HWC = picture_HWC[y : y + pre.height, x : x + pre.width]
    return cropped_HWC if number < 5 else cropped_HWC[:, ::-1]


def ten_crops(picture_HWC: NDArray[np.uint8], pre: Preprocessing) -> NDArray[np.uint8]:
    """The ten views ``[10, H, W, 3]`` of a picture, in the order of ``view``."""
    return np.stack([view(picture_HWC, number, pre) for number in range(VIEWS)])
