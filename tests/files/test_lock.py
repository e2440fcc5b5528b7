"""A lock on a folder belongs to the process that took it."""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Event
from pathlib import Path

from alexnet_deploy.files.lock import only_writer


def _wait(begun: Event, end: Event) -> None:
    begun.set()
    end.wait()


def test_a_child_does_not_hold_it_on(tmp_path: Path) -> None:
    """Processes that decode images outlive a killed trainer for seconds, and it is to be resumed at once."""
    context = multiprocessing.get_context("fork")
    begun, end = context.Event(), context.Event()
    with only_writer(tmp_path, "output"):
        child = context.Process(target=_wait, args=(begun, end))
        child.start()
        begun.wait()
    try:
        with only_writer(tmp_path, "output"):
            pass
    finally:
        end.set()
        child.join()
