"""A folder with an engine and photos, one of which is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.models.onnx_models import tiny_model
from tests.helpers.photos import save_photo


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: ``tiny.onnx``, and ``photos`` with six photos and a file that is none."""
    tiny_model(tmp_path / "tiny.onnx")
    for i in range(6):
        save_photo(tmp_path / f"photos/{i}.jpg", (40 * i, 90, 120), i)
    (tmp_path / "photos/3a.jpg").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path
