"""The HTTP application: the Open Inference Protocol under ``/v2``, ``/classify``, ``/metrics``, the page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from alexnet_deploy import __version__
from alexnet_deploy.errors import UsageError
from alexnet_deploy.inference.predict import require_threshold
from alexnet_deploy.serving.access_log import AccessLog
from alexnet_deploy.serving.engine import Result, ServedEngine
from alexnet_deploy.serving.http.answers import rows_of
from alexnet_deploy.serving.http.body import Bodies
from alexnet_deploy.serving.http.form import images_in
from alexnet_deploy.serving.http.guard import Guard
from alexnet_deploy.serving.http.openapi import openapi_document
from alexnet_deploy.serving.http.page import page_routes
from alexnet_deploy.serving.http.rest import HEADER_LENGTH, read_request, write_response
from alexnet_deploy.serving.metrics import CONTENT_TYPE, Metrics
from alexnet_deploy.serving.models import Models
from alexnet_deploy.serving.protocol import tensors
from alexnet_deploy.serving.protocol.describe import EXTENSIONS, describe_model, model_config
from alexnet_deploy.serving.refusals import BadRequestError, UnsupportedMediaError
from alexnet_deploy.serving.security import Keys
from alexnet_deploy.serving.settings import Settings

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]
TOP_K = 5


def make_app(models: Models, settings: Settings, metrics: Metrics, keys: Keys, access_log: AccessLog | None) -> Guard:
    """The ASGI application of one server."""
    handlers = _Handlers(models, settings, metrics)
    routes = [
        *page_routes(),
        Route("/openapi.json", handlers.openapi),
        Route("/metrics", handlers.metrics),
        *(
            Route(path, handlers.classify, methods=["POST", "PUT"])
            for path in ("/classify", "/classify/", "/classify/{file}")
        ),
        Route("/engines", handlers.engines),
        Route("/v2", handlers.server),
        Route("/v2/health/live", handlers.live),
        Route("/v2/health/ready", handlers.ready),
    ]
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        routes += [
            Route(model, handlers.model),
            Route(f"{model}/ready", handlers.model_ready),
            Route(f"{model}/config", handlers.config),
            Route(f"{model}/infer", handlers.infer, methods=["POST"]),
        ]
    return Guard(Router(routes, redirect_slashes=False), keys, metrics, access_log)


class _Handlers:
    def __init__(self, models: Models, settings: Settings, metrics: Metrics) -> None:
        self._models, self._settings, self._metrics = models, settings, metrics
        self._bodies = Bodies(settings, metrics.body_bytes)

    async def live(self, request: Request) -> Response:
        _note(request, operation="health")
        return Response()

    async def ready(self, request: Request) -> Response:
        _note(request, operation="health")
        return Response(status_code=200 if self._models.ready else 503)

    async def model_ready(self, request: Request) -> Response:
        _note(request, operation="health")
        is_ready = self._models.is_ready(request.path_params["model"], request.path_params.get("version", ""))
        return Response(status_code=200 if is_ready else 503)

    async def server(self, request: Request) -> Response:
        _note(request, operation="metadata")
        return _json({"name": "alexnet-deploy", "version": __version__, "extensions": EXTENSIONS})

    async def model(self, request: Request) -> Response:
        _note(request, operation="metadata")
        return _json(describe_model(self._engine(request)))

    async def config(self, request: Request) -> Response:
        _note(request, operation="metadata")
        return _json(model_config(self._engine(request)))

    async def engines(self, request: Request) -> Response:
        """What the page shows about each model."""
        _note(request, operation="metadata")
        found = [self._models.get(name) for name in self._models.names]
        return _json(
            [
                {
                    "name": engine.name,
                    "version": engine.version,
                    "precision": engine.precision,
                    "runtime": engine.description,
                    "classes": len(engine.contract.labels),
                    "activation": engine.contract.activation,
                    "calibrated": engine.contract.temperature != 1.0,
                    "preprocessing": engine.contract.preprocessing.describe(),
                    "proof": engine.proof,
                }
                for engine in found
            ]
        )

    async def metrics(self, request: Request) -> Response:
        _note(request, operation="metrics")
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        _note(request, operation="metadata")
        return _json(openapi_document(self._settings, self._models.names))

    async def infer(self, request: Request) -> Response:
        _note(request, operation="infer")
        engine = self._engine(request)
        with engine.in_use():
            async with self._body(request) as body:
                wanted = read_request(body, request.headers.get(HEADER_LENGTH))
                tensors.check_outputs(engine, wanted.outputs)
                given = tensors.read_inputs(engine, wanted.inputs)
                _note(request, images=len(given))
                work = engine.classify_images(given) if isinstance(given, list) else engine.classify_pixels(given)
                result = await _while_connected(request, work)
                engine.count(result)
                outputs = tensors.make_outputs(engine, result, wanted.outputs)
        content, head_bytes = write_response(engine, wanted, outputs)
        headers = _timing(result) | {"content-type": "application/json"}
        if head_bytes is not None:
            headers |= {"content-type": "application/octet-stream", HEADER_LENGTH: str(head_bytes)}
        return Response(content, headers=headers)

    async def classify(self, request: Request) -> Response:
        _note(request, operation="classify")
        query = request.query_params
        if unknown := query.keys() - {"engine", "top_k", "threshold"}:
            raise BadRequestError(f"unknown parameter {min(unknown)}; known are engine, top_k and threshold")
        top_k, threshold = _whole_number("top_k", query.get("top_k")), _probability(query.get("threshold"))
        engine = self._models.get(query.get("engine"))
        _note(request, model=engine.name, version=engine.version)
        with engine.in_use():
            async with self._body(request) as body:
                images = await images_in(request, body, self._settings.max_images)
                _note(request, images=len(images))
                result = await _while_connected(request, engine.classify_images(images))
                engine.count(result)
                rows = rows_of([image.name for image in images], result, engine, top_k, threshold)
        headers = _timing(result) | {"x-engine-version": engine.version, "content-type": "application/json"}
        return Response(msgspec.json.encode(rows), headers=headers)

    def _engine(self, request: Request) -> ServedEngine:
        engine = self._models.get(request.path_params["model"], request.path_params.get("version", ""))
        _note(request, model=engine.name, version=engine.version)
        return engine

    @asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        encoding = request.headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            raise UnsupportedMediaError(f"content encoding {encoding}: is not read; send the body as it is")
        async with self._bodies.read(request) as body:
            yield body


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled if the client leaves: its place in the queue is free at once."""
    job = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())  # the body has been read: the next message is the end
    try:
        await asyncio.wait((job, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            raise BadRequestError("the client left")
        return job.result()
    finally:
        leaving.cancel()
        job.cancel()


def _note(request: Request, **facts: object) -> None:
    """Tell the access log and the metrics."""
    request.scope["facts"].update(facts)


def _timing(result: Result) -> dict[str, str]:
    steps = (("decode", result.decode_s), ("queue", result.queue_s), ("compute", result.compute_s))
    return {"server-timing": ", ".join(f"{name};dur={1000 * seconds:.3f}" for name, seconds in steps)}


def _whole_number(name: str, text: str | None) -> int:
    if text is None:
        return TOP_K
    if not (text.isascii() and text.isdigit() and 1 <= len(text) <= 9 and int(text) >= 1):
        raise BadRequestError(f"{name} {text}: is no whole number of 1 or more")
    return int(text)


def _probability(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
        require_threshold(value)
    except (ValueError, UsageError) as exc:
        raise BadRequestError(f"threshold {text}: is no number within 0..1") from exc
    return value


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), headers={"content-type": "application/json"})
