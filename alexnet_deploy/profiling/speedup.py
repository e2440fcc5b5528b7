"""Whether a new engine is worth it: a short measurement beside the float32 model that it was made from.

Both run in turn, in one process, on the runtime that this machine would use for the engine. That takes about a second
and tells half as fast from twice as fast; ``profile`` measures more exactly.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.contract import Precision
from alexnet_deploy.errors import DeployError, ProofError, UnavailableError, UsageError
from alexnet_deploy.profiling.latency import measure
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.select import open_runner

WORTH_IT = 1.02
"""NVIDIA's Model Optimizer drops INT8 below this speed-up."""
ROUNDS = 5
LEAST_ROUNDS = 3
BUDGET_S = 1.0
"""No further round after this: a large model takes longer per call, and drifts less."""
_TURN_S = 0.015
_CALLS = 3
_NAMED_LAYERS = 3


@dataclass(frozen=True, slots=True)
class Speedup:
    """The speed of an engine as a multiple of the float32 model's: median of all rounds, the lowest, the highest."""

    runner: str
    batch: int
    engine_ms: float
    float_ms: float
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"{self.ratio:.2f} ({self.low:.2f}..{self.high:.2f}) x the speed of the float32 model: "
            f"{self.engine_ms:.2f} instead of {self.float_ms:.2f} ms at batch {self.batch}, {self.runner}"
        )


def compare_speed(engine: Runner, baseline: Runner, batch: int) -> Speedup:
    """Call both in turn, every other round in reverse order, so that a drift of the machine affects both alike."""
    engine_ms: list[float] = []
    float_ms: list[float] = []
    turns = [(engine, engine_ms), (baseline, float_ms)]
    started = time.monotonic()
    while len(float_ms) < LEAST_ROUNDS or (len(float_ms) < ROUNDS and time.monotonic() - started < BUDGET_S):
        for runner, found in turns:
            latency = measure(runner, batch=batch, duration_s=_TURN_S, warm_up_s=0, iterations=_CALLS)
            found.append(latency.median_ms)
        turns.reverse()
    ratios = [theirs / ours for ours, theirs in zip(engine_ms, float_ms, strict=True)]
    return Speedup(
        runner=engine.description,
        batch=batch,
        engine_ms=statistics.median(engine_ms),
        float_ms=statistics.median(float_ms),
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
    )


Compare = Callable[[Runner, Runner, int], Speedup]


class SpeedCheck:
    """Measures a finished bundle before it takes its place: give it to ``build_engine`` as ``accept``.

    With ``min_speedup``, a bundle that is slower is a ProofError, and one that cannot be measured here an
    UnavailableError. Else ``result`` is the measurement, or ``reason`` why there is none.
    """

    def __init__(
        self, precision: Precision, min_speedup: float | None = None, *, compare: Compare | None = None
    ) -> None:
        if min_speedup is not None and not 0 < min_speedup < math.inf:
            raise UsageError(f"`min_speedup` {min_speedup:g}: must be above 0, such as 1.1")
        if min_speedup is not None and precision == "fp32":
            raise UsageError("`min_speedup` compares with the float32 model; choose another precision, or leave it out")
        self._precision, self._least = precision, min_speedup
        self._compare = compare or compare_speed
        self.result: Speedup | None = None
        self.reason: str | None = None
        self.untimed_plans: tuple[str, ...] = ()
        """The targets of plans that need a GPU which this machine does not have."""

    def __call__(self, engine: Engine, float_onnx: Path) -> None:
        """Measure ``engine`` beside ``float_onnx``; raises what the class says."""
        if self._precision == "fp32":
            self.reason = "it is the float32 model itself"
            return
        slower = ""
        try:
            with TemporaryDirectory(prefix="alexnet-deploy-") as scratch:
                slower = self._measure(engine, float_onnx, Path(scratch))
        except DeployError as exc:
            if self._least is not None:
                raise UnavailableError(f"`min_speedup` cannot be checked, nothing written: {exc}") from exc
            self.reason = str(exc)
        if slower:
            raise ProofError(
                f"`min_speedup` {self._least:g}: not reached, nothing written: {engine.name} has {self.result}"
                f"{slower}; choose another precision, or use the float32 model"
            )

    def describe(self) -> list[str]:
        """Sentences for people."""
        if self._precision == "fp32":
            return []
        if self.result is None:
            return [f"speed not measured: {self.reason}"]
        if self.result.ratio >= WORTH_IT:
            found = [f"speed: {self.result}"]
        else:
            found = [f"not faster here: {self.result}; alexnet-deploy profile-layers shows which layers, and why"]
        if self.untimed_plans:
            found.append(f"not timed, for want of such a GPU: the plan for {', '.join(self.untimed_plans)}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The measurement (None: not measured, for the ``reason``), and the plans that were not timed."""
        measured = None if self.result is None else dataclasses.asdict(self.result)
        return {"measured": measured, "reason": self.reason, "untimed_plans": list(self.untimed_plans)}

    def _measure(self, engine: Engine, float_onnx: Path, scratch: Path) -> str:
        """Set ``result``; returns what follows its numbers in an error, empty where it is fast enough."""
        baseline = Engine(f"{engine.name} (float model)", float_onnx, engine.contract, "fp32", engine.batch)
        with closing(open_runner(engine).runner) as runner:
            runtime = runner.runtime
            if runtime == "tensorrt":
                baseline = self._with_plan(baseline, scratch)
            else:
                self.untimed_plans = tuple(plan.target for plan, _ in engine.plans)
            batch = engine.batch.min if engine.batch else 1
            with closing(open_runner(baseline, runtime, verify=False).runner) as other:
                self.result = self._compare(runner, other, batch)
        if self._least is None or self.result.ratio >= self._least:
            return ""
        return _slower_layers(engine, baseline, runtime, batch) or " (no layer is slower by itself)"

    def _with_plan(self, baseline: Engine, folder: Path) -> Engine:
        """``baseline`` with a plan for the GPU of this machine, which takes long to build."""
        if self._least is None:
            raise UnavailableError("the float32 model has no plan for this GPU; give a `min_speedup` to build one")
        from alexnet_deploy.build.plans import build_plans

        assert baseline.batch is not None  # the engine has plans
        built = build_plans(baseline.onnx_path, folder, batch=baseline.batch, targets=("current",))
        plans = tuple((each.plan, folder / each.plan.file) for each in built.plans)
        return Engine(baseline.name, baseline.onnx_path, baseline.contract, "fp32", baseline.batch, plans)


def _slower_layers(engine: Engine, baseline: Engine, runtime: str, batch: int) -> str:
    """The layers that lose most time, with the reasons; empty where none does, or the runtime does not time layers."""
    from alexnet_deploy.profiling.layers.profile import profile_layers
    from alexnet_deploy.profiling.layers.verdicts import verdicts

    try:
        found = verdicts(*(profile_layers(each, runtime, batch, calls=20) for each in (engine, baseline)))
    except DeployError:
        return ""
    slower = sorted((each for each in found if each.why), key=lambda each: each.beside_us - each.us)
    layers = [f"{each.layer} ({each.speedup:.2f}x: {each.why})" for each in slower[:_NAMED_LAYERS]]
    return f"; not faster: {', '.join(layers)}" if layers else ""
