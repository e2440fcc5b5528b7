"""Verdicts of earlier comparisons, so that a model is tried once per content, runtime version and machine."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy import __version__
from alexnet_deploy.errors import DeployError
from alexnet_deploy.files import atomic_file, cache_folder
from alexnet_deploy.json_format import JsonFormat

_FORMAT = JsonFormat("verdict", 1, "it is measured again", max_bytes=64 << 10)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a comparison: None, or the reason that the answers cannot be trusted."""

    reason: str | None
    notes: tuple[str, ...] = ()
    may_change: bool = False
    """What hindered the comparison may pass, such as too little memory: it is tried again next time."""


def remembered(key: Mapping[str, str], compare: Callable[[], Verdict]) -> Verdict:
    """The verdict of ``compare`` for ``key``, from the cache folder if an earlier run has left it there.

    ``key`` holds everything that the verdict depends on, besides the version of this package. A cache that cannot be
    read or written costs only time. Errors of ``compare`` pass. They are not remembered, nor is a verdict that may
    change.
    """
    try:
        file = _file_of(key)
    except (DeployError, RuntimeError):  # no home directory
        return compare()
    with contextlib.suppress(DeployError, OSError):
        return _FORMAT.read(file, Verdict)
    verdict = compare()
    if verdict.may_change:
        return verdict
    with contextlib.suppress(DeployError, OSError), atomic_file(file) as temporary:
        raw = {"schema": _FORMAT.schema} | dataclasses.asdict(verdict)
        temporary.write_text(json.dumps(raw) + "\n", encoding="utf-8")
    return verdict


def _file_of(key: Mapping[str, str]) -> Path:
    text = json.dumps({"version": __version__} | dict(key), sort_keys=True)  # ASCII: JSON escapes everything else
    return cache_folder() / "verdicts" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
