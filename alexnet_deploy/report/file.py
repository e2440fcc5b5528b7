"""``report.json`` on disk.

A report is read as an untrusted file: its size is bounded, unknown fields and wrong types are refused, numbers are
finite, and what belongs together is checked to do so.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.files import atomic_file
from alexnet_deploy.report.data import SCHEMA, Report, runs

MAX_REPORT_BYTES = 64 << 20
"""A report of five engines is some 100 KiB."""

_REPORT = TypeAdapter(Report)


def write_report(report: Report, path: Path) -> None:
    """Write ``report`` to ``path``, atomically; UnavailableError where it cannot be written."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(to_json(report) + b"\n")


def to_json(report: Report, *, indent: int | None = 1) -> bytes:
    """The report as UTF-8 JSON."""
    return _REPORT.dump_json(report, indent=indent)


def read_report(path: Path) -> Report:
    """Read and check what ``write_report`` wrote.

    Raises InputError where there is nothing to read, ArtifactError where it is damaged, edited or of another schema.
    """
    again = "measure again: alexnet-deploy report --data FOLDER"
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_REPORT_BYTES + 1)
    except FileNotFoundError as exc:
        raise InputError(f"{path}: there is no such report; measure one: alexnet-deploy report --data FOLDER") from exc
    except OSError as exc:
        raise InputError(f"{path}: cannot be read ({exc.strerror}); name a report.json") from exc
    if len(text) > MAX_REPORT_BYTES:
        raise ArtifactError(f"{path}: too large for a report; {again}")
    try:
        report = _REPORT.validate_json(text)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        if where == "schema" and first["type"] != "missing":
            raise ArtifactError(
                f"{path}: report schema {str(first['input'])[:20]}, this version reads {SCHEMA}; {again}, or use the "
                "alexnet-deploy that wrote it"
            ) from exc
        raise ArtifactError(f"{path}: is not a valid report ({where and where + ': '}{first['msg']}); {again}") from exc
    if (cause := _contradiction(report)) is not None:
        raise ArtifactError(f"{path}: contradicts itself ({cause}); {again}")
    return report


def _contradiction(report: Report) -> str | None:
    """What no measurement writes, though each field alone is valid."""
    names = [engine.name for engine in report.engines]
    if len(set(names)) < len(names):
        return "two engines have one name"
    if len(report.labels) != len(report.class_ids):
        return f"{len(report.labels)} labels, {len(report.class_ids)} class ids"
    for engine in report.engines:
        pair = engine.beside_first
        if (pair is None) != (engine is report.engines[0]):
            return f"{engine.name}: only the first engine is not compared with the first"
        if pair is not None and any(not 0 <= row.target < len(report.labels) for row in pair.classes):
            return f"{engine.name}: a class has no label"
        batches = [run.batch for run in runs(engine)]
        if len(set(batches)) < len(batches):
            return f"{engine.name}: two runs have one batch size"
        if any(list(run.quantiles_ms) != sorted(run.quantiles_ms) for run in runs(engine)):
            return f"{engine.name}: quantiles do not rise"
        for row in engine.reliability:
            if (row.images == 0) != (row.accuracy_percent is None or row.confidence_percent is None):
                return f"{engine.name}: a bin has a share without images"
    return None
