"""What several tests of a server under load send it."""

from __future__ import annotations

import io

import pytest
from PIL import Image


@pytest.fixture(scope="module")
def large_image() -> bytes:
    """30 million pixels of one colour in few bytes: some tenths of a second to decode."""
    stream = io.BytesIO()
    Image.new("L", (6000, 5000)).save(stream, "PNG")
    return stream.getvalue()
