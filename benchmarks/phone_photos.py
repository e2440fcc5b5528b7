"""A folder of JPEGs as phones make them: the given photos enlarged to a number of megapixels.

Enlarging adds no detail, but a decoder has as much to do: quality 90 with half the colour resolution, 1 to 2 MiB per
12 megapixels.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from alexnet_deploy.images.decode import open_rgb
from alexnet_deploy.images.find import find_images
from alexnet_deploy.machine.cpu import cores

QUALITY = 90


def enlarged(photos: Path, folder: Path, megapixels: float, count: int) -> Path:
    """``folder`` with ``count`` photos of ``photos``, evenly from the list, of ``megapixels`` each; made if missing."""
    files = list(find_images([photos]))
    chosen = files[:: max(1, len(files) // count)][:count]
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {file: folder / f"{number:04}-{file.stem}.jpg" for number, file in enumerate(chosen)}
    for other in set(folder.iterdir()) - set(wanted.values()):
        other.unlink()  # of an earlier run with other photos
    todo = [(file, out) for file, out in wanted.items() if not out.exists()]
    with ThreadPoolExecutor(cores()) as pool:
        for made in [pool.submit(enlarge, file, out, megapixels) for file, out in todo]:
            made.result()
    return folder


def enlarge(source: Path, out: Path, megapixels: float) -> None:
    """Write ``source`` as a JPEG of ``megapixels``, with its aspect ratio."""
    image = open_rgb(source)
    factor = math.sqrt(megapixels * 1e6 / (image.width * image.height))
    size = round(image.width * factor), round(image.height * factor)
    image.resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=QUALITY)
