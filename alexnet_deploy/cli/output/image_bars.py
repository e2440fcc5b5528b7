"""The progress bar of images: how many, how fast, how long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from rich.progress import Progress, ProgressColumn, Task, TaskID, TimeElapsedColumn
from rich.text import Text

from alexnet_deploy.cli.output.terminal import progress_bars


def image_bars() -> Progress:
    """The bars with images per second: all there is to say until the total is known."""
    bars = progress_bars()
    bars.columns = (*bars.columns, _Speed(), TimeElapsedColumn())
    return bars


class _Speed(ProgressColumn):
    """Images per second of late, once there is more than a first batch to tell it by."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} images/s" if task.speed and (task.elapsed or 0) > 2 else "")


def count_meanwhile(bars: Progress, task: TaskID, images: Callable[[], Iterable[object]]) -> None:
    """Give the bar its total as soon as a second listing of the folders has ended, so that no image waits for it."""

    def count() -> None:
        bars.update(task, total=sum(1 for _ in images()))

    threading.Thread(target=count, daemon=True, name="count").start()
