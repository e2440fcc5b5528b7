"""The installed TensorRT: the full one (``tensorrt``), TensorRT-RTX (``tensorrt_rtx``), both, or none.

The two share one Python API, so ``build.plan_builder`` and ``tensorrt_runner`` take either as ``TensorRT.api``. It is
untyped (``Any``); tests/runtime/tensorrt/test_names.py proves that the names used exist in every version.
"""

from __future__ import annotations

import functools
import importlib
import logging
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from alexnet_deploy.errors import UnavailableError, one_line

FULL = "tensorrt"
RTX = "tensorrt_rtx"
EXTRA = {FULL: "gpu", RTX: "rtx"}
"""The extra of this package that installs each."""

_log = logging.getLogger(__name__)

_ERROR_PREFIX = re.compile(r"^.*?Error Code \d+: [^(]*\(")
_SOURCE_NOTE = re.compile(r"^\[[^\]]*\] |\.? ?In \S+ at /\S+")
_CONSEQUENCE = "[checkMacros"
"""TensorRT logs a line of this kind after most errors: it repeats the CUDA error state, never the cause."""


@dataclass(slots=True)
class Messages:
    """The important part of TensorRT's log; everything also goes to ``logging`` at DEBUG."""

    errors: deque[str] = field(default_factory=lambda: deque(maxlen=16))
    layers: str = ""
    """The builder's last report of its fused layers (its VERBOSE message ``Layers:``)."""

    def clear(self) -> None:
        self.errors.clear()
        self.layers = ""

    def cause(self) -> str:
        """The first error in one line."""
        return cause_in(self.errors)


@dataclass(frozen=True, slots=True, eq=False)
class TensorRT:
    """One loaded TensorRT."""

    name: str
    """``"tensorrt"`` or ``"tensorrt_rtx"``, as in ``bundle.Plan.builder``."""
    version: str
    api: Any
    logger: Any
    """The only logger of the process: TensorRT keeps the first one that it gets."""
    messages: Messages

    def __str__(self) -> str:
        return f"{'TensorRT-RTX' if self.name == RTX else 'TensorRT'} {self.version}"


@functools.cache
def load(name: str) -> TensorRT:
    """Import one of the two; UnavailableError with the reason and the extra to install if that fails.

    ``name`` may come from a manifest; no other module is ever imported.
    """
    if name not in EXTRA:
        raise UnavailableError(f"{name!r} is not a TensorRT that this version supports ({', '.join(EXTRA)})")
    hint = f"pip install 'alexnet-deploy[{EXTRA[name]}]'"
    try:
        api = importlib.import_module(name)
        if getattr(api, "__file__", None) is None:  # a folder without code, such as one of plans in the current folder
            raise UnavailableError(f"{name} is not installed (Python finds the folder {_folder_of(api)})", hint)
        messages = Messages()
        return TensorRT(name, api.__version__, api, _logger(api, messages), messages)
    except UnavailableError:
        raise
    except ModuleNotFoundError as exc:
        raise UnavailableError(f"{name} is not installed", hint) from exc
    except Exception as exc:  # a broken installation, or another module of that name, may raise anything
        cause = f"{type(exc).__name__}: {one_line(exc)}"
        raise UnavailableError(f"{name} is installed but does not load ({cause})", hint) from exc


def _folder_of(module: Any) -> str:
    return next(iter(module.__path__), "?")


def installed() -> dict[str, TensorRT]:
    """Every TensorRT that loads on this machine, by name."""
    found = {}
    for name in (FULL, RTX):
        try:
            found[name] = load(name)
        except UnavailableError as exc:
            _log.debug("%s", exc)
    return found


def cause_in(texts: Iterable[str]) -> str:
    """The cause from TensorRT's messages, without its source files, line numbers and C++ names."""
    lines = [line for text in texts for line in text.splitlines() if not line.startswith(_CONSEQUENCE)]
    cause = next((line for line in lines if "Error Code" in line), lines[0] if lines else "no reason given")
    return _SOURCE_NOTE.sub("", _ERROR_PREFIX.sub("", cause)).strip(" ().")


def kernel_profiler(api: Any, report: Callable[[str, float], None]) -> Any:
    """A profiler for an execution context that calls ``report`` with the name and the milliseconds of each kernel."""

    class Profiler(api.IProfiler):  # type: ignore[misc]  # the base comes from an untyped library
        def __init__(self) -> None:
            api.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            report(layer_name, ms)

    return Profiler()


def _logger(api: Any, messages: Messages) -> Any:
    class Logger(api.ILogger):  # type: ignore[misc]  # the base comes from an untyped library
        def __init__(self) -> None:
            api.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (api.ILogger.ERROR, api.ILogger.INTERNAL_ERROR):
                messages.errors.append(msg)
            elif msg.startswith("Layers:"):
                messages.layers = msg
            _log.debug("%s: %s", severity, msg)

    return Logger()
