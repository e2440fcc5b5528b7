"""BMP whose channels are bit fields: any masks, which Pillow reads for a few layouts only."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.images.codecs.formats import require_size

_BITFIELDS, _ALPHABITFIELDS = 3, 6


def has_bitfields(head: bytes) -> bool:
    """Whether the first 34 bytes begin a BMP of 16 or 32 bits whose channels have masks."""
    if len(head) < 34 or int.from_bytes(head[14:18], "little") < 40:
        return False
    bits, compression = struct.unpack_from("<HI", head, 28)
    return bits in (16, 32) and compression in (_BITFIELDS, _ALPHABITFIELDS)


def open_bitfields(content: bytes, max_pixels: int) -> Image.Image:
    """The image in mode RGB, or RGBA if it has a mask for alpha; ValueError if it is cut off or has other masks.

    An alpha of zeros everywhere is no alpha: many programs write 0 into the unused byte.
    """
    offset, header, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", content, 10)
    count = 4 if header >= 56 or (header == 40 and compression == _ALPHABITFIELDS) else 3
    masks = struct.unpack_from(f"<{count}I", content, 54)  # behind a header of 40 bytes, inside a longer one
    if width <= 0 or height == 0:
        raise ValueError("it has no pixels")
    require_size(width, abs(height), max_pixels)
    row = (width * bits + 31) // 32 * 4
    if len(content) < offset + row * abs(height):
        raise ValueError("it is cut off")
    words = np.frombuffer(content, np.uint8, row * abs(height), offset).reshape(abs(height), row)
    values = words.view("<u2" if bits == 16 else "<u4")[:: -1 if height > 0 else 1, :width]
    channels = [_channel(values, mask) for mask in masks[:3]]
    if any(masks[3:]) and (alpha := _channel(values, masks[3])).any():
        channels.append(alpha)
    return Image.fromarray(np.dstack(channels))


def _channel(values: NDArray[np.unsignedinteger], mask: int) -> NDArray[np.uint8]:
    """The bits under ``mask``, whose largest value is white."""
    if mask == 0:
        return np.zeros(values.shape, np.uint8)
    shift = (mask & -mask).bit_length() - 1
    white = mask >> shift
    if white & (white + 1):
        raise ValueError("the mask of a channel has gaps")
    found = (values.astype(np.uint32) & np.uint32(mask)) >> np.uint32(shift)
    if white == 255:
        return found.astype(np.uint8)
    scaled: NDArray[np.uint8] = np.rint(found * (255.0 / white)).astype(np.uint8)
    return scaled
