"""Bundles of plans for a fake GPU, of the full TensorRT, of TensorRT-RTX, and of either."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.fake_bundle import FakeBundle
from tests.helpers.fake_tensorrt import FakeMachine


@pytest.fixture(params=[False, True], ids=["full", "rtx"])
def bundle(
    request: pytest.FixtureRequest, tmp_path: Path, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> FakeBundle:
    return FakeBundle(tmp_path, machine, monkeypatch, rtx=request.param)


@pytest.fixture
def rtx(tmp_path: Path, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> FakeBundle:
    return FakeBundle(tmp_path, machine, monkeypatch, rtx=True)


@pytest.fixture
def full(tmp_path: Path, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> FakeBundle:
    return FakeBundle(tmp_path, machine, monkeypatch, rtx=False)
