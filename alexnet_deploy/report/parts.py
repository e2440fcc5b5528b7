"""What the measuring commands find, and what a bundle's own records say, in the shapes of ``report.json``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_deploy.bundle.manifest import CALIBRATION, Engine, load_manifest
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.evaluation.accuracy import Paired, log_softmax
from alexnet_deploy.evaluation.answers import Answers
from alexnet_deploy.evaluation.engines import loaded_file
from alexnet_deploy.evaluation.evaluate import EngineResult
from alexnet_deploy.evaluation.reliability import Bin, reliability
from alexnet_deploy.evaluation.temperature_record import read_confidence
from alexnet_deploy.images.choose import images_digest
from alexnet_deploy.precision.calibration_record import read_record
from alexnet_deploy.profiling.engine import EngineProfile, Row
from alexnet_deploy.profiling.latency import percentile
from alexnet_deploy.report.data import (
    QUANTILES,
    Calibration,
    EngineReport,
    LatencyRun,
    Layer,
    Layers,
    Range,
    Roof,
    TemperatureFit,
    Timing,
)

if TYPE_CHECKING:  # it loads a runtime; here it is only a shape
    from alexnet_deploy.profiling.layers.times import LayerProfile

# Legend: N image, K class


def engine_report(
    engine: Engine, result: EngineResult, beside_first: Paired | None, bins: tuple[Bin, ...]
) -> EngineReport:
    """A bundle with what ``evaluate`` found; the parts that are measured one by one are not there yet."""
    manifest, files = load_manifest(engine.onnx_path.parent)
    file = loaded_file(engine, result.runner).name
    return EngineReport(
        name=engine.name,
        precision=engine.precision,
        created=manifest.created,
        runner=result.runner,
        file=file,
        file_bytes=files[file].bytes,
        file_sha256=files[file].sha256,
        temperature=result.temperature,
        tools=manifest.tools,
        notes=manifest.notes,
        accuracy=result.accuracy,
        reliability=bins,
        beside_first=beside_first,
        calibration_images=result.calibration_images,
        temperature_images=result.temperature_images,
    )


def reliability_of(answers: Answers, index: int, temperature: float) -> tuple[Bin, ...]:
    """The reliability diagram of engine ``index``; empty where one of its outputs is not finite."""
    logits_NK = answers.logits_NK[index]
    if not np.isfinite(logits_NK).all():
        return ()
    confidence_N = np.exp(log_softmax(logits_NK, temperature).max(axis=1))
    return reliability(confidence_N, logits_NK.argmax(axis=1) == answers.target_N)


def timing_of(profile: EngineProfile) -> Timing:
    """One engine's latency; of its samples a hundred quantiles stay."""
    return Timing(
        load_s=profile.load_s,
        first_call_ms=profile.first_call_ms,
        peak_rss_bytes=profile.peak_rss_bytes,
        threads=profile.settings.threads,
        runs=tuple(map(_run, profile.rows)),
    )


def _run(row: Row) -> LatencyRun:
    found = row.latency
    ordered = sorted(found.samples_ns)
    return LatencyRun(
        batch=found.batch,
        iterations=found.iterations,
        elapsed_s=found.elapsed_s,
        min_ms=found.min_ms,
        mean_ms=found.mean_ms,
        median_ms=found.median_ms,
        p90_ms=found.p90_ms,
        p95_ms=found.p95_ms,
        p99_ms=found.p99_ms,
        p99_9_ms=found.p99_9_ms,
        max_ms=found.max_ms,
        stdev_ms=found.stdev_ms,
        images_per_s=found.images_per_s,
        steady=found.steady,
        invalid=row.machine.invalid,
        quantiles_ms=tuple(percentile(ordered, percent) / 1e6 for percent in range(QUANTILES)),
    )


def layers_of(profile: LayerProfile) -> Layers:
    """One engine's layers, below the roofs of this machine."""
    roofline = profile.roofline
    return Layers(
        runner=profile.runner,
        batch=profile.batch,
        total_ms=profile.whole_us / 1e3,
        remainder_ms=profile.remainder_us / 1e3,
        memory_gb_per_s=None if roofline is None else roofline.bandwidth.memory_gb_per_s,
        roofs=() if roofline is None else tuple(Roof(peak.precision, peak.gflop_per_s) for peak in roofline.peaks),
        rows=tuple(
            Layer(
                name=row.layer,
                op=row.op,
                overhead=row.overhead,
                fused=row.fused,
                precision=row.precision,
                ms=row.median_us / 1e3,
                share_percent=row.share_percent,
                flops=row.flops,
                moved_bytes=row.moved_bytes,
                bound=row.bound,
                limit_ms=None if row.limit_us is None else row.limit_us / 1e3,
            )
            for row in profile.rows
        ),
        notes=profile.notes,
        invalid=profile.invalid,
    )


def calibration_of(bundle: Path) -> Calibration | None:
    """What calibrated the bundle; None for one that images had no part in. Raises what ``read_record`` raises."""
    path = bundle / CALIBRATION
    if not path.exists():
        return None
    record = read_record(path)
    return Calibration(
        method=record.method,
        images=len(record.files),
        images_digest=images_digest(sha256 for _, sha256 in record.files),
        seed=record.seed,
        exclude=record.exclude,
        ranges=tuple(
            Range(tensor, largest, record.threshold_by_tensor[tensor])
            for tensor, largest in record.largest_by_tensor.items()
        ),
    )


def fit_of(bundle: Path, contract: ModelContract) -> TemperatureFit | None:
    """The fit of the bundle's temperature, where there was one. Raises what ``read_confidence`` raises."""
    record = read_confidence(bundle, contract)
    if record is None:
        return None
    return TemperatureFit(record.images, record.before.ece_percent, record.after.ece_percent)
