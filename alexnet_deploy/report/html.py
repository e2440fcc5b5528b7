"""The HTML pages of this room: one Jinja environment, and one function that writes a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from alexnet_deploy.files import atomic_file


def environment(**filters: Any) -> jinja2.Environment:
    """Return the environment of ``templates/``: everything is escaped, and an unknown name is an error."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("alexnet_deploy.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= filters
    return found


def write_html(html: str, path: Path) -> None:
    """Write ``html`` to ``path``, atomically; UnavailableError if it cannot be written."""
    with atomic_file(path) as temporary:
        # A file name need not be valid text: its odd bytes become \\udcXX, as in the JSON.
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")
