"""``NAME@RUNTIME``: an engine and the runtime to open it on, in one word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexnet_deploy.errors import UsageError
from alexnet_deploy.runtime.select import RUNTIMES


def split_runtime(
    text: str, *, store: Path | None = None, known: Sequence[str] = ("auto", *RUNTIMES)
) -> tuple[str, str | None]:
    """Split ``alexnet-int8@openvino`` into engine and runtime; the runtime is None where the text has none.

    A file or folder of that whole name, or a bundle of that name in ``store``, is not split. Raises UsageError for a
    runtime that is not one of ``known``.
    """
    name, at, runtime = text.rpartition("@")
    if not at or Path(text).exists() or (store is not None and (store / text).exists()):
        return text, None
    if runtime not in known:
        raise UsageError(f"{text}: {runtime!r} is not a runtime; write NAME@RUNTIME with one of {', '.join(known)}")
    return name, runtime
