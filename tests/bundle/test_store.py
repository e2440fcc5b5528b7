"""The store finds what a command names, or says what the named thing is."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_deploy.bundle.store import find_bundle
from alexnet_deploy.errors import InputError


def test_an_onnx_file_is_no_bundle(tmp_path: Path) -> None:
    """Commands on bundles alone, such as inspect, must not say that it is no ONNX file."""
    (tmp_path / "x.onnx").write_bytes(b"x")
    with pytest.raises(InputError, match=r"is an ONNX file, and this takes an engine bundle.*build-engine .*x\.onnx"):
        find_bundle(str(tmp_path / "x.onnx"), tmp_path / "engines")
