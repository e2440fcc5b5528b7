"""The Open Inference Protocol over gRPC."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from alexnet_deploy import __version__
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.serving.access_log import AccessLog
from alexnet_deploy.serving.engine import ServedEngine
from alexnet_deploy.serving.metrics import Metrics
from alexnet_deploy.serving.models import Models
from alexnet_deploy.serving.protocol import tensors
from alexnet_deploy.serving.protocol.describe import EXTENSIONS, describe_model, model_config
from alexnet_deploy.serving.protocol.messages import METHODS, SERVICE
from alexnet_deploy.serving.protocol.tensors import VALUES, InputTensor, RequestedOutput
from alexnet_deploy.serving.refusals import BadRequestError, Refusal
from alexnet_deploy.serving.security import Keys
from alexnet_deploy.serving.settings import Settings
from alexnet_deploy.serving.tracing import span

_log = logging.getLogger(__name__)

_OPEN = ("ServerLive", "ServerReady", "ModelReady")
_MAX_METADATA = 32 << 10
_MORE_CALLS = 64  # at the same time, beyond one image each for the queue: health, metadata, refusals
_CONTENTS = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}


async def start_grpc(
    models: Models, settings: Settings, metrics: Metrics, keys: Keys, access_log: AccessLog | None
) -> tuple[grpc.aio.Server, int]:
    """A started server and its port; UnavailableError if the port is in use."""
    assert settings.grpc_port is not None
    server = grpc.aio.server(
        options=(
            ("grpc.so_reuseport", 0),  # else a second server would share the port and take half of the requests
            ("grpc.max_receive_message_length", settings.max_body),
            ("grpc.max_metadata_size", _MAX_METADATA),
        ),
        maximum_concurrent_rpcs=settings.max_queue + _MORE_CALLS,
    )
    methods = _Methods(models)
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            _guarded(name, getattr(methods, name), keys, metrics, access_log),
            request_deserializer=None,  # ``_guarded`` reads it: bytes that are no message are a refusal like others
            response_serializer=response.SerializeToString,
        )
        for name, (_, response) in METHODS.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"inference.{SERVICE}", handlers),))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    try:
        if settings.certificate is not None and settings.key is not None:
            pair = settings.key.read_bytes(), settings.certificate.read_bytes()
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        else:
            port = server.add_insecure_port(address)
    except RuntimeError as exc:
        raise UnavailableError(
            f"`grpc_port` {settings.grpc_port}: cannot be used on {settings.host}", "choose another"
        ) from exc
    await server.start()
    return server, port


def _guarded(
    name: str,
    method: Callable[[Any, dict[str, Any], Any], Awaitable[Any]],
    keys: Keys,
    metrics: Metrics,
    access_log: AccessLog | None,
) -> Callable[[Any, Any], Awaitable[Any]]:
    """``method`` with what ``Guard`` does for HTTP."""
    operation = {"ModelInfer": "infer"}.get(name, "health" if name in _OPEN else "metadata")

    async def call(content: bytes, context: Any) -> Any:
        started = time.perf_counter()
        facts: dict[str, Any] = {}
        code = "CANCELLED"
        headers = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        try:
            with span("request", parent=headers, path=name):
                if name not in _OPEN:
                    keys.check(headers)
                answer = await method(_parse(name, content), facts, context)
                code = "OK"
                return answer
        except Refusal as exc:
            code = exc.code
            again = () if exc.retry_after_s is None else (("grpc-retry-pushback-ms", str(1000 * exc.retry_after_s)),)
            await context.abort(grpc.StatusCode[code], str(exc), again)
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            code = "INTERNAL"
            _log.error("a request failed", exc_info=exc)
            await context.abort(grpc.StatusCode.INTERNAL, "this server failed; its log has the reason")
        finally:
            seconds = time.perf_counter() - started
            metrics.requests.labels("grpc", operation, facts.get("model", ""), code).inc()
            metrics.request_seconds.labels("grpc", operation).observe(seconds)
            if access_log is not None:
                access_log(protocol="grpc", path=name, status=code, seconds=seconds, client=context.peer(), **facts)

    return call


def _parse(name: str, content: bytes) -> Any:
    try:
        return METHODS[name][0].FromString(content)
    except DecodeError as exc:
        raise BadRequestError(f"the request is no message for {name}") from exc


class _Methods:
    """One method per RPC: request, facts for the access log, context -> response."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def ServerLive(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        return _answer("ServerLive", live=True)

    async def ServerReady(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        return _answer("ServerReady", ready=self._models.ready)

    async def ModelReady(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        return _answer("ModelReady", ready=self._models.is_ready(request.name, request.version))

    async def ServerMetadata(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        return _answer("ServerMetadata", name="alexnet-deploy", version=__version__, extensions=EXTENSIONS)

    async def ModelMetadata(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        return _answer("ModelMetadata", **describe_model(self._engine(request.name, request.version, facts)))

    async def ModelConfig(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        config = model_config(self._engine(request.name, request.version, facts))
        return json_format.ParseDict({"config": config}, _answer("ModelConfig"))

    async def ModelInfer(self, request: Any, facts: dict[str, Any], context: Any) -> Any:
        engine = self._engine(request.model_name, request.model_version, facts)
        with engine.in_use():
            outputs = [_requested(output) for output in request.outputs] or [RequestedOutput(name) for name in VALUES]
            tensors.check_outputs(engine, outputs)
            given = tensors.read_inputs(engine, _inputs(request))
            facts["images"] = len(given)
            timeout_s = context.time_remaining()
            if isinstance(given, list):
                result = await engine.classify_images(given, timeout_s)
            else:
                result = await engine.classify_pixels(given, timeout_s)
            engine.count(result)
            made = tensors.make_outputs(engine, result, outputs)
        answer = _answer("ModelInfer", model_name=engine.name, model_version=engine.version, id=request.id)
        for output in made:
            answer.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
            answer.raw_output_contents.append(output.raw())
        return answer

    def _engine(self, name: str, version: str, facts: dict[str, Any]) -> ServedEngine:
        engine = self._models.get(name, version)
        facts |= {"model": engine.name, "version": engine.version}
        return engine


def _answer(method: str, **fields: Any) -> Any:
    return METHODS[method][1](**fields)


def _inputs(request: Any) -> list[InputTensor]:
    """The input tensors; their contents are raw, all of them, or typed."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BadRequestError(f"{len(raw)} raw contents for {len(request.inputs)} inputs")
    return [
        InputTensor(given.name, given.datatype, tuple(given.shape), raw[i] if raw else _typed(given))
        for i, given in enumerate(request.inputs)
    ]


def _typed(given: Any) -> bytes | list[bytes]:
    field = _CONTENTS.get(given.datatype)
    others = [found.name for found, _ in given.contents.ListFields() if found.name != field]
    if others:
        raise BadRequestError(f"input {given.name}: contents {others[0]} are not of datatype {given.datatype}")
    if field is None:
        return b""  # the datatype is refused where the model is known
    values = getattr(given.contents, field)
    if field == "bytes_contents":
        return list(values)
    try:
        return bytes(values)
    except ValueError as exc:
        raise BadRequestError(f"input {given.name}: has a value that is not within 0..255") from exc


def _requested(output: Any) -> RequestedOutput:
    parameter = output.parameters.get("classification")
    if parameter is None:
        return RequestedOutput(output.name)
    if parameter.WhichOneof("parameter_choice") != "int64_param":
        raise BadRequestError(f"output {output.name}: classification is no number of classes")
    return RequestedOutput(output.name, parameter.int64_param)
