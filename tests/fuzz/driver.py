"""Run cases in worker processes. A worker that hangs or dies is one fault, and another one goes on."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import multiprocessing as mp
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.fuzz.kind import CaseError, Kind, Result, run_case

LIMIT_S = 60.0
"""For one case. The slowest, an engine that is built, takes a second; a busy machine makes it ten."""
MEMORY_BYTES = 4 << 30
"""What a case may need besides what its worker has; the largest image that is allowed takes 2 GB."""
_CHUNK = 16
_PREPARE_S = 300.0  # to load libraries, and to make what all cases of a kind share

Task = tuple[str, int]
"""A kind and a seed."""


class Workers:
    """Worker processes that live until the end of the ``with`` block."""

    def __init__(
        self,
        count: int = 1,
        *,
        limit_s: float = LIMIT_S,
        keep: Path | None = None,
        quiet: bool = True,
        kinds: str = "tests.fuzz.kinds",
    ) -> None:
        """``keep`` is a folder that gets the files of each fault; not ``quiet`` shows what libraries print.

        ``kinds`` is the module with the dictionary ``KINDS``.
        """
        self._limit_s = limit_s
        self._folder = Path(tempfile.mkdtemp(prefix="alexnet-deploy-fuzz-"))
        self._workers = [_Worker(self._folder, keep, quiet, kinds) for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """The result of each task, in the order in which they end."""
        waiting = deque(tasks)
        for worker in self._workers:
            worker.give(waiting)
        while busy := [worker for worker in self._workers if worker.current is not None]:
            ready = wait([worker.pipe for worker in busy], timeout=1.0)
            for worker in busy:
                if worker.pipe in ready:
                    result = worker.receive()
                    if result is None:
                        continue
                elif time.monotonic() - worker.since > (self._limit_s if worker.is_prepared else _PREPARE_S):
                    result = worker.give_up("hang", f"no answer within {self._limit_s:g} s")
                else:
                    continue
                yield result
                if worker.current is None:
                    worker.give(waiting)
        assert not waiting


class _Worker:
    def __init__(self, *arguments: object) -> None:
        self._arguments = arguments
        self._chunk: deque[Task] = deque()
        self._begin()

    def _begin(self) -> None:
        self.pipe, other = mp.Pipe()
        self._process = mp.get_context("spawn").Process(target=_work, args=(other, *self._arguments), daemon=True)
        self._process.start()
        other.close()
        self._prepared: set[str] = set()
        self.since = time.monotonic()

    @property
    def current(self) -> Task | None:
        return self._chunk[0] if self._chunk else None

    @property
    def is_prepared(self) -> bool:
        return self._chunk[0][0] in self._prepared

    def give(self, waiting: deque[Task]) -> None:
        self._chunk = deque(waiting.popleft() for _ in range(min(_CHUNK, len(waiting))))
        self._send()

    def _send(self) -> None:
        if self._chunk:
            self.since = time.monotonic()
            self.pipe.send(list(self._chunk))

    def receive(self) -> Result | None:
        """The result of a case; None: the worker is about to begin the first case of a kind."""
        try:
            result: Result | str | None = self.pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode or 0
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return self.give_up("traceback", f"the process died: {name}")
        if isinstance(result, str):
            raise RuntimeError(f"{self._chunk[0][0]}: its cases cannot be made:\n{result}")
        self.since = time.monotonic()
        if result is None:
            self._prepared.add(self._chunk[0][0])
        else:
            self._chunk.popleft()
        return result

    def give_up(self, outcome: Any, detail: str) -> Result:
        """End the process, and begin another one for the rest of the chunk."""
        self.stop()
        kind, seed = self._chunk.popleft()
        self._begin()
        self._send()
        return Result(kind, seed, outcome, detail)

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _work(pipe: Connection, root: Path, keep: Path | None, quiet: bool, module: str) -> None:
    if quiet:  # libraries in C print what they think of a damaged file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
    else:
        faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    own = Path(tempfile.mkdtemp(dir=root))
    os.environ["ALEXNET_DEPLOY_CACHE"] = str(own / "cache")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        known: dict[str, Kind] = importlib.import_module(module).KINDS  # late: libraries read the environment
    except Exception:
        pipe.recv()
        pipe.send(traceback.format_exc())
        raise
    kinds: dict[str, Kind] = {}
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            for name, seed in pipe.recv():
                if name not in kinds:
                    kinds[name] = known[name]
                    (own / name).mkdir(parents=True)
                    try:
                        kinds[name].prepare(own / name)
                    except Exception:  # no fault of a reader
                        pipe.send(traceback.format_exc())
                        raise
                    pipe.send(None)
                try:
                    result: Result | str = _run(kinds[name], seed, own, keep)
                except CaseError:
                    result = traceback.format_exc()
                pipe.send(result)


def _run(kind: Kind, seed: int, own: Path, keep: Path | None) -> Result:
    folder = own / "case"
    folder.mkdir()
    (own / "seed").write_text(f"{kind.name} {seed}")
    try:
        with _memory_limit():
            result = run_case(kind, seed, folder)
    except MemoryError:
        result = Result(kind.name, seed, "traceback", f"it needs more than {MEMORY_BYTES >> 30} GiB")
    except CaseError:
        shutil.rmtree(folder)
        raise
    except BaseException as exc:
        trace = "".join(traceback.format_exception(exc)[-12:])
        result = Result(kind.name, seed, "traceback", f"{type(exc).__name__}: {exc}"[:300], trace)
    if keep is not None and result.is_fault:
        target = keep / f"{kind.name}-{seed}".replace("/", "-")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target, symlinks=True, ignore=_no_plain_file)
        (target / "fault.txt").write_text(f"{result.outcome}: {result.detail}\n{result.what}\n", errors="replace")
    shutil.rmtree(folder)
    return result


def _no_plain_file(folder: str, names: list[str]) -> list[str]:
    paths = ((name, Path(folder, name)) for name in names)
    return [name for name, path in paths if not (path.is_symlink() or path.is_dir() or path.is_file())]


@contextlib.contextmanager
def _memory_limit() -> Iterator[None]:
    """What the process has now and ``MEMORY_BYTES`` more; runtimes reserve far more addresses than they use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # no Linux
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
