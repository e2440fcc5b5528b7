"""A session of requests whose connections end at a deadline, whatever the server sends until then.

The timeouts of requests are of silence: a server that sends a byte now and then, of a header say, is never silent.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any
from weakref import WeakSet


class EndingSession:
    """A session for one thread; ``ended`` is set before ``end``, from any thread, for good."""

    def __init__(self, ended: threading.Event) -> None:
        self.ended = ended
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._lock = threading.Lock()
        self._block: object = None
        self._is_over = False  # the time of the block

    @cached_property
    def requests(self) -> Any:
        """The session of requests; the package is loaded here, where an image is behind an address."""
        return _session(self._note)

    @contextmanager
    def ended_after(self, seconds: float) -> Iterator[None]:
        """In the block, end all connections after ``seconds``: whoever reads one then sees an error, or its end."""
        block = object()
        with self._lock:
            self._block, self._is_over = block, False
        timer = threading.Timer(seconds, self._end, (block,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                self._block = None

    def end(self) -> None:
        """End all connections."""
        with self._lock:
            for each in self._sockets:
                _shut(each)

    def _note(self, opened: socket.socket) -> None:
        with self._lock:
            self._sockets.add(opened)
            # A name that takes long to resolve gives a connection after the time, which nobody would end.
            if self._is_over or self.ended.is_set():
                _shut(opened)

    def _end(self, block: object) -> None:
        with self._lock:
            if self._block is not block:
                return  # it ended while the timer went off
            self._is_over = True
        self.end()


def _shut(opened: socket.socket) -> None:
    with suppress(OSError):  # closed meanwhile
        # Not the method of an SSLSocket, which first takes its state away from the thread that reads.
        socket.socket.shutdown(opened, socket.SHUT_RDWR)


def _session(note: Any) -> Any:
    """A session that calls ``note`` with the socket of each new connection."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.poolmanager import ProxyManager

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            note(self.sock)

    class Secure(HTTPSConnection):
        _same: socket.socket | None = None

        def _new_conn(self) -> socket.socket:
            opened = super()._new_conn()
            # The handshake moves the connection to a socket that nobody else sees before its end.
            self._same = opened.dup()
            note(self._same)
            return opened

        def connect(self) -> None:
            try:
                super().connect()
            finally:
                if self._same is not None:
                    self._same.close()
            note(self.sock)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    pools = {"http": PlainPool, "https": SecurePool}

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, **options)
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
            manager = super().proxy_manager_for(*arguments, **options)
            if type(manager) is ProxyManager:  # that of SOCKS has connections of its own, which end by their silence
                manager.pool_classes_by_scheme = pools
            return manager

    session = requests.Session()
    session.mount("http://", Adapter())
    session.mount("https://", Adapter())
    return session
