"""The tiny network of several files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.models.onnx_models import tiny_classifier


@pytest.fixture(scope="session")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("fp32") / "net.onnx")
