"""One server for the tests that change nothing in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.running import Server, serving


@pytest.fixture(scope="package")
def server(workplace: Path) -> Iterator[Server]:
    """``exact`` in OpenVINO and in ONNX Runtime, and ``ruined``, with everything at its default."""
    with serving(workplace, "exact", "exact@onnxruntime", "ruined") as running:
        yield running


@pytest.fixture(scope="session")
def photos(workplace: Path) -> list[Path]:
    """The six photos of ``photos/val``."""
    with contextlib.chdir(workplace):
        return sorted(Path("photos/val").rglob("*.jpg"))


@pytest.fixture
def photo(workplace: Path, photos: list[Path]) -> bytes:
    return (workplace / photos[0]).read_bytes()
