"""Connections end at their deadline, and when nobody wants their images any more, however little a server sends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests

from alexnet_deploy.images import remote
from alexnet_deploy.images.deadline import EndingSession
from alexnet_deploy.images.sources import find_sources
from alexnet_deploy.inference.batches import read_batches
from tests.helpers.photos import save_photo
from tests.helpers.weights_server import WEIGHTS, Answer, Server, serving
from tests.images.loading import PRE

SILENT = Answer(headers_end=False)
PATIENCE_S = 30.0
"""Of the session: whatever ends by itself before is a fault."""


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def session() -> Iterator[EndingSession]:
    made = EndingSession(threading.Event())
    with made.requests:
        yield made


def has_been_ended(session: EndingSession, address: str) -> bool:
    with pytest.raises(requests.RequestException) as caught:
        session.requests.get(address, timeout=PATIENCE_S)
    return not isinstance(caught.value, requests.Timeout)


def test_a_connection_that_is_made_after_the_time_is_ended_at_once(server: Server, session: EndingSession) -> None:
    """As where the name of a host takes long to resolve: nobody ended it."""
    server.answers = [SILENT]
    with session.ended_after(0.0):
        for timer in threading.enumerate():
            if isinstance(timer, threading.Timer):
                timer.join()
        assert has_been_ended(session, server.url)
    server.answers = [Answer()]
    with session.ended_after(PATIENCE_S):
        assert session.requests.get(server.url, timeout=PATIENCE_S).content == WEIGHTS


def test_a_handshake_of_tls_ends_too(session: EndingSession) -> None:
    """Each byte of it now and then was enough to hold a thread."""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent, session.ended_after(0.4):
        assert has_been_ended(session, f"https://127.0.0.1:{silent.getsockname()[1]}")


def test_a_connection_by_way_of_a_proxy_ends_too(
    server: Server, session: EndingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    server.answers = [SILENT]
    with session.ended_after(0.4):
        assert has_been_ended(session, "http://photos.example/a.jpg")


def test_whoever_reads_no_more_batches_waits_for_no_silent_server(server: Server, tmp_path: Path) -> None:
    """Ctrl-C took three quarters of a minute: each thread went on with its three tries."""
    server.answers = [SILENT]
    save_photo(tmp_path / "a.jpg", (200, 60, 50), 0)
    sources = [*find_sources([str(tmp_path)]), *find_sources([f"{server.url}/a.jpg"], allow_http=True)]
    with closing(read_batches(sources, PRE, batch=1, workers=1)) as batches:
        next(batches)
        deadline = time.monotonic() + remote.MAX_SECONDS
        while not server.asked:
            assert time.monotonic() < deadline
    assert len(server.asked) == 1
