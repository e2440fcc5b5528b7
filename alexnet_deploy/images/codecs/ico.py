"""ICO: the sizes of its pictures. Pillow decodes one when it opens the file, whatever the directory says of it."""

from __future__ import annotations

from io import BytesIO

from PIL import Image

from alexnet_deploy.images.codecs.formats import require_size
from alexnet_deploy.images.codecs.png import PNG_START, png_size, require_one_header

ICO_START = b"\0\0\1\0"
_DIRECTORY, _ENTRY = 6, 16  # bytes
_OLD_BMP = 12  # bytes of a header with sides of 16 bits


def open_ico(content: bytes, max_pixels: int) -> Image.Image:
    """The picture that Pillow prefers; TooManyPixelsError if any of the file's pictures is above ``max_pixels``."""
    for index in range(int.from_bytes(content[4:6], "little")):
        entry = content[_DIRECTORY + index * _ENTRY :][:_ENTRY]
        if len(entry) < _ENTRY:
            raise ValueError("it is cut off")
        start = int.from_bytes(entry[12:16], "little")
        is_png = content.startswith(PNG_START, start)
        require_size(*(png_size if is_png else _bmp_size)(content, start), max_pixels)
        if is_png:
            require_one_header(content, start)
    return Image.open(BytesIO(content), formats=("ICO",))


def _bmp_size(content: bytes, start: int) -> tuple[int, int]:
    header = content[start : start + 12]
    wide = 2 if int.from_bytes(header[:4], "little") == _OLD_BMP else 4
    width, height = (abs(int.from_bytes(header[at : at + wide], "little", signed=wide == 4)) for at in (4, 4 + wide))
    return width, height // 2  # the other half is the mask
