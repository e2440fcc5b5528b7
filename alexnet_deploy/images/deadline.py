"""A session of requests whose connections end at a deadline, whatever the server sends until then.

The timeouts of requests are of silence: a server that sends a byte now and then, of a header say, is never silent.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakSet


class EndingSession:
    """A session for one thread. A connection is ended once it is made, a handshake of TLS by its silence alone."""

    def __init__(self) -> None:
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._lock = threading.Lock()
        self.requests = _session(self._note)

    @contextmanager
    def ended_after(self, seconds: float) -> Iterator[None]:
        """In the block, end all connections after ``seconds``: whoever reads one then sees an error, or its end."""
        timer = threading.Timer(seconds, self._end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _note(self, opened: socket.socket) -> None:
        with self._lock:
            self._sockets.add(opened)

    def _end(self) -> None:
        with self._lock:
            for each in self._sockets:
                with suppress(OSError):  # closed meanwhile
                    # Not the method of an SSLSocket, which first takes its state away from the thread that reads.
                    socket.socket.shutdown(each, socket.SHUT_RDWR)


def _session(note: Any) -> Any:
    """A session that calls ``note`` with the socket of each new connection."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            note(self.sock)

    class Secure(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            note(self.sock)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, **options)
            self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    session = requests.Session()
    session.mount("http://", Adapter())
    session.mount("https://", Adapter())
    return session
