"""A server of weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.weights_server import Server, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # a proxy of the environment must not see these requests
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as server:
        yield server
