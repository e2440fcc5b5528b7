"""The ports of the server: taken, or refused with the reason."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.serving.settings import Settings

_BACKLOG = 512  # connections that the kernel holds while we are busy


@contextlib.contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """A socket that listens on ``port``; UnavailableError if the address is in use or none of this machine's."""
    family, address = _addresses(settings.host, settings.port)[0]
    with _bound("port", settings.host, settings.port, family, address) as listener:
        yield listener


def require_free_grpc_port(settings: Settings) -> None:
    """UnavailableError with the reason if ``grpc_port`` cannot be used: gRPC itself gives none, and prints a line."""
    if settings.grpc_port is None:
        return
    for family, address in _addresses(settings.host, settings.grpc_port):
        try:
            with _bound("grpc_port", settings.host, settings.grpc_port, family, address):
                pass
        except UnavailableError as exc:
            # Of a name with an address of IPv6, which this machine may not have, gRPC uses the others.
            if getattr(exc.__cause__, "errno", None) not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise


def _addresses(host: str, port: int) -> list[tuple[int, tuple[object, ...]]]:
    """Family and address of all that ``host`` stands for; a name can have one of IPv4 and one of IPv6."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as exc:
        raise UnavailableError(f"`host` {host}: is no address ({exc.strerror})", "choose another") from exc
    return [(family, address) for family, _, _, _, address in found]


@contextlib.contextmanager
def _bound(parameter: str, host: str, port: int, family: int, address: tuple[object, ...]) -> Iterator[socket.socket]:
    """A socket that listens. Without SO_REUSEPORT, with which two servers would share the requests of one port."""
    with contextlib.ExitStack() as resources:
        try:
            listener = resources.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError as exc:
            raise UnavailableError(
                f"`{parameter}` {port} on {host}: cannot be used ({exc.strerror})", "choose another"
            ) from exc
        yield listener
