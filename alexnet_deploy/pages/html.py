"""HTML pages: one Jinja environment, the way numbers are written in it, and one function that writes a page."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from alexnet_deploy.files import atomic_file

DASH = "\N{EN DASH}"


@functools.cache  # it holds the compiled templates
def environment(*packages: str, **filters: Callable[..., Any]) -> jinja2.Environment:
    """Return the environment of ``templates/``: everything is escaped, and an unknown name is an error.

    ``packages`` are those with a folder ``templates`` of their own, whose pages include the styles of this room.
    ``filters`` are added to ``fixed``, ``signed``, ``number``, ``count``, ``mib`` and ``moment``.
    """
    found = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(each) for each in (*packages, "alexnet_deploy.pages")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "fixed": lambda value, digits: f"{round(value, digits) + 0.0:.{digits}f}",  # never -0.0
        "signed": lambda value, digits: f"{value:+.{digits}f}",
        "number": number,
        "count": lambda value: f"{value:,}",
        "mib": lambda value: DASH if value is None else number(value / 2**20),
        "moment": _moment,
    } | filters
    return found


def number(value: float | None) -> str:
    """Return three significant digits, without an exponent where possible; a dash for None."""
    if value is None:
        return DASH
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:#.3g}"


def write_html(html: str, path: Path) -> None:
    """Write ``html`` to ``path``, atomically; UnavailableError if it cannot be written."""
    with atomic_file(path) as temporary:
        # A file name need not be valid text: its odd bytes become \\udcXX, as in the JSON.
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")


def _moment(text: str) -> str:
    """Return a time for people; text that is not a time stays unchanged."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError):
        return text
