"""A report as ``report`` would write it, made up: three engines, of which one is fast, one small and one useless."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.doctor import Check
from alexnet_deploy.evaluation.calibration_error import reliability_bins
from alexnet_deploy.evaluation.confidence.record import ConfidenceRecord, Quality
from alexnet_deploy.evaluation.results import (
    Accuracy,
    AccuracyDelta,
    ClassDelta,
    Confidence,
    EngineResult,
    Interval,
    Selective,
)
from alexnet_deploy.machine.watch import MachineConditions
from alexnet_deploy.precision.calibration.record import CalibrationRecord
from alexnet_deploy.profiling.engine import BatchResult, EngineProfile
from alexnet_deploy.profiling.latency import Latency
from alexnet_deploy.profiling.layer_profile import Bandwidth, LayerProfile, LayerRow, Peak, Roofline
from alexnet_deploy.profiling.settings import ProfileSettings
from alexnet_deploy.profiling.stages import Stage, StageReport
from alexnet_deploy.report.data import DataSet, EngineReport, FromImages, Gap, ImageSet, Machine, Report

MIB = 2**20
LABELS = ("cat", "dog", "<b>&cow")
RUNNER = "OpenVINO 2026.4.1 on CPU"


def batch_result(batch: int, median_ms: float, *, seed: int = 0, invalid: tuple[str, ...] = ()) -> BatchResult:
    """A measurement whose calls are spread as those of a real one: a steep rise and a long tail."""
    rng = np.random.default_rng(seed)
    samples = np.sort(median_ms * (0.9 + rng.gamma(2.0, 0.06, 2000)))
    samples *= median_ms / float(np.median(samples))
    ns = tuple(int(1e6 * ms) for ms in samples)
    elapsed_s = sum(ns) / 1e9
    latency = Latency(
        description=RUNNER, batch=batch, concurrency=1, iterations=len(ns), elapsed_s=elapsed_s, min_ms=ns[0] / 1e6,
        mean_ms=float(samples.mean()), median_ms=median_ms, p90_ms=ns[1799] / 1e6, p95_ms=ns[1899] / 1e6,
        p99_ms=ns[1979] / 1e6, p99_9_ms=None, max_ms=ns[-1] / 1e6, stdev_ms=float(samples.std()),
        throughput_qps=len(ns) / elapsed_s, images_per_s=batch * len(ns) / elapsed_s, steady=True,
        window_spread_percent=1.0, windows=5, samples_ns=ns,
    )  # fmt: skip
    unknown = dict.fromkeys((field.name for field in dataclasses.fields(MachineConditions)), None)
    conditions: dict[str, Any] = unknown | {"cores": 2, "gpu_limited_by": (), "invalid": invalid}
    return BatchResult(latency.thinned(), MachineConditions(**conditions))


def engine_profile(*rows: BatchResult) -> EngineProfile:
    """An engine that was timed as in ``rows``."""
    settings = ProfileSettings(batch_sizes=tuple(row.latency.batch for row in rows), threads=2)
    return EngineProfile("any", "int8", RUNNER, (), False, settings, 0.4, 12.0, 180 * MIB, rows)


def engine_report(
    name: str,
    *,
    top1: float = 80.0,
    points: float | None = -0.5,
    ms: float = 1.0,
    size: int = 5 * MIB,
    precision: str = "int8",
    sha256: str = "a" * 64,
) -> EngineReport:
    """One engine; ``points`` None: the one that the others are compared with."""
    rng = np.random.default_rng(len(name))
    confidence_N = rng.uniform(0.3, 1.0, 300)
    delta = None
    if points is not None:
        classes = (ClassDelta(2, 100, 80.0, 80.0 + 2 * points), ClassDelta(0, 100, 70.0, 70.0))
        delta = AccuracyDelta(300, 98.5, 4, 3, points, Interval(points - 1.2, points + 1.1), 0.5, classes)
    accuracy = Accuracy(
        300, top1, Interval(top1 - 4, top1 + 3), 97.0, Interval(95, 98), 0,
        Confidence(1.25, 0.6, 3.1, 1.9, Interval(0.4, 3.4)),
        Confidence(1.0, 0.7, 6.2),
        Selective(
            "energy", 2.5, 80.0, 96.0, Interval(92.5, 97.9), 2.1, tuple((float(i), i / 8) for i in range(1, 101)),
        ),
    )  # fmt: skip
    return EngineReport(
        result=EngineResult(name, precision, RUNNER, size, 1.25, accuracy, None, 0, None),
        created="2026-01-02T03:04:05.678+00:00",
        file="model.onnx",
        file_sha256=sha256,
        tools={"alexnet-deploy": "0.1.0", "onnx": "1.23.2"},
        notes=("no TensorRT plan: TensorRT is not installed",),
        reliability=reliability_bins(confidence_N, rng.uniform(0, 1, 300) < confidence_N),
        delta=delta,
        profile=engine_profile(*(batch_result(batch, ms * batch**0.9, seed=batch) for batch in (1, 8))),
        stages=StageReport(
            RUNNER, 100, 1, 5, 32, 3, 1.0, 495.0,
            (Stage("decode", 0.24, 40.0, 2.4, 833.0), Stage("compute", 0.06 * ms, 10.0 * ms, 0.6 * ms, 1600.0 / ms)),
            50 - 10 * ms, 520.0, 800.0, 1600.0 / ms, 1 / (1 / 800 + ms / 1600), 0.9,
        ),
        layers=_layers(precision, 1000 * ms),
        calibration=_calibration() if precision.startswith("int8") else None,
        fit=FromImages(
            ImageSet(500, "d" * 64),
            ConfidenceRecord(1.25, 3, (), Quality(0.9, 6.0, ()), Quality(0.7, 2.9, ()), RUNNER, {}, "2026-01-02"),
        ),
    )  # fmt: skip


def _layers(precision: str, us: float) -> LayerProfile:
    def row(layer: str, op: str, share: float, flops: int, moved: int, bound: str, **more: Any) -> LayerRow:
        return LayerRow(layer, False, op, more.pop("fused", ()), None, precision, "jit", 8 * us * share, 100 * share,
                        flops, moved, bound=bound, **more)  # type: ignore[arg-type]  # fmt: skip

    reorder = LayerRow("reorder_1", True, "Reorder", (), "features.3", "fp32", "jit", 0.4 * us, 5.0, 0, None)
    return LayerProfile(
        "any", precision, "openvino", RUNNER, 8, 2, 60, 8 * us, 7.9 * us, 0.1 * us, 7.8 * us,
        (
            row("features.0", "Conv", 0.375, 1_100_000_000, 9_000_000, "compute", fused=("features.1",),
                limit_us=2 * us),
            row("features.3", "Conv", 0.25, 900_000_000, 5_000_000, "compute", limit_us=us),
            row("classifier.1", "Gemm", 0.312, 300_000_000, 60_000_000, "bandwidth", limit_us=2 * us),
            reorder,
        ),
        Roofline("openvino", 2, (Peak("fp32", 150.0, "jit"), Peak("int8", 500.0, "jit")),
                 Bandwidth(30.0, 200.0, 32 << 20, True)),
        ("no peak for fp16: openvino does not compute the models that measure it in fp16 here",),
    )  # fmt: skip


def _calibration() -> FromImages[CalibrationRecord]:
    record = CalibrationRecord(
        "int8", "entropy", None, 0, Preprocessing(), "e" * 64, (), {"pixels": 2.64, "relu_1": 31.5},
        {"pixels": 2.64, "relu_1": 14.25}, {},
    )  # fmt: skip
    return FromImages(ImageSet(512, "b" * 64), record)


def sample_report(*engines: EngineReport) -> Report:
    """A report of ``engines``, else of three: ``exact``, ``quick`` and ``useless``, which is worse in all."""
    some = engines or (
        engine_report("exact", top1=81.0, points=None, ms=4.0, size=22 * MIB, precision="fp32"),
        engine_report("quick", top1=80.5, points=-0.5, ms=1.0),
        engine_report("useless", top1=75.0, points=-6.0, ms=5.0, size=30 * MIB, precision="fp16"),
    )
    return Report(
        created="2026-01-02T03:04:05+00:00",
        version="0.1.0",
        command=("alexnet-deploy", "report", "--data", "my photos/val"),
        machine=Machine("A processor", 2, "Linux", "3.11.7"),
        data=DataSet("val", "class id", ImageSet(300, "c" * 64), 1),
        labels=LABELS,
        class_ids=("n0", "n1", "n2"),
        engines=some,
        photos="photos",
        checks=(Check("Python", "ok", "3.11.7", ""), Check("GPU", "absent", "no nvidia-smi", "a driver")),
        gaps=(Gap("layers", "useless", "OpenVINO gives no counters"),),
    )
