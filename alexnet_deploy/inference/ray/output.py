"""The output of a run on many machines: a folder of Parquet parts, on a disk or in an object store.

    answers/
      _run.json                                        what shapes the rows, and how many images there are
      part-0000000000-0000001024-5f0a11c390bd.parquet  rows 0 up to 1024; the last field is a hash of _run.json
      part-0000001024-0000002048-5f0a11c390bd.parquet

A part is written whole or not at all, by the one process that gave the work. So a part that exists is finished, and a
run that was ended goes on with those that do not. Programs that read folders of Parquet pass over names with ``_``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alexnet_deploy.errors import DeployError, UnavailableError, UsageError, one_line
from alexnet_deploy.inference.parquet import schema_of
from alexnet_deploy.inference.prediction import Outputs
from alexnet_deploy.inference.ray.folders import Folder
from alexnet_deploy.inference.ray.parts import Part
from alexnet_deploy.inference.run_settings import ADDED_SETTINGS
from alexnet_deploy.json_format import JsonFormat

RECORD = "_run.json"
_FORMAT = JsonFormat("record of a run", 1, "discard the run with `overwrite`", max_bytes=1 << 20)
_PART = re.compile(r"part-(\d{10})-(\d{10})-[0-9a-f]{12}\.parquet")
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Content of ``_run.json``: a run with any other value has other rows, or the same rows elsewhere."""

    settings: dict[str, str]
    images: int
    part_size: int
    names: str
    """SHA-256 of the names of all images."""

    @property
    def fingerprint(self) -> str:
        """What the names of its parts end in."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def check_output(folder: Folder, *, resume: bool, overwrite: bool) -> bool:
    """Whether ``folder`` holds a run; raises what ``begin`` would, as far as it follows from the folder alone."""
    found = folder.names()
    if RECORD not in found and any(not name.startswith(".") for name in found):
        raise UsageError(f"`output` {folder}: is not empty, and holds no run on Ray; choose a new folder")
    parts = sum(map(_is_part, found))  # none: a run that failed before its first one is no loss
    if RECORD in found and parts and not (resume or overwrite):
        raise UsageError(
            f"`output` {folder}: holds {parts} parts of a run; go on with `resume`, or discard them with `overwrite`"
        )
    return RECORD in found


def begin(
    folder: Folder,
    record: RunRecord,
    parts: Iterable[Part],
    *,
    outputs: Outputs = "top",
    resume: bool,
    overwrite: bool,
) -> dict[int, int]:
    """Make ``folder`` ready for ``record``; returns where the parts start that are finished, and how many of
    their rows are errors. A part that cannot be read, or has not the columns of ``outputs``, is computed again.

    Raises what ``check_output`` raises, and UsageError if ``resume`` finds a run with other settings or images.
    """
    if check_output(folder, resume=resume, overwrite=overwrite):
        if resume:
            _refuse_difference(
                folder, _FORMAT.decode(folder.read(RECORD), RunRecord, source=f"{folder}/{RECORD}"), record
            )
            found = folder.names()
            tried = {
                part.start: _failed_rows(folder, name, part, outputs)
                for part in parts
                if (name := part_name(part, record)) in found
            }
            return {start: failed for start, failed in tried.items() if failed is not None}
        # The record goes last: whatever a kill leaves is a run that can be discarded again.
        for name in filter(_is_part, folder.names()):
            folder.remove(name)
        folder.remove(RECORD)
    folder.write(RECORD, (json.dumps({"schema": _FORMAT.schema} | asdict(record), indent=1) + "\n").encode())
    return {}


def part_name(part: Part, record: RunRecord) -> str:
    """Sorted by name, parts are in the order of the images."""
    return f"part-{part.start:010}-{part.stop:010}-{record.fingerprint}.parquet"


def refuse_missing(folder: Folder, record: RunRecord, parts: Iterable[Part]) -> None:
    """UnavailableError unless ``folder`` holds exactly the parts of ``record``."""
    wanted = {part_name(part, record) for part in parts}
    found = {name for name in folder.names() if _is_part(name)}
    if wanted - found:
        raise UnavailableError(f"{folder}: lacks {len(wanted - found)} of {len(wanted)} parts; go on with `resume`")
    if found - wanted:
        raise UnavailableError(
            f"{folder}: another run wrote parts into it ({min(found - wanted)}); give each run a folder of its own"
        )


def _is_part(name: str) -> bool:
    return _PART.fullmatch(name) is not None


def _failed_rows(folder: Folder, name: str, part: Part, outputs: Outputs) -> int | None:
    """How many rows of a part are errors, by its footer; None if it lacks rows or cannot be read."""
    try:
        file = pq.ParquetFile(BytesIO(folder.read(name)))
    except pa.ArrowException:
        return None
    metadata = file.metadata
    if metadata.num_rows != part.rows or not file.schema_arrow.equals(schema_of(outputs)):
        return None
    failed = 0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        statistics = _chunk(group, "error").statistics
        if group.num_rows and statistics is None:
            return None
        failed += int(group.num_rows - statistics.null_count) if group.num_rows else 0
    return failed


def _chunk(group: Any, column: str) -> Any:
    return next(chunk for chunk in map(group.column, range(group.num_columns)) if chunk.path_in_schema == column)


def _refuse_difference(folder: Folder, old: RunRecord, new: RunRecord) -> None:
    def refuse(what: str, before: object, now: object) -> DeployError:
        return UsageError(
            f"`resume`: {folder} was begun with {what} {_short(before)}, this run has {_short(now)}; use the same, or "
            "discard its rows with `overwrite`"
        )

    before, now = (ADDED_SETTINGS | record.settings for record in (old, new))
    for key in before | now:
        if before.get(key) != now.get(key):
            raise refuse(key, before.get(key), now.get(key))
    for key in ("images", "part_size"):
        if getattr(old, key) != getattr(new, key):
            raise refuse(key, getattr(old, key), getattr(new, key))
    if old.names != new.names:
        raise UsageError(
            f"`resume`: {folder} was begun with {old.images} images of other names or in another order; name the same, "
            "or choose a new folder"
        )


def _short(value: object) -> str:
    return one_line(value, _SHOWN)
