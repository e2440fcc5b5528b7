"""The gRPC server: the Open Inference Protocol, and gRPC's health service."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.serving.access_log import AccessLog
from alexnet_deploy.serving.budget import BodyBudget
from alexnet_deploy.serving.engines.models import Models
from alexnet_deploy.serving.metrics import Metrics
from alexnet_deploy.serving.protocol import streaming
from alexnet_deploy.serving.protocol.admission.places import Places
from alexnet_deploy.serving.protocol.admission.reading import Messages
from alexnet_deploy.serving.protocol.calls import Calls
from alexnet_deploy.serving.protocol.health import Health
from alexnet_deploy.serving.protocol.messages import HEALTH, HEALTH_METHODS, METHODS, SERVICE
from alexnet_deploy.serving.protocol.methods import Methods
from alexnet_deploy.serving.security import Keys
from alexnet_deploy.serving.settings import Settings

_OPEN = ("ServerLive", "ServerReady", "ModelReady")
_MAX_METADATA = 32 << 10
_MORE_CALLS = 2048  # at the same time, beyond one image each for the queue
_BEING_REFUSED = 1024  # beyond these: gRPC refuses others itself, without a count
_CALLS_PER_CONNECTION = 128
"""A client keeps further calls to itself. Here they would wait to be accepted, which happens one by one."""
_PENDING = 4096
"""Calls that wait to be accepted: above it gRPC itself ends some of them as CANCELLED."""
_OPEN_AT_ONCE = 2  # messages of calls without a key that have a turn: they come with the first packet
_KEEPALIVE_MS = 60_000  # a client that has vanished must not keep its stream
_IDLE_MS = 300_000  # a connection without calls ends; clients open another one by themselves


async def start_grpc(
    models: Models, settings: Settings, metrics: Metrics, budget: BodyBudget, keys: Keys, access_log: AccessLog | None
) -> tuple[grpc.aio.Server, int]:
    """A started server and its port; UnavailableError if the port is in use.

    Bodies count in ``budget``. Streams take at most half of it while they wait for messages, the messages that are
    being read three eighths: a quarter those that have a turn, an eighth those that are slow.
    """
    assert settings.grpc_port is not None
    streams = settings.max_memory // 2 // settings.max_body
    places = settings.max_queue + _MORE_CALLS + streams
    server = grpc.aio.server(
        options=(
            ("grpc.so_reuseport", 0),  # else a second server would share the port and take half of the requests
            ("grpc.max_receive_message_length", settings.max_body),
            ("grpc.max_metadata_size", _MAX_METADATA),
            ("grpc.max_concurrent_streams", _CALLS_PER_CONNECTION),
            ("grpc.http.overload_protection", 0),  # it counts calls that have just ended, and refuses others for them
            ("grpc.server.max_pending_requests", _PENDING),
            ("grpc.server.max_pending_requests_hard_limit", _PENDING),
            ("grpc.http2.bdp_probe", 0),  # with it, up to 8 MB of a message that nobody has asked for are in memory
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.max_connection_idle_ms", _IDLE_MS),
            ("grpc.server_handshake_timeout_ms", round(1000 * settings.idle_s)),
        ),
        maximum_concurrent_rpcs=places + _BEING_REFUSED,
    )
    calls = Calls(Places(places), keys, metrics, access_log)
    bodies = Messages(settings, budget, max(1, settings.max_memory // 4 // settings.max_body), settings.idle_s)
    small = Messages(settings, None, _OPEN_AT_ONCE, patience_s=0.0)
    methods = Methods(models)
    handlers: dict[str, Any] = {}
    for name, (request, response) in METHODS.items():
        if name == streaming.NAME:
            handle = streaming.Streams(models, settings, budget, calls, streams).handle
            handlers[name] = grpc.stream_stream_rpc_method_handler(handle, None, response.SerializeToString)
        else:
            is_open = name in _OPEN
            operation = {"ModelInfer": "infer"}.get(name, "health" if is_open else "metadata")
            call = calls.unary(
                name,
                operation,
                small if is_open else bodies,
                request,
                getattr(methods, name),
                needs_key=not is_open,
            )
            handlers[name] = grpc.stream_unary_rpc_method_handler(call, None, response.SerializeToString)
    health = Health(models, calls, small)
    request, response = HEALTH_METHODS["Check"]
    check = calls.unary("Check", "health", small, request, health.check, needs_key=False)
    health_handlers = {
        "Check": grpc.stream_unary_rpc_method_handler(check, None, response.SerializeToString),
        "Watch": grpc.stream_stream_rpc_method_handler(health.watch, None, response.SerializeToString),
    }
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(f"inference.{SERVICE}", handlers),
            grpc.method_handlers_generic_handler(HEALTH, health_handlers),
        )
    )
    port = _listen(server, settings)
    await server.start()
    return server, port


def _listen(server: grpc.aio.Server, settings: Settings) -> int:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    try:
        if settings.certificate is not None and settings.key is not None:
            pair = settings.key.read_bytes(), settings.certificate.read_bytes()
            return int(server.add_secure_port(address, grpc.ssl_server_credentials([pair])))
        return int(server.add_insecure_port(address))
    except RuntimeError as exc:
        raise UnavailableError(
            f"`grpc_port` {settings.grpc_port}: cannot be used on {settings.host}", "choose another"
        ) from exc
