"""``serve``: from settings to a running server, and its orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from alexnet_deploy.errors import DeployError
from alexnet_deploy.serving.access_log import AccessLog
from alexnet_deploy.serving.budget import BodyBudget
from alexnet_deploy.serving.engines.models import Models
from alexnet_deploy.serving.engines.sources import ModelSource
from alexnet_deploy.serving.http.app import make_app
from alexnet_deploy.serving.http.draining import DrainingServer
from alexnet_deploy.serving.http.limits import limited_protocol
from alexnet_deploy.serving.listening import listening, require_free_grpc_port
from alexnet_deploy.serving.metrics import Metrics
from alexnet_deploy.serving.protocol.grpc_server import start_grpc
from alexnet_deploy.serving.security import Keys, require_protection, tls_context
from alexnet_deploy.serving.settings import Settings

_log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_FILES = 256  # descriptors beside those of connections, as many for gRPC as for HTTP: engines, logs
_END_S = 2.0
"""After the drain, for threads that load, decode or compute: most are done by then, and clean up after themselves."""


@dataclass(frozen=True, slots=True)
class Started:
    """What a server reports once it is ready: where it listens, and what it serves."""

    http: str
    grpc: str | None
    models: tuple[str, ...]


def serve(
    sources: Sequence[ModelSource],
    settings: Settings,
    on_loading: Callable[[], None] = lambda: None,
    on_ready: Callable[[Started], None] = lambda started: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then answer what has arrived, for at most ``drain_s``, and return.

    It listens at once, and calls ``on_loading``; it is ready, and calls ``on_ready``, when every model is loaded and
    warm. A second signal ends it at once. Must be called in the main thread. If a load, a computation or a decoder does
    not end in time, nobody can end its thread: then the whole process ends here, with exit code 0.

    Raises UsageError, InputError and UnavailableError before it listens: an address without protection, a key file or
    certificate that cannot be used, a port in use; and the error of a model that cannot be loaded.
    """
    require_protection(settings)
    keys = Keys(settings.api_key_file)
    tls = None
    if settings.certificate is not None and settings.key is not None:
        tls = tls_context(settings.certificate, settings.key)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what matters of it, we log ourselves
    _raise_file_limit(2 * settings.max_connections + _FILES)
    with listening(settings) as listener:
        require_free_grpc_port(settings)
        on_loading()
        config = uvicorn.Config(
            app=_not_yet,
            loop="none",
            http=HttpToolsProtocol,  # until the application is there
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        )
        config.load()
        config.ssl = tls
        with _prompt_switches(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(sources, settings, keys, config, listener, on_ready))


@contextlib.contextmanager
def _prompt_switches() -> Iterator[None]:
    """The event loop waits at most this long for a thread that decodes or computes to hand over the interpreter.

    Python's default of 5 ms is longer than the work for a request: a tenth of the throughput on two busy cores.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


async def _serve(
    sources: Sequence[ModelSource],
    settings: Settings,
    keys: Keys,
    config: uvicorn.Config,
    listener: socket.socket,
    on_ready: Callable[[Started], None],
) -> None:
    metrics = Metrics()
    access_log = AccessLog(lost=metrics.log_lines_lost.inc) if settings.access_log else None
    models = Models(sources, settings, metrics)
    budget = BodyBudget(settings, metrics.body_bytes.set)
    app = make_app(models, settings, metrics, budget, keys, access_log)
    config.loaded_app = app
    config.http_protocol_class = limited_protocol(settings, app.refused_connection, lambda: models.ending)
    server = DrainingServer(config)
    stop = asyncio.Event()
    _stop_on_signals(stop, server, models)
    # gRPC first: a port that is in use ends the start before anybody is answered.
    grpc_server, grpc_port = None, None
    if settings.grpc_port is not None:
        grpc_server, grpc_port = await start_grpc(models, settings, metrics, budget, keys, access_log)
    http = asyncio.create_task(server.serve(sockets=[listener]))
    failed: BaseException | None = None
    watching: asyncio.Task[None] | None = None
    loading = asyncio.create_task(models.load())
    try:
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((loading, stopping, http), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            on_ready(_started(settings, listener, grpc_port, models))
            watching = asyncio.create_task(models.watch())
            await asyncio.wait((stopping, http, watching), return_when=asyncio.FIRST_COMPLETED)
    except DeployError as exc:
        failed = exc
    finally:
        models.end()
        metrics.ready.set(0)
        loading.cancel()
        if watching is not None:
            watching.cancel()
        server.should_exit = True
        drained = asyncio.get_running_loop().time() + settings.drain_s
        if grpc_server is not None:
            await asyncio.gather(http, grpc_server.stop(settings.drain_s), return_exceptions=True)
        else:
            await asyncio.gather(http, return_exceptions=True)
        closed = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(max(drained, asyncio.get_running_loop().time() + _END_S)):
                await models.close()
                closed = True
        loads_ended = await models.loads_ended(_END_S)
        if access_log is not None:
            access_log.close()
    if failed is not None:
        raise failed
    if not (closed and loads_ended):
        _log.warning("ends although an engine is still being loaded or used, or an image decoded")
        _end_process()


def _end_process() -> None:
    """End with exit code 0, without Python's own end, which would wait for every thread."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def _stop_on_signals(stop: asyncio.Event, server: uvicorn.Server, models: Models) -> None:
    loop = asyncio.get_running_loop()

    def end() -> None:
        models.end()
        stop.set()
        server.should_exit = True
        for number in _SIGNALS:  # whoever sends a second one does not want to wait
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in _SIGNALS:
        loop.add_signal_handler(number, end)


def _started(settings: Settings, listener: socket.socket, grpc_port: int | None, models: Models) -> Started:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "http" if settings.certificate is None else "https"
    http = f"{scheme}://{host}:{listener.getsockname()[1]}"
    return Started(http, None if grpc_port is None else f"{host}:{grpc_port}", tuple(models.names))


def _raise_file_limit(wanted: int) -> None:
    """Allow ``wanted`` open files if the system permits: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))


async def _not_yet(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("the application is set before the server starts")
