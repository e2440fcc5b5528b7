"""A small engine for the CPU, and a machine with a fake GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_deploy.bundle.manifest import Engine
from tests.helpers.fake_tensorrt import FakeMachine
from tests.helpers.models.onnx_models import tiny_engine


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return tiny_engine(tmp_path_factory.mktemp("dynamic") / "net.onnx")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeMachine:
    return FakeMachine(monkeypatch, tmp_path)
