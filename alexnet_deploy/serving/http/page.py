"""The page at ``/``: three files without a build step, read once."""

from __future__ import annotations

from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}


def page_routes() -> list[Route]:
    """A route per file; no text of a request is part of a path."""
    folder = resources.files("alexnet_deploy") / "serving" / "http" / "static"
    return [_route(path, (folder / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()]


def _route(path: str, content: bytes, kind: str) -> Route:
    async def page(request: Request) -> Response:
        request.scope["facts"]["operation"] = "page"
        return Response(content, headers={"content-type": kind})

    return Route(path, page)
