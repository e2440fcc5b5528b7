"""``report.json`` on disk, read without trust: nothing in it may break the page that is drawn from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec

from alexnet_deploy.errors import InputError
from alexnet_deploy.files import atomic_file
from alexnet_deploy.json_format import JsonFormat
from alexnet_deploy.profiling.latency import QUANTILES
from alexnet_deploy.report.data import EngineReport, Report

FORMAT = JsonFormat("report", 2, "measure again: alexnet-deploy report")

_SMALLEST, _LARGEST = 1e-9, 1e18
"""Bounds of the numbers that the page divides by, in the units of the fields; outside them its axes would overflow."""


def write_report(report: Report, path: Path) -> None:
    """Write ``report`` to ``path``, atomically; UnavailableError if it cannot be written."""
    with atomic_file(path) as temporary:
        temporary.write_text(to_json(report, indent=1) + "\n", encoding="utf-8")


def to_json(report: Report, *, indent: int | None = None) -> str:
    """Return the report as JSON."""
    raw = {"schema": FORMAT.schema} | msgspec.to_builtins(report)
    return json.dumps(raw, indent=indent, ensure_ascii=False, allow_nan=False)


def read_report(path: Path) -> Report:
    """Read and check a file of ``write_report``.

    Raises InputError if there is no such file, ArtifactError if it is damaged, edited or of another schema.
    """
    try:
        report = FORMAT.read(path, Report)
    except FileNotFoundError as exc:
        raise InputError(f"{path}: no such report; measure one: alexnet-deploy report") from exc
    with FORMAT.checking(str(path)):
        for contradiction in _contradictions(report):
            raise ValueError(contradiction)
    return report


def _contradictions(report: Report) -> Iterator[str]:
    """Yield errors that no measurement writes, though each field alone has the right type."""
    names = [engine.name for engine in report.engines]
    if len(set(names)) < len(names):
        yield "two engines have the same name"
    if len(report.labels) != len(report.class_ids):
        yield f"{len(report.labels)} labels, {len(report.class_ids)} class ids"
    for engine in report.engines:
        if (engine.delta is None) != (engine is report.engines[0]):
            yield f"{engine.name}: only the first engine is not compared with the first"
        if engine.delta is not None and any(not 0 <= row.target < len(report.labels) for row in engine.delta.classes):
            yield f"{engine.name}: a class has no label"
        selective = engine.result.accuracy.selective
        if selective is not None and not all(0 <= value <= 100 for point in selective.curve for value in point):
            yield f"{engine.name}: a point of its risk-coverage curve is not within 0..100 %"
        batches = [row.latency.batch for row in engine.rows]
        if len(set(batches)) < len(batches):
            yield f"{engine.name}: two rows have the same batch size"
        for what, value in _divisors(engine):
            if not _SMALLEST <= value <= _LARGEST:
                yield f"{engine.name}: {what} is {value}"
        for each in (row.latency for row in engine.rows):
            if len(each.samples_ns) != QUANTILES or list(each.samples_ns) != sorted(each.samples_ns):
                yield f"{engine.name}: its {len(each.samples_ns)} samples are not {QUANTILES} rising quantiles"
        for layer in engine.layers.rows if engine.layers is not None else ():
            numbers = (layer.flops, layer.median_us, layer.moved_bytes or 0, layer.limit_us or 0)
            if not all(number == 0 or _SMALLEST <= number <= _LARGEST for number in numbers):
                yield f"{engine.name}: a number of layer {layer.layer} is out of range"


def _divisors(engine: EngineReport) -> Iterator[tuple[str, float]]:
    """Yield the numbers that the page or ``recommend`` divides by or takes the logarithm of."""
    yield "model_bytes", engine.result.model_bytes
    yield "temperature", engine.result.temperature
    for row in engine.rows:
        yield "batch", row.latency.batch
        for name in ("min_ms", "median_ms", "max_ms", "images_per_s"):
            yield name, getattr(row.latency, name)
        yield "samples_ns", min(row.latency.samples_ns, default=0)
        for name in ("p90_ms", "p95_ms", "p99_ms"):
            if (value := getattr(row.latency, name)) is not None:
                yield name, value
    if engine.layers is not None:
        yield "whole_us", engine.layers.whole_us
        if (roofline := engine.layers.roofline) is not None:
            yield "memory_gb_per_s", roofline.bandwidth.memory_gb_per_s
            for peak in roofline.peaks:
                yield "gflop_per_s", peak.gflop_per_s
