"""The description of the HTTP interface, OpenAPI 3.1, for tools and for the fuzzers that read it."""

from __future__ import annotations

from typing import Any

from alexnet_deploy import __version__
from alexnet_deploy.serving.settings import Settings

_TENSOR: dict[str, Any] = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "data": {"type": "array", "description": "Values, flat or nested; in BYTES inputs, base64 text."},
        "parameters": {"type": "object", "description": "binary_data_size: the bytes after the JSON."},
    },
}
_ROW: dict[str, Any] = {
    "type": "object",
    "required": ["file", "top", "error", "unknown"],
    "properties": {
        "file": {"type": "string"},
        "top": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["index", "label", "probability"],
                "properties": {
                    "index": {"type": "integer"},
                    "label": {"type": "string"},
                    "probability": {"type": "number"},
                },
            },
        },
        "error": {"type": ["string", "null"]},
        "unknown": {
            "type": ["boolean", "null"],
            "description": "Whether the engine's rule marks the answer; null without a rule or an answer.",
        },
    },
}


def openapi_document(settings: Settings, models: list[str]) -> dict[str, Any]:
    """The document; ``models`` are the names of the models that are served."""
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "enum": models}}
    classify = _classify(models)
    path = "/v2/models/{model}"
    file = {"name": "file", "in": "path", "required": True, "schema": {"type": "string"}}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "alexnet-deploy",
            "version": __version__,
            "description": "Photos to classes: /classify for people, /v2 by the Open Inference Protocol, "
            "which also has the features of a feature engine. "
            "Bodies may be compressed (Content-Encoding gzip or deflate). A refusal is JSON with one line, error.",
        },
        "paths": {
            "/classify": {"post": classify, "put": classify},
            "/classify/{file}": {"parameters": [file], "post": classify, "put": classify},
            f"{path}/infer": {"parameters": [model], "post": _infer()},
            f"{path}": {"parameters": [model], "get": _get("Metadata of a model")},
            f"{path}/config": {"parameters": [model], "get": _get("Configuration of a model")},
            f"{path}/stats": {"parameters": [model], "get": _get("Counters of a model, as Triton's statistics")},
            f"{path}/ready": {
                "parameters": [model],
                "get": _get("Whether a model is loaded and warm", 503, content=()),
            },
            "/v2": {"get": _get("Metadata of the server")},
            "/v2/health/live": {"get": _open(_get("Whether the server runs", content=()))},
            "/v2/health/ready": {"get": _open(_get("Whether all models are loaded and warm", 503, content=()))},
            "/v2/models/stats": {"get": _get("Counters of all models, as Triton's statistics")},
            "/v2/repository/index": {"post": _index()},
            "/engines": {"get": _get("The models for people", 503)},
            "/docs": {"get": _get("These operations in words", content=("text/html", "text/plain"))},
            "/metrics": {"get": _get("Metrics in Prometheus's text format", content=("text/plain",))},
        },
        "components": {"schemas": {"Error": {"type": "object", "properties": {"error": {"type": "string"}}}}},
    }
    if settings.api_key_file is not None:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _classify(models: list[str]) -> dict[str, Any]:
    binary = {"type": "string", "format": "binary"}
    return {
        "summary": "Classify image files: a row per image. For example: curl -T photo.jpg ADDRESS/classify/",
        "parameters": [
            _query("engine", {"type": "string", "enum": models}),
            _query("top_k", {"type": "integer", "minimum": 1, "maximum": 999_999_999, "default": 5}),
            _query("threshold", {"type": "number", "minimum": 0, "maximum": 1}),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": {"schema": binary},
                "application/octet-stream": {"schema": binary},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["file"],
                        "properties": {"file": {"type": "array", "items": binary, "minItems": 1}},
                    }
                },
            },
        },
        "responses": {
            "200": _content(
                "One row per image, in order; error says why there is none", {"type": "array", "items": _ROW}
            )
        }
        | _errors(400, 401, 404, 408, 413, 415, 503, 504),
    }


def _infer() -> dict[str, Any]:
    request = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {"type": "array", "items": _TENSOR, "minItems": 1, "maxItems": 1},
            "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
            "parameters": {"type": "object"},
        },
    }
    answer = {"type": "object", "properties": {"outputs": {"type": "array", "items": _TENSOR}}}
    return {
        "summary": "Open Inference Protocol: input pixels or image, outputs logits, probabilities, error; of a feature "
        "engine features, error",
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {"200": _content("The outputs", answer)} | _errors(400, 401, 404, 408, 413, 415, 500, 503, 504),
    }


def _index() -> dict[str, Any]:
    request = {"type": "object", "properties": {"ready": {"type": "boolean", "default": False}}}
    row = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in ("name", "version", "state", "reason")},
    }
    return {
        "summary": "Names, versions and states of the models",
        "requestBody": {"required": False, "content": {"application/json": {"schema": request}}},
        "responses": {"200": _content("A row per model", {"type": "array", "items": row})}
        | _errors(400, 401, 408, 413, 415, 503),
    }


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _get(summary: str, *also: int, content: tuple[str, ...] = ("application/json",)) -> dict[str, Any]:
    good: dict[str, Any] = {"description": summary} | ({"content": {kind: {} for kind in content}} if content else {})
    return {"summary": summary, "responses": {"200": good} | _errors(401, 404, *also)}


def _open(operation: dict[str, Any]) -> dict[str, Any]:
    return operation | {"security": []}


def _errors(*statuses: int) -> dict[str, Any]:
    return {
        str(s): _content("Refused, for the reason in error", {"$ref": "#/components/schemas/Error"}) for s in statuses
    }


def _content(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}
