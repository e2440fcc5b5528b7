"""What arguments stand for, and an image of any source as pixels or as an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError
from alexnet_deploy.images.sources import Source, find_sources, load_source

PRE = Preprocessing(16, 16, "stretch", None)


def names(*images: str, **options: Any) -> list[str]:
    return [str(image) for image in find_sources(images, **options)]


def pixels(source: Path | Source) -> NDArray[np.uint8]:
    out = np.zeros((16, 16, 3), np.uint8)
    load_source(source, PRE, out)
    return out


def error(source: Path | Source) -> str:
    with pytest.raises(InputError) as refused:
        pixels(source)
    return str(refused.value)
