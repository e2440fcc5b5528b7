"""Spans of OpenTelemetry where its API is installed; nothing otherwise.

The API alone records nothing: the operator brings the SDK, as ``opentelemetry-instrument alexnet-deploy serve``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

try:
    _trace: Any = importlib.import_module("opentelemetry.trace")
    _propagate: Any = importlib.import_module("opentelemetry.propagate")
except ModuleNotFoundError:
    _trace = _propagate = None

_NOTHING: AbstractContextManager[Any] = nullcontext()


def span(name: str, *, parent: Mapping[str, str] | None = None, **attributes: str | int) -> AbstractContextManager[Any]:
    """A span for the length of the block; ``parent`` are headers, of which ``traceparent`` counts."""
    if _trace is None:
        return _NOTHING
    context = None if parent is None else _propagate.extract(parent)
    return _trace.get_tracer("alexnet_deploy").start_as_current_span(  # type: ignore[no-any-return]
        name, context=context, attributes=attributes
    )
