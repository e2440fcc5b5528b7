"""``/docs``: the OpenAPI document for people, as a page and, for curl, as text. Both load nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Any

_METHODS = ("get", "post", "put")


@dataclass(frozen=True, slots=True)
class _Operation:
    """One operation in words: each line is a term and what it means."""

    method: str
    path: str
    summary: str
    lines: list[tuple[str, str]] = field(default_factory=list)


def docs_text(document: dict[str, Any]) -> str:
    """All operations of an OpenAPI ``document`` as plain text."""
    info = document["info"]
    parts = [f"{info['title']} {info['version']}\n{info['description']}\n"]
    for operation in _operations(document):
        parts.append(f"{operation.method} {operation.path}\n    {operation.summary}")
        parts += [f"    {term}: {meaning}" for term, meaning in operation.lines]
        parts.append("")
    return "\n".join(parts)


def docs_html(document: dict[str, Any]) -> str:
    """The same as a page, with the style of the page at ``/``."""
    info = document["info"]
    articles = []
    for operation in _operations(document):
        rows = "".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in operation.lines)
        articles.append(
            f"<article><h2><code>{operation.method} {escape(operation.path)}</code></h2>"
            f"<p>{escape(operation.summary)}</p><dl>{rows}</dl></article>"
        )
    title = f"{escape(info['title'])} {escape(info['version'])}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title}: HTTP interface</title><link rel="icon" href="data:,"><link rel="stylesheet" href="page.css">'
        f"</head><body><header><h1>{title}</h1><p>{escape(info['description'])}</p></header>"
        f"<main>{''.join(articles)}</main>"
        '<footer><a href="./">Classify photos</a> · <a href="openapi.json">OpenAPI</a></footer></body></html>\n'
    )


def _operations(document: dict[str, Any]) -> Iterator[_Operation]:
    for path, item in document["paths"].items():
        for method in _METHODS:
            if (found := item.get(method)) is not None:
                parameters = [*item.get("parameters", []), *found.get("parameters", [])]
                lines = [(f"{one['in']} {one['name']}", _values(one["schema"])) for one in parameters]
                lines += _body(found)
                lines += _answers(found["responses"])
                yield _Operation(method.upper(), path, found["summary"], lines)


def _body(operation: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if (body := operation.get("requestBody")) is not None:
        for kind, content in body["content"].items():
            yield f"body {kind}", _values(content["schema"])


def _answers(responses: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The statuses that mean the same in one line."""
    statuses: dict[str, list[str]] = {}
    for status, answer in responses.items():
        kinds = ", ".join(answer.get("content", ())) or "no body"
        statuses.setdefault(f"{answer['description']} ({kinds})", []).append(status)
    for meaning, same in statuses.items():
        yield ", ".join(same), meaning


def _values(schema: dict[str, Any]) -> str:
    """A schema in words."""
    if "enum" in schema:
        text = "one of " + ", ".join(schema["enum"])
    elif schema.get("format") == "binary":
        text = "the bytes of a file"
    elif properties := schema.get("properties"):
        required = schema.get("required", ())
        names = [f"{name} ({_values(of)})" if name in required else f"[{name}]" for name, of in properties.items()]
        text = f"object of {', '.join(names)}"
    elif items := schema.get("items"):
        text = f"list of {_values(items)}"
    else:
        text = str(schema["type"])
    if "minimum" in schema and "maximum" in schema:
        text += f" from {schema['minimum']} to {schema['maximum']}"
    if "default" in schema:
        text += f", {schema['default']} if left out"
    return f"{text}. {schema['description']}" if "description" in schema else text
