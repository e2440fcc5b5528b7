"""A process of its own for each engine that is measured: a fresh heap, no other runtime's threads, no shared crash.

``IsolatedProcess.call`` runs a function of a module there. Name and arguments go in on the standard input, the result
comes back through a pipe of its own, both as lines of JSON: libraries may print to the standard output. msgspec
converts arguments and results by the annotations of the function: dataclasses, tuples, numbers, text, and paths.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn, Self, TypeVar, TypeVarTuple, get_type_hints

import msgspec

from alexnet_deploy import errors
from alexnet_deploy.errors import DeployError, UnavailableError

_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")

# The same modules as here, wherever they come from, and no others: `-m` would look into the current folder first.
_CHILD = f"import sys; sys.path[:] = sys.argv[2:]; from {__name__} import serve; serve(int(sys.argv[1]))"


class IsolatedProcess:
    """A fresh interpreter for the length of a ``with`` block; it also ends when this process does.

    ``subject`` is what it measures: errors name it where the process is killed or crashes.
    """

    def __init__(self, subject: str) -> None:
        self._subject = subject

    def __enter__(self) -> Self:
        ours, theirs = os.pipe()
        self._results: IO[bytes] = open(ours, "rb")
        try:
            # What libraries print to the standard output goes to the standard error: the former is for the result.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(theirs), *sys.path],
                stdin=subprocess.PIPE,
                stdout=2,
                pass_fds=[theirs],
            )
        except BaseException:
            self._results.close()
            raise
        finally:
            os.close(theirs)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()  # it holds nothing that outlives it
        self._process.wait()
        self._results.close()
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.close()

    def call(self, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
        """The result of ``function``, a function of a module, in the process.

        Raises the DeployError that it raises there, UnavailableError with ``subject`` where the process was killed,
        crashed, or ended with the traceback of another exception, KeyboardInterrupt where Ctrl-C ended it.
        """
        name = [function.__module__, function.__qualname__]
        request = json.dumps(name + [msgspec.to_builtins(each, **_OUT) for each in arguments])
        assert self._process.stdin is not None  # it is a pipe
        with contextlib.suppress(BrokenPipeError):  # what it sent before it ended is still there to read
            self._process.stdin.write(request.encode() + b"\n")
            self._process.stdin.flush()
        line = self._results.readline()
        if not line:
            self._raise_end(self._process.wait())
        answer = json.loads(line)
        if "error" in answer:
            kind, message = answer["error"]
            raise getattr(errors, kind)(message)
        result: _Result = msgspec.convert(answer["result"], get_type_hints(function)["return"], **_IN)
        return result

    def _raise_end(self, code: int) -> NoReturn:
        if code == -signal.SIGINT:
            raise KeyboardInterrupt  # a shell lets what it starts in the background ignore it, and that one only
        if code >= 0:
            end = f"ended with code {code}; its messages stand above"
        elif -code == signal.SIGKILL:
            end = "was killed (SIGKILL), as for lack of memory; free some, or choose a smaller batch"
        else:
            end = f"ended by {signal.Signals(-code).name}; try another `runtime`"
        raise UnavailableError(f"{self._subject}: the process that measured it {end}")


_results: IO[bytes]
"""Where this process, if ``serve`` runs it, sends what its caller waits for."""


def serve(results: int) -> NoReturn:
    """What the process does: call what it is asked for, one function after the other.

    An exception other than DeployError ends it with its traceback.
    """
    global _results
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it inside a library's call as well, without a traceback
    os.set_inheritable(results, False)
    _results = open(results, "wb")  # noqa: SIM115 - as long as the process lives
    requests: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    while True:
        try:
            _send("result", _call(requests.get()))
        except DeployError as exc:
            _send("error", [type(exc).__name__, str(exc)])
        except BaseException as exc:
            end_with(exc)


def end_with(exc: BaseException) -> NoReturn:
    """End the process that ``serve`` runs by ``exc``, from whichever thread: Python cannot stop those of a library."""
    if isinstance(exc, DeployError):
        _send("error", [type(exc).__name__, str(exc)])
    else:
        traceback.print_exception(exc)
    sys.stderr.flush()
    os._exit(1)


def _call(request: bytes) -> Any:
    module, name, *arguments = json.loads(request)
    function = getattr(importlib.import_module(module), name)
    hints = get_type_hints(function)
    del hints["return"]
    given = [msgspec.convert(raw, hint, **_IN) for raw, hint in zip(arguments, hints.values(), strict=True)]
    return msgspec.to_builtins(function(*given), **_OUT)


def _send(kind: str, what: Any) -> None:
    _results.write(json.dumps({kind: what}).encode() + b"\n")
    _results.flush()


def _read_requests(requests: queue.Queue[bytes]) -> None:
    """When they end, the process that sent them has ended: nobody waits for an answer, and the cores must be free."""
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(1)


def _path_out(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError


def _path_in(kind: type, value: object) -> object:
    if issubclass(kind, Path):
        return Path(str(value))
    raise NotImplementedError


_OUT: dict[str, Any] = {"enc_hook": _path_out, "str_keys": True}
_IN: dict[str, Any] = {"dec_hook": _path_in, "str_keys": True}
