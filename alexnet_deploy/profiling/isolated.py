"""A separate process for each measured engine: a fresh heap, no threads of other runtimes, no shared crash.

``IsolatedProcess.call`` runs a function of a module there. Its name, arguments and result are JSON on a separate
connection: libraries may print to the standard output, and a process that a hostile model has taken over could run
code here through a pickle. ``multiprocessing`` is no alternative: its child runs the caller's script again, and does
not end inside a library's call when its caller is killed.
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
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, Pipe
from typing import Any, NoReturn, Self, TypeVar, TypeVarTuple, get_type_hints

import msgspec

from alexnet_deploy import errors
from alexnet_deploy.errors import DeployError, UnavailableError

_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")

# The same modules as here, and no others: `-m` would look into the current folder first.
_CHILD = f"import sys; sys.path[:] = sys.argv[2:]; from {__name__} import serve; serve(int(sys.argv[1]))"


class IsolatedProcess:
    """A fresh interpreter for the length of a ``with`` block; it also ends when this process does.

    ``subject`` is what it measures: errors name it if the process is killed or crashes.
    """

    def __init__(self, subject: str, environment: Mapping[str, str] | None = None) -> None:
        """``environment`` is what its environment has besides that of this process."""
        self._subject = subject
        self._environment = environment or {}

    def __enter__(self) -> Self:
        self._connection, theirs = Pipe()
        with theirs, _holding_ctrl_c():
            # The standard output of libraries goes to the standard error.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **self._environment},
            )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()  # it holds nothing that outlives it
        self._process.wait()
        self._connection.close()

    def call(self, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
        """The result of ``function``, a function of a module, in the process.

        Raises the DeployError that it raises there, UnavailableError with ``subject`` if the process was killed,
        crashed, or ended with the traceback of another exception, KeyboardInterrupt if Ctrl-C ended it.
        """
        with contextlib.suppress(OSError):  # data that it sent before its end can still be read
            self._connection.send_bytes(_encode(function.__module__, function.__qualname__, *arguments))
        try:
            error, message, raw = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            self._raise_end(self._process.wait())
        if error:
            raise getattr(errors, error)(message)
        result: _Result = _decode(raw, get_type_hints(function).get("return", Any))
        return result

    def _raise_end(self, code: int) -> NoReturn:
        if code == -signal.SIGINT:
            raise KeyboardInterrupt  # a shell lets its background processes ignore Ctrl-C, and only those
        if code >= 0:
            end = f"ended with code {code}; see its messages above"
        elif -code == signal.SIGKILL:
            end = "was killed (SIGKILL), probably for lack of memory; free some, or choose a smaller batch"
        else:
            end = f"ended by {signal.Signals(-code).name}; try another `runtime`"
        raise UnavailableError(f"{self._subject}: the process that measured it {end}")


@contextlib.contextmanager
def _holding_ctrl_c() -> Iterator[None]:
    """A process that is started in the block gets Ctrl-C only when it asks for it: the imports print a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_caller: Connection[Any, Any]
"""Of this process, if ``serve`` runs it."""


def serve(connection: int) -> NoReturn:
    """The main loop of the process: call the requested functions one after the other.

    An exception other than DeployError ends it with its traceback.
    """
    global _caller
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it inside a library's call as well, without a traceback
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.set_inheritable(connection, False)
    _caller = Connection(connection)
    requests: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    while True:
        try:
            module, name, *raw = json.loads(requests.get())
            function = getattr(importlib.import_module(module), name)
            kinds = [*get_type_hints(function).values()] or [Any] * len(raw)  # the last is that of the result
            given = [_decode(each, kind) for each, kind in zip(raw, kinds, strict=False)]
            _caller.send_bytes(_encode("", "", function(*given)))
        except DeployError as exc:
            _send_error(exc)
        except BaseException as exc:
            end_with(exc)


def end_with(exc: BaseException) -> NoReturn:
    """End the process of ``serve`` with ``exc``, from any thread: Python cannot stop the threads of a library."""
    if isinstance(exc, DeployError):
        _send_error(exc)
    else:
        traceback.print_exception(exc)
    sys.stderr.flush()
    os._exit(1)


def _send_error(exc: DeployError) -> None:
    _caller.send_bytes(_encode(type(exc).__name__, str(exc), None))


def _encode(*values: Any) -> bytes:
    """Dataclasses, tuples, numbers, text and paths as a list in JSON."""
    return json.dumps([msgspec.to_builtins(each, enc_hook=str, str_keys=True) for each in values]).encode()


def _decode(raw: Any, kind: Any) -> Any:
    """The value that ``_encode`` encoded, checked against ``kind``."""
    return msgspec.convert(raw, kind, dec_hook=lambda wanted, text: wanted(text), str_keys=True)


def _read_requests(requests: queue.Queue[bytes]) -> None:
    """When they end, the process that sent them has ended: nobody waits for an answer, and the cores must be free."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            requests.put(_caller.recv_bytes())
    os._exit(1)
