"""Calls that may never return, in threads that do not keep the process alive."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from alexnet_deploy.serving.engines.priority import after_the_loop

T = TypeVar("T")


class Loads:
    """Loads of engines. A driver or a network disk that does not answer blocks its thread, and nobody can end it."""

    def __init__(self) -> None:
        self._threads: set[threading.Thread] = set()

    async def run(self, load: Callable[[], T], discard: Callable[[T], None]) -> T:
        """The result of ``load``. If the caller is cancelled meanwhile, ``discard`` gets it once it is there."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            after_the_loop()  # the engine's own threads start from here
            try:
                _work(load, discard, future, loop)
            finally:
                self._threads.discard(thread)

        thread = threading.Thread(target=work, daemon=True, name="load")
        self._threads.add(thread)
        thread.start()
        return await future

    async def ended(self, within_s: float) -> bool:
        """Whether all loads have ended, after ``within_s`` at most."""
        deadline = time.monotonic() + within_s
        for thread in list(self._threads):
            await asyncio.to_thread(thread.join, max(deadline - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in list(self._threads))


def _work(
    load: Callable[[], T], discard: Callable[[T], None], future: asyncio.Future[T], loop: asyncio.AbstractEventLoop
) -> None:
    try:
        result = load()
    except BaseException as exc:
        error = exc  # ``exc`` is gone when ``fail`` runs

        def fail() -> None:
            if not future.done():
                future.set_exception(error)

        _on(loop, fail)
        return

    def succeed() -> None:
        if future.done():
            discard(result)
        else:
            future.set_result(result)

    if not _on(loop, succeed):
        discard(result)


def _on(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> bool:
    """Whether ``call`` will run on ``loop``, which may have ended."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        return False
    return True
