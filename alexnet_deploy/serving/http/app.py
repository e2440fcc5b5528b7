"""The HTTP application: the Open Inference Protocol under ``/v2``, ``/classify``, ``/metrics``, the page."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import unquote

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from alexnet_deploy import __version__
from alexnet_deploy.errors import UsageError
from alexnet_deploy.inference.predict import require_threshold
from alexnet_deploy.serving.access_log import AccessLog
from alexnet_deploy.serving.budget import BodyBudget
from alexnet_deploy.serving.engines.decoding import EncodedImage
from alexnet_deploy.serving.engines.engine import Result, ServedEngine
from alexnet_deploy.serving.engines.models import Models
from alexnet_deploy.serving.http.answers import describe_engine, require_classes, rows_of
from alexnet_deploy.serving.http.body import Bodies
from alexnet_deploy.serving.http.compression import packed, unpacked
from alexnet_deploy.serving.http.docs_page import docs_html, docs_text
from alexnet_deploy.serving.http.form import images_in, is_form
from alexnet_deploy.serving.http.guard import Guard
from alexnet_deploy.serving.http.openapi import openapi_document
from alexnet_deploy.serving.http.page import page_routes
from alexnet_deploy.serving.http.rest import HEADER_LENGTH, read_request, write_response
from alexnet_deploy.serving.metrics import CONTENT_TYPE, Metrics
from alexnet_deploy.serving.protocol import tensors
from alexnet_deploy.serving.protocol.describe import EXTENSIONS, describe_model, model_config, statistics
from alexnet_deploy.serving.refusals import BadRequestError, NotFoundError, refuse_model_control, shown
from alexnet_deploy.serving.security import Keys
from alexnet_deploy.serving.settings import Settings

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]
TOP_K = 5
_NUMBER = re.compile(r"[0-9.+eE-]{1,30}")


class _Index(msgspec.Struct):
    """The request of the repository index; other fields are for servers with several repositories."""

    ready: bool = False


def make_app(
    models: Models, settings: Settings, metrics: Metrics, budget: BodyBudget, keys: Keys, access_log: AccessLog | None
) -> Guard:
    """The ASGI application of one server; bodies count in ``budget``."""
    handlers = _Handlers(models, settings, metrics, budget)
    routes = [
        *page_routes(),
        Route("/openapi.json", handlers.openapi),
        Route("/docs", handlers.docs),
        Route("/metrics", handlers.metrics),
        *(
            Route(path, handlers.classify, methods=["POST", "PUT"])
            for path in ("/classify", "/classify/", "/classify/{file}")
        ),
        Route("/engines", handlers.engines),
        Route("/v2", handlers.server),
        Route("/v2/health/live", handlers.live),
        Route("/v2/health/ready", handlers.ready),
        Route("/v2/models/stats", handlers.stats),
        Route("/v2/repository/index", handlers.index, methods=["POST"]),
        *(
            Route(f"/v2/repository/models/{{model}}/{what}", handlers.model_control, methods=["POST"])
            for what in ("load", "unload")
        ),
    ]
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        routes += [
            Route(model, handlers.model),
            Route(f"{model}/ready", handlers.model_ready),
            Route(f"{model}/config", handlers.config),
            Route(f"{model}/stats", handlers.stats),
            Route(f"{model}/infer", handlers.infer, methods=["POST"]),
        ]
    return Guard(Router(routes, redirect_slashes=False, default=handlers.missing), keys, metrics, access_log)


class _Handlers:
    def __init__(self, models: Models, settings: Settings, metrics: Metrics, budget: BodyBudget) -> None:
        self._models, self._settings, self._metrics, self._budget = models, settings, metrics, budget
        self._bodies = Bodies(settings, budget)

    async def missing(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What no route takes. A name with a slash, however it is written, is one that no model has."""
        parts = scope["raw_path"].decode("ascii", "replace").split("/")
        if parts[:3] == ["", "v2", "models"] and len(parts) > 3:
            self._models.is_ready(unquote(parts[3]))  # for its error
        raise NotFoundError(f"{shown(scope['path'])}: no such address; GET /docs lists them")

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

    async def stats(self, request: Request) -> Response:
        _note(request, operation="metadata")
        path = request.path_params
        return _json(statistics(self._models, path.get("model"), path.get("version", "")))

    async def index(self, request: Request) -> Response:
        _note(request, operation="metadata")
        async with self._body(request) as body:
            try:
                wanted = msgspec.json.decode(body or b"{}", type=_Index)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
                raise BadRequestError(f"the request is not valid: {exc}") from exc
        return _json(self._models.index(ready_only=wanted.ready))

    async def model_control(self, request: Request) -> Response:
        _note(request, operation="metadata")
        refuse_model_control()

    async def engines(self, request: Request) -> Response:
        """What the page shows about each model."""
        _note(request, operation="metadata")
        return _json([describe_engine(self._models.get(name)) for name in self._models.names])

    async def metrics(self, request: Request) -> Response:
        _note(request, operation="metrics")
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        _note(request, operation="metadata")
        return _json(openapi_document(self._settings, self._models.names))

    async def docs(self, request: Request) -> Response:
        _note(request, operation="page")
        document = openapi_document(self._settings, self._models.names)
        if "text/html" in request.headers.get("accept", ""):
            return Response(docs_html(document), headers={"content-type": "text/html; charset=utf-8"})
        return Response(docs_text(document), headers={"content-type": "text/plain; charset=utf-8"})

    async def infer(self, request: Request) -> Response:
        _note(request, operation="infer")
        engine = self._engine(request)
        with self._models.statistics(engine.name).request() as count, engine.in_use():
            engine.require_room()
            async with self._body(request) as body:
                length = request.headers.get(HEADER_LENGTH)
                wanted = await engine.in_pool(len(body), read_request, engine, body, length)
                tensors.check_outputs(engine, wanted.outputs)
                given = tensors.read_input(wanted.input)
                _note(request, images=len(given))
                work = engine.classify_images(given) if isinstance(given, list) else engine.classify_pixels(given)
                result = await _while_connected(request, work)
                with engine.counted(result):
                    outputs = tensors.make_outputs(engine, result, wanted.outputs)
                count(result)
            size = 4 * len(given) * engine.contract.outputs
            content, head_bytes = await engine.in_pool(size, write_response, engine, wanted, outputs)
        content, encoding = await packed(content, request.headers.get("accept-encoding", ""))
        headers = _timing(result) | encoding | {"content-type": "application/json"}
        if head_bytes is not None:
            headers |= {"content-type": "application/octet-stream", HEADER_LENGTH: str(head_bytes)}
        return Response(content, headers=headers)

    async def classify(self, request: Request) -> Response:
        _note(request, operation="classify")
        query = request.query_params
        if unknown := query.keys() - {"engine", "top_k", "threshold"}:
            raise BadRequestError(f"unknown parameter {min(unknown)}; known are engine, top_k and threshold")
        if twice := [name for name in query if len(query.getlist(name)) > 1]:
            raise BadRequestError(f"parameter {min(twice)} is given more than once; give it once")
        top_k, threshold = _whole_number("top_k", query.get("top_k")), _probability(query.get("threshold"))
        engine = self._models.get(query.get("engine"))
        _note(request, model=engine.name, version=engine.version)
        with self._models.statistics(engine.name).request() as count, engine.in_use():
            require_classes(engine)
            engine.require_room()
            async with self._body(request) as body:
                images = await self._images(engine, request, body)
                _note(request, images=len(images))
                result = await _while_connected(request, engine.classify_images(images))
                with engine.counted(result):
                    rows = rows_of([image.name for image in images], result, engine, top_k, threshold)
                count(result)
        headers = _timing(result) | {"x-engine-version": engine.version, "content-type": "application/json"}
        return Response(msgspec.json.encode(rows), headers=headers)

    async def _images(self, engine: ServedEngine, request: Request, body: bytes) -> list[EncodedImage]:
        # A form is taken apart in Python: one of many small parts takes seconds.
        size = len(body) if is_form(request) else 0
        return await engine.in_pool(size, images_in, request, body, self._settings.max_images)

    def _engine(self, request: Request) -> ServedEngine:
        engine = self._models.get(request.path_params["model"], request.path_params.get("version", ""))
        _note(request, model=engine.name, version=engine.version)
        return engine

    @asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        encoding = request.headers.get("content-encoding", "")
        async with (
            self._bodies.read(request) as body,
            unpacked(body, encoding, self._settings.max_body, self._budget) as content,
        ):
            yield content


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
        del job  # it holds its exception, whose frames hold the body: in a circle, all would stay in memory for long


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
        if not _NUMBER.fullmatch(text):  # float() reads 0_1, spaces and the digits of other scripts as well
            raise ValueError(text)
        value = float(text)
        require_threshold(value)
    except (ValueError, UsageError) as exc:
        raise BadRequestError(f"threshold {text}: is no number within 0..1") from exc
    return value


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), headers={"content-type": "application/json"})
