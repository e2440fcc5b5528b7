"""ICO: the sizes of its pictures. Pillow decodes one when it opens the file, whatever the directory says of it."""

from __future__ import annotations

from io import BytesIO

from PIL import Image

from alexnet_deploy.images.codecs.formats import require_size
from alexnet_deploy.images.codecs.own.png import PNG_START, png_chunks, png_size, second_profiles
from alexnet_deploy.images.codecs.parts import most_parts, refuse_parts

ICO_START = b"\0\0\1\0"
_DIRECTORY, _ENTRY = 6, 16  # bytes
_MOST_PICTURES = 256  # one per width that the directory can state
_OLD_BMP = 12  # bytes of a header with sides of 16 bits


def open_ico(content: bytes, max_pixels: int) -> Image.Image:
    """The picture that Pillow prefers; TooManyPixelsError if any of the file's pictures is above ``max_pixels``.

    UnsupportedFormatError for more pictures, or more chunks in all of them, than an icon has.
    """
    count = int.from_bytes(content[4:6], "little")
    refuse_parts(count, _MOST_PICTURES, "pictures")
    if len(content) < _DIRECTORY + count * _ENTRY:
        raise ValueError("it is cut off")
    entries = (content[at : at + _ENTRY] for at in range(_DIRECTORY, _DIRECTORY + count * _ENTRY, _ENTRY))
    left = most_parts(len(content))  # of chunks in all pictures, which may overlap
    for start in {int.from_bytes(entry[12:16], "little") for entry in entries}:
        is_png = content.startswith(PNG_START, start)
        require_size(*(png_size if is_png else _bmp_size)(content, start), max_pixels)
        if is_png:
            chunks = png_chunks(content, start, most=left)
            left -= len(chunks)
            if second_profiles(chunks):
                raise ValueError("it has several colour profiles")
    return Image.open(BytesIO(content), formats=("ICO",))


def _bmp_size(content: bytes, start: int) -> tuple[int, int]:
    header = content[start : start + 12]
    wide = 2 if int.from_bytes(header[:4], "little") == _OLD_BMP else 4
    width, height = (abs(int.from_bytes(header[at : at + wide], "little", signed=wide == 4)) for at in (4, 4 + wide))
    return width, height // 2  # the other half is the mask
