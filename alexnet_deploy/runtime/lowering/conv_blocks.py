"""A convolution of few channels and wide strides as one of more channels and strides of 1: the same sums.

With a stride of s along the width, a window starts at every s-th pixel. So s neighbouring pixels can be the channels of
one, and the weight, with zeros up to a multiple of s, is cut in the same way: 11 x 11 over 3 channels with strides 4 is
11 x 3 over 12 channels with strides 4 x 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

# Legend: O output channel, C channel, H height, W width of a kernel, B blocks along its width, S pixels per block

_KERNEL_CHANNELS = 4
"""The instructions of integer kernels multiply four neighbouring bytes, so they are made for multiples of four."""
_MOST_ZEROS = 1.5
"""The weight may grow by half: a kernel for multiples of four channels is 1.8 times as fast (ONNX Runtime 1.32)."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A convolution in blocks: pixels per block, pixels to add before and behind each row, and what it then is."""

    size: int
    before: int
    behind: int
    """Less than 0: the last pixels are never read."""
    weight_OCHB: NDArray[np.int8]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]

    def apply(self, conv: onnx.NodeProto) -> None:
        """Set the attributes of ``conv``; its weight and its input are the caller's."""
        kept = [each for each in conv.attribute if each.name not in ("kernel_shape", "strides", "pads")]
        del conv.attribute[:]
        conv.attribute.extend(kept)
        for name in ("strides", "pads"):
            conv.attribute.append(helper.make_attribute(name, getattr(self, name)))


def blocks_of(conv: onnx.NodeProto, weight_OCHW: NDArray[np.int8], width: int) -> Blocks | None:
    """How ``conv``, over rows of ``width`` pixels, is computed in blocks; None where that is impossible or no gain."""
    found = {each.name: helper.get_attribute_value(each) for each in conv.attribute}
    top, before, bottom, behind = found.get("pads", [0, 0, 0, 0])
    down, size = found.get("strides", [1, 1])
    outputs, channels, height, reach = weight_OCHW.shape
    plain = (
        found.get("group", 1) == 1
        and found.get("auto_pad", b"NOTSET") == b"NOTSET"
        and set(found.get("dilations", [1])) == {1}
        and min(top, before, bottom, behind) >= 0
    )
    number = -(-reach // size)
    if not plain or channels % _KERNEL_CHANNELS == 0 or channels * size % _KERNEL_CHANNELS:
        return None
    windows = (width + before + behind - reach) // size + 1
    if windows < 1 or number * size > _MOST_ZEROS * reach:
        return None
    wide = np.pad(weight_OCHW, [(0, 0), (0, 0), (0, 0), (0, number * size - reach)])
    cut_OCHBS = wide.reshape(outputs, channels, height, number, size)
    weight = cut_OCHBS.transpose(0, 4, 1, 2, 3).reshape(outputs, size * channels, height, number)
    needed = (windows - 1 + number) * size
    return Blocks(size, before, needed - width - before, np.ascontiguousarray(weight), (down, 1), (top, 0, bottom, 0))
