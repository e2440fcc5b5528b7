"""A server of weights, and a checkpoint as other tools make them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from alexnet_deploy.model.checkpoint import Checkpoint
from tests.helpers.models.checkpoints import random_checkpoint
from tests.helpers.weights_server import Server, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # a proxy of the environment must not see these requests
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def usual_widths() -> Checkpoint:
    """``alexnet`` with torchvision's convolutions, by which a file of another tool is recognised (10 MiB)."""
    return random_checkpoint(hidden=32)
