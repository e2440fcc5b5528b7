"""The curves of a run for TensorBoard.

torch's ``SummaryWriter`` puts the host name into the name of the file; this one says nothing about the machine.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]


class EventWriter:
    """Appends scalars to a new event file in ``folder``, which exists."""

    def __init__(self, folder: Path) -> None:
        now = time.time()
        self._records = RecordWriter((folder / f"events.out.tfevents.{int(now)}.training").open("ab"))
        self._records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Write the values of one step, and flush them."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        self._records.write(event.SerializeToString())
        self._records.flush()

    def close(self) -> None:
        """Close the file."""
        self._records.close()
