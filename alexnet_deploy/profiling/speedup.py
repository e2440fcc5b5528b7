"""Whether a new engine is worth it: a short measurement beside the float32 model that it was made from.

Both run in turn, in one process, on the runtime that this machine would use for the engine. That takes about a second
and tells half as fast from twice as fast; ``profile`` measures more exactly. What decides is the interval around the
ratio, not the ratio: a bound inside it is neither reached nor missed.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
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
LEAST_ROUNDS = 7
"""The fewest whose lowest and highest ratio enclose the median with the confidence of one look."""
ROUNDS, BUDGET_S = 11, 1.0
MORE_ROUNDS = 31
MOST_ROUNDS, MOST_S = 101, 10.0
"""While the interval contains the bound. After either limit it is said that the machine is too noisy."""
_CONFIDENCE = 1 - 0.07 / 3
"""Of one look at the interval. There are three at most, so all of them are right with 93 % (Bonferroni): whoever looks
after every round, until the interval leaves out the bound, is wrong several times as often."""
_TURN_S = 0.015
_CALLS = 3
_NAMED_LAYERS = 3


@dataclass(frozen=True, slots=True)
class Speedup:
    """The speed of an engine as a multiple of the float32 model's: the median round, and what encloses the median.

    ``low`` and ``high`` are ratios of rounds that enclose the median of all possible ones with 93 % confidence, from
    the binomial distribution, however often it was looked at. Both times are those of the median round, so their ratio
    is ``ratio``.
    """

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
            f"{self.engine_ms:.4g} instead of {self.float_ms:.4g} ms at batch {self.batch}, {self.runner}"
        )

    def reaches(self, bound: float) -> bool | None:
        """Whether the engine is at least ``bound`` times as fast; None where the interval contains ``bound``."""
        if self.low >= bound:
            return True
        return False if self.high < bound else None


def compare_speed(engine: Runner, baseline: Runner, batch: int, bound: float | None = None) -> Speedup:
    """Call both in turn, every other round in reverse order, so that a drift of the machine affects both alike.

    It goes on for up to ten seconds while the interval contains ``bound``, at which it looks three times at most.
    """
    rounds: list[tuple[float, float]] = []
    looks = 0
    started = time.monotonic()
    while True:
        pair = {}
        turns = [("engine", engine), ("float", baseline)]
        for name, runner in turns if len(rounds) % 2 == 0 else turns[::-1]:
            latency = measure(runner, batch=batch, duration_s=_TURN_S, warm_up_s=0, iterations=_CALLS)
            pair[name] = latency.median_ms
        rounds.append((pair["engine"], pair["float"]))
        count, elapsed_s = len(rounds), time.monotonic() - started
        if count < LEAST_ROUNDS or (count < ROUNDS and elapsed_s < BUDGET_S):
            continue
        is_last = bound is None or count >= MOST_ROUNDS or elapsed_s >= MOST_S
        if is_last or looks == 0 or count == MORE_ROUNDS:
            found, looks = summarise(rounds, engine.description, batch), looks + 1
            if is_last or (bound is not None and found.reaches(bound) is not None):
                return found


def summarise(rounds: Sequence[tuple[float, float]], runner: str, batch: int) -> Speedup:
    """The speed-up from the times of each round in ms: the engine's and the float32 model's."""
    ordered = sorted((theirs / ours, ours, theirs) for ours, theirs in rounds)
    ratio, engine_ms, float_ms = ordered[(len(ordered) - 1) // 2]
    outside = _outside(len(ordered))
    return Speedup(runner, batch, engine_ms, float_ms, ratio, ordered[outside][0], ordered[-1 - outside][0])


def _outside(count: int) -> int:
    """How many of ``count`` sorted values may lie on either side of an interval that encloses the median."""
    missed, outside = 2 * 0.5**count, 0
    while (missed := missed + 2 * math.comb(count, outside + 1) * 0.5**count) <= 1 - _CONFIDENCE:
        outside += 1
    return outside


Compare = Callable[[Runner, Runner, int, float | None], Speedup]


class SpeedCheck:
    """Measures a finished bundle before it takes its place: give it to ``build_engine`` as ``accept``.

    With ``min_speedup``, a bundle that is slower is a ProofError, and one that cannot be measured here an
    UnavailableError. It is slower where all of the interval lies below the bound. With the bound inside it, nothing is
    refused, and ``describe`` says that the machine is too noisy: a build must not fail by chance. ``result`` is the
    measurement, or ``reason`` why there is none.
    """

    def __init__(
        self, precision: Precision, min_speedup: float | None = None, *, compare: Compare | None = None
    ) -> None:
        if min_speedup is not None and not 0 < min_speedup < math.inf:
            raise UsageError(f"`min_speedup` {min_speedup:g}: must be a finite number above 0, such as 1.1")
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
        bound = self._least or WORTH_IT
        reached = self.result.reaches(bound)
        if reached is None:
            wanted = "it is faster" if self._least is None else f"`min_speedup` {bound:g} is reached"
            found = [f"too noisy to tell whether {wanted}: {self.result}; measure again on a quiet machine"]
        elif reached or self.result.reaches(WORTH_IT):
            found = [f"speed: {self.result}"]
        else:
            found = [f"not faster here: {self.result}; alexnet-deploy profile-layers shows which layers, and why"]
        if self.untimed_plans:
            found.append(f"not timed, for want of such a GPU: the plan for {', '.join(self.untimed_plans)}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The measurement (None: not measured, for the ``reason``), and the plans that were not timed.

        ``reached``: whether it is as fast as ``min_speedup`` (without one: 1.02); None: not measured, or too noisy.
        """
        return {
            "measured": None if self.result is None else dataclasses.asdict(self.result),
            "reached": None if self.result is None else self.result.reaches(self._least or WORTH_IT),
            "reason": self.reason,
            "untimed_plans": list(self.untimed_plans),
        }

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
                self.result = self._compare(runner, other, batch, self._least)
        if self._least is None or self.result.reaches(self._least) is not False:
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
    """The layers that lose most time, with the reasons; empty where none does, or the runtime does not time layers.

    A layer that computes the same in both loses nothing but by the conversions in front of it, however its two times
    differ. Where no other is slower, such layers are the reason, and are named as that.
    """
    from alexnet_deploy.profiling.layers.profile import profile_layers
    from alexnet_deploy.profiling.layers.verdicts import FASTER, verdicts

    try:
        found = verdicts(*(profile_layers(each, runtime, batch, calls=20) for each in (engine, baseline)))
    except DeployError:
        return ""
    alike = [
        each
        for each in found
        if each.precision == each.beside_precision and each.conversions_us <= (1 - FASTER) * each.beside_us
    ]
    slower = [each for each in found if each.why and each not in alike]
    slower.sort(key=lambda each: each.beside_us - each.us)
    if slower:
        layers = [f"{each.layer} ({each.speedup:.2f}x: {each.why})" for each in slower[:_NAMED_LAYERS]]
        return f"; not faster: {', '.join(layers)}"
    alike.sort(key=lambda each: -each.us)
    layers = [f"{each.layer} ({each.precision})" for each in alike[:_NAMED_LAYERS]]
    return f"; the same as in the float32 model: {', '.join(layers)}" if layers else ""
