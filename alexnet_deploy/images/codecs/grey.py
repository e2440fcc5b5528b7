"""Grey values of any type as 8-bit grey."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STRIP = 1 << 16  # values scaled at a time in float64: a large scan at once would need gigabytes
_WHITES = {"f": (1.0,), "u2": (65535.0,), "u4": (65535.0, 2.0**32 - 1), "i1": (127.0,), "i2": (32767.0,)}
_WHITES["i4"] = (65535.0, 2.0**31 - 1)


def scale_grey(
    values: NDArray[np.generic], *, limits: tuple[float, float] | None = None, inverted: bool = False
) -> NDArray[np.uint8]:
    """Scale grey ``values`` to 0..255, black to white (``inverted``: white to black).

    White is 1 for floats and the largest value for integers. 32-bit integers whose values all fit into 16 bits count as
    16-bit. If a value lies outside (negative, or a float above 1), or if all 32-bit values would come out black, the
    scale goes from the darkest to the lightest value. ``limits`` are black and white as the file itself states them.

    Raises ValueError for values that are not finite.
    """
    kind = f"{values.dtype.kind}{values.dtype.itemsize}"
    if kind == "u1" and limits is None:
        return 255 - values.astype(np.uint8) if inverted else values.astype(np.uint8)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    low, high = limits or _range(values, _WHITES.get(kind, _WHITES.get(kind[0], (255.0,))))
    start, scale = (high, -255.0 / (high - low)) if inverted else (low, 255.0 / (high - low))
    grey = np.empty(values.size, np.uint8)
    flat = values.reshape(-1)
    for i in range(0, flat.size, _STRIP):
        grey[i : i + _STRIP] = np.clip(np.rint((flat[i : i + _STRIP].astype(np.float64) - start) * scale), 0, 255)
    return grey.reshape(values.shape)


def _range(values: NDArray[np.generic], whites: tuple[float, ...]) -> tuple[float, float]:
    """The values of black and white."""
    low, high = float(values.min()), float(values.max())
    if low >= 0.0:
        if high <= whites[0]:
            return 0.0, whites[0]
        if len(whites) > 1 and high >= whites[1] / 256:
            return 0.0, whites[1]
    return low, high if high > low else low + 1.0
