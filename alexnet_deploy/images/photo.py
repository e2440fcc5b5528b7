"""A picture that is decoded smaller than its file says: where each part of the original lies in it."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

SIDEWAYS = frozenset((5, 6, 7, 8))
_RIGHT_COMES_LEFT = frozenset((2, 3, 6, 7))
_BOTTOM_COMES_TOP = frozenset((3, 4, 7, 8))
"""EXIF orientations: those that exchange width and height, and what is then at the left and at the top."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A decoded image: RGB, upright."""

    image: Image.Image
    size: tuple[int, int]
    """Width and height in full, upright."""
    scale: int = 1
    """``size`` by this is the size of the picture in ``image``."""
    origin: tuple[float, float] = (0.0, 0.0)
    """Left and top of the picture in ``image``."""

    @classmethod
    def in_full(cls, image: Image.Image) -> Photo:
        """``image`` as it is."""
        return cls(image, image.size)

    @classmethod
    def reduced(cls, image: Image.Image, stored: tuple[int, int], scale: int, orientation: object) -> Photo:
        """``image`` was decoded at 1/``scale`` of its size ``stored``, and then turned by its EXIF ``orientation``.

        A value that is no orientation turns nothing.
        libjpeg rounds the size up: what lies beyond the picture is at the right and at the bottom until it is turned.
        """
        width, height = size = stored[::-1] if orientation in SIDEWAYS else stored
        x = image.width - width / scale if orientation in _RIGHT_COMES_LEFT else 0.0
        y = image.height - height / scale if orientation in _BOTTOM_COMES_TOP else 0.0
        return cls(image, size, scale, (x, y))

    def place(self, box: Box) -> Box:
        """A box of the picture in full, in coordinates of ``image``."""
        if self.scale == 1:
            return box
        x, y = self.origin
        left, top, right, bottom = (value / self.scale for value in box)
        return left + x, top + y, min(right + x, self.image.width), min(bottom + y, self.image.height)
