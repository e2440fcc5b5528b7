"""How many large images are decoded at the same time."""

from __future__ import annotations

import asyncio
from collections import deque


class PixelBudget:
    """Images are decoded together while they have at most ``pixels`` and are at most ``images``; one alone always is.

    A file of 38 bytes can hold the largest image allowed, and takes up to 29 bytes per pixel while it is decoded. First
    come, first served: a large image is not overtaken for ever by smaller ones. All methods run on the event loop.
    """

    def __init__(self, pixels: int, images: int) -> None:
        self._most_pixels, self._most_images = pixels, images
        self._pixels = self._images = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, pixels: int) -> None:
        """Wait for the turn of an image of ``pixels``, which must be given back."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, place))
        self._next()
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # its turn came at the same moment
                self.give_back(pixels)
            self._next()
            raise

    def give_back(self, pixels: int) -> None:
        """What ``take`` took."""
        self._pixels -= pixels
        self._images -= 1
        self._next()

    def _next(self) -> None:
        while self._waiting:
            pixels, place = self._waiting[0]
            if place.cancelled():
                self._waiting.popleft()
                continue
            fits = self._images < self._most_images and self._pixels + pixels <= self._most_pixels
            if self._images and not fits:
                return
            self._waiting.popleft()
            self._pixels += pixels
            self._images += 1
            place.set_result(None)
