"""A report as ``report`` would write it, made up: three engines of which one is fast, one small, one of no use."""

from __future__ import annotations

import numpy as np

from alexnet_deploy.evaluation.accuracy import Accuracy, ClassDelta, Confidence, Paired
from alexnet_deploy.evaluation.reliability import reliability
from alexnet_deploy.evaluation.statistics import Interval
from alexnet_deploy.profiling.stages import Stage, StageReport
from alexnet_deploy.report.data import (
    Calibration,
    Check,
    DataSet,
    EngineReport,
    Gap,
    LatencyRun,
    Layer,
    Layers,
    Machine,
    Range,
    Report,
    Roof,
    TemperatureFit,
    Timing,
)

MIB = 2**20
LABELS = ("cat", "dog", "<b>&cow")


def latency_run(batch: int, median_ms: float, *, seed: int = 0, invalid: tuple[str, ...] = ()) -> LatencyRun:
    """A run whose calls are spread as those of a real one: a steep rise and a long tail."""
    rng = np.random.default_rng(seed)
    samples = np.sort(median_ms * (0.9 + rng.gamma(2.0, 0.06, 2000)))
    samples *= median_ms / float(np.median(samples))

    def rank(percent: float) -> float:
        return float(samples[min(int(percent / 100 * len(samples)), len(samples) - 1)])

    return LatencyRun(
        batch=batch,
        iterations=len(samples),
        elapsed_s=float(samples.sum()) / 1e3,
        min_ms=rank(0),
        mean_ms=float(samples.mean()),
        median_ms=median_ms,
        p90_ms=rank(90),
        p95_ms=rank(95),
        p99_ms=rank(99),
        p99_9_ms=None,
        max_ms=rank(100),
        stdev_ms=float(samples.std()),
        images_per_s=1000 * batch / float(samples.mean()),
        steady=True,
        invalid=invalid,
        quantiles_ms=tuple(rank(percent) for percent in range(101)),
    )


def engine_report(
    name: str,
    *,
    top1: float = 80.0,
    points: float | None = -0.5,
    ms: float = 1.0,
    size: int = 5 * MIB,
    precision: str = "int8",
    batches: tuple[int, ...] = (1, 8),
    sha256: str = "a" * 64,
) -> EngineReport:
    """One engine; ``points`` None: the one that the others are compared with."""
    rng = np.random.default_rng(len(name))
    confidence_N = rng.uniform(0.3, 1.0, 300)
    pair = None
    if points is not None:
        classes = (ClassDelta(2, 100, 80.0, 80.0 + 2 * points), ClassDelta(0, 100, 70.0, 70.0))
        pair = Paired(300, 98.5, 4, 3, points, Interval(points - 1.2, points + 1.1), 0.5, classes)
    return EngineReport(
        name=name,
        precision=precision,
        created="2026-01-02T03:04:05.678+00:00",
        runner="OpenVINO 2026.4.1 on CPU",
        file="model.onnx",
        file_bytes=size,
        file_sha256=sha256,
        temperature=1.25,
        tools={"alexnet-deploy": "0.1.0", "onnx": "1.23.2"},
        notes=("no TensorRT plan: TensorRT is not installed",),
        accuracy=Accuracy(
            300, top1, Interval(top1 - 4, top1 + 3), 97.0, Interval(95, 98), 0, Confidence(1.25, 0.6, 3.1),
            Confidence(1.0, 0.7, 6.2),
        ),
        reliability=reliability(confidence_N, rng.uniform(0, 1, 300) < confidence_N),
        beside_first=pair,
        calibration_images=0,
        temperature_images=None,
        timing=Timing(0.4, 12.0, 180 * MIB, 2, tuple(latency_run(b, ms * b**0.9, seed=b) for b in batches)),
        stages=StageReport(
            "OpenVINO 2026.4.1 on CPU", 100, 1, 5, 32, 3, 1.0, 495.0,
            (Stage("decode", 0.24, 40.0, 2.4, 833.0), Stage("compute", 0.06 * ms, 10.0 * ms, 0.6 * ms, 1600.0 / ms)),
            50 - 10 * ms, 520.0, 800.0, 1600.0 / ms, 1 / (1 / 800 + ms / 1600), 0.9,
        ),
        layers=Layers(
            "OpenVINO 2026.4.1 on CPU", 8, 8 * ms, 0.1 * ms, 30.0, (Roof("fp32", 150.0), Roof("int8", 500.0)),
            (
                Layer("features.0", "Conv", False, ("features.1",), precision, 3 * ms, 37.5, 1_100_000_000, 9_000_000,
                      "compute", 2 * ms),
                Layer("features.3", "Conv", False, (), precision, 2 * ms, 25.0, 900_000_000, 5_000_000, "compute", ms),
                Layer("classifier.1", "Gemm", False, (), precision, 2.5 * ms, 31.2, 300_000_000, 60_000_000,
                      "bandwidth", 2 * ms),
                Layer("reorder_1", "Reorder", True, (), "fp32", 0.4 * ms, 5.0, 0, None, None, None),
            ),
            ("no roof for fp16: openvino computes nothing else in it here",),
        ),
        calibration=Calibration(
            "entropy", 512, "b" * 64, 0, None, (Range("pixels", 2.64, 2.64), Range("relu_1", 31.5, 14.25)),
        ) if precision.startswith("int8") else None,
        fit=TemperatureFit(500, 6.0, 2.9),
    )  # fmt: skip


def sample_report(*engines: EngineReport) -> Report:
    """A report of ``engines``, else of three: ``exact``, ``quick`` and ``useless``, which is worse in all."""
    some = engines or (
        engine_report("exact", top1=81.0, points=None, ms=4.0, size=22 * MIB, precision="fp32"),
        engine_report("quick", top1=80.5, points=-0.5, ms=1.0),
        engine_report("useless", top1=75.0, points=-6.0, ms=5.0, size=30 * MIB, precision="fp16"),
    )
    return Report(
        schema=1,
        created="2026-01-02T03:04:05+00:00",
        version="0.1.0",
        command=("alexnet-deploy", "report", "--data", "my photos/val"),
        machine=Machine("A processor", 2, "Linux", "3.11.7"),
        data=DataSet("val", "class id", 300, 1, "c" * 64),
        labels=LABELS,
        class_ids=("n0", "n1", "n2"),
        engines=some,
        photos="photos",
        checks=(Check("Python", "ok", "3.11.7", ""), Check("GPU", "absent", "no nvidia-smi", "a driver")),
        gaps=(Gap("layers", "useless", "OpenVINO gives no counters"),),
    )
