"""A new engine beside its float32 model: what is measured, what is said, and that a slow one replaces nothing."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.build import engine as engine_module
from alexnet_deploy.build import targets
from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import InputError, ProofError, UnavailableError, UsageError
from alexnet_deploy.profiling import speedup
from alexnet_deploy.profiling.layer_profile import Bandwidth, Peak, Roofline
from alexnet_deploy.profiling.layers import profile as layer_profiles
from alexnet_deploy.profiling.layers import verdicts as layer_verdicts
from alexnet_deploy.profiling.speedup import SpeedCheck, Speedup, compare_speed, summarise
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.select import SelectedRunner
from tests.helpers.command import Command
from tests.helpers.models.bundles import build_bundle
from tests.helpers.models.colour_models import hostile_classifier
from tests.helpers.runners import FakeRunner, numbered_contract


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_classifier(tmp_path_factory.mktemp("model") / "colours.onnx")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither plans nor the limits of the machine matter here, and both take seconds."""
    monkeypatch.setattr(engine_module, "why_no_plan_here", lambda: "not in this test")
    limits = Roofline("any", 1, (Peak("fp32", 100.0, "any"),), Bandwidth(10.0, 100.0, 1 << 25, cache_told=True))
    monkeypatch.setattr(layer_profiles, "measure_roofline", lambda *_: limits)


def measured(ratio: float, spread: float = 0.1) -> Speedup:
    return Speedup("a runtime", 1, 2.0, 2.0 * ratio, ratio, ratio - spread, ratio + spread)


def of_ratio(ratio: float, spread: float = 0.1) -> speedup.Compare:
    return lambda engine, baseline, batch, bound: measured(ratio, spread)


def never(engine: Runner, baseline: Runner, batch: int, bound: float | None) -> Speedup:
    raise UnavailableError("the machine is on fire")


def verdict(layer: str, us: float, beside_us: float, precision: str, **more: Any) -> layer_verdicts.Verdict:
    found = {"conversions_us": 0.0, "why": None} | more
    return layer_verdicts.Verdict(layer, precision, "fp32", us, found["conversions_us"], beside_us, beside_us / us,
                                  found["why"])  # fmt: skip


FAST = verdict("conv1", 100.0, 200.0, "int8")
SLOW = verdict("conv2", 200.0, 100.0, "int8", why="its kernel")
ALIKE = verdict("pool", 900.0, 100.0, "fp32", why="same work, bytes and precision (fp32) in both")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_both_are_called_in_turn_and_the_ratio_is_taken_within_a_round() -> None:
    seen: list[str] = []

    class Named(FakeRunner):
        def __init__(self, name: str) -> None:
            super().__init__(numbered_contract(3))
            self.description = name

        def __call__(self, pixels_NHWC):  # type: ignore[no-untyped-def]
            seen.append(self.description)
            return super().__call__(pixels_NHWC)

    found = compare_speed(Named("engine"), Named("float"), 2)
    assert found.runner == "engine"
    assert found.low <= found.ratio <= found.high
    turns = [name for name, before in zip(seen, [None, *seen], strict=False) if name != before]
    # engine, float | float, engine | engine, float: the order turns round, so the turns in the middle merge
    assert turns[:4] == ["engine", "float", "engine", "float"]


def test_a_fast_enough_engine_is_built(onnx: Path, tmp_path: Path) -> None:
    check = SpeedCheck("fp16", 1.1, compare=of_ratio(1.3))
    built = build_engine(onnx, tmp_path / "engine", precision="fp16", accept=check)
    assert (built / "bundle.json").exists()
    numbers = "1.30 (1.20..1.40) x the speed of the float32 model: 2 instead of 2.6 ms at batch 1, a runtime"
    assert check.describe() == [f"speed: {numbers}"]
    assert check.to_dict()["measured"] == dataclasses.asdict(measured(1.3))


def test_a_slow_engine_replaces_nothing_and_its_layers_are_named(
    onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_verdicts, "verdicts", lambda *_: [FAST, SLOW, ALIKE])
    build_bundle(onnx, tmp_path / "engine", "fp16", targets=())
    before = content(tmp_path / "engine")
    with pytest.raises(
        ProofError,
        match=r"`min_speedup` 1.1: not reached, nothing written: engine has 0.90 .*; not faster: conv2 \(0.50x: its",
    ):
        build_engine(onnx, tmp_path / "engine", precision="fp16", accept=SpeedCheck("fp16", 1.1, compare=of_ratio(0.9)))
    assert content(tmp_path / "engine") == before
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([FAST, ALIKE], "; the same as in the float32 model: pool \\(fp32\\); choose another"),
        ([FAST], "\\(no layer is slower by itself\\); choose another"),
        ([dataclasses.replace(ALIKE, conversions_us=50.0)], "; not faster: pool \\(0.11x: same work"),
    ],
)
def test_a_layer_that_is_the_same_in_both_is_not_blamed(
    layers: list[layer_verdicts.Verdict], said: str, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_verdicts, "verdicts", lambda *_: layers)
    with pytest.raises(ProofError, match=said):
        build_engine(onnx, tmp_path / "engine", precision="fp16", accept=SpeedCheck("fp16", 1.1, compare=of_ratio(0.9)))


@pytest.mark.parametrize(
    ("bound", "said"), [(1.1, "whether `min_speedup` 1.1 is reached: "), (None, "whether it is faster: ")]
)
@pytest.mark.parametrize("ratio", [0.9, 1.05, 1.3])
def test_a_bound_inside_the_interval_refuses_nothing_and_that_is_said(
    ratio: float, bound: float | None, said: str, onnx: Path, tmp_path: Path
) -> None:
    check = SpeedCheck("fp16", bound, compare=of_ratio(ratio, 0.4))
    build_engine(onnx, tmp_path / "engine", precision="fp16", accept=check)
    (line,) = check.describe()
    assert line.startswith(f"too noisy to tell {said}{ratio:.2f} (")
    assert line.endswith("; measure again on a quiet machine")
    assert check.to_dict()["reached"] is None


@given(st.lists(st.tuples(st.floats(0.001, 1000), st.floats(0.001, 1000)), min_size=7, max_size=40))
def test_times_agree_with_the_ratio_and_the_interval_encloses_it(rounds: list[tuple[float, float]]) -> None:
    found = summarise(rounds, "a runtime", 1)
    assert found.ratio == pytest.approx(found.float_ms / found.engine_ms)
    assert found.low <= found.ratio <= found.high
    assert (found.engine_ms, found.float_ms) in rounds


@pytest.mark.parametrize("count", [7, 8, 11, 31, 101])
def test_the_interval_encloses_the_median_with_the_confidence_that_is_stated(count: int) -> None:
    found = summarise([(1.0, 1.0 + i) for i in range(count)], "a runtime", 1)
    outside = int(found.low) - 1
    assert int(found.high) == count - outside

    def confidence(outside: int) -> float:
        return 1 - 2 * sum(math.comb(count, i) for i in range(outside + 1)) / 2**count

    assert confidence(outside + 1) < 1 - 0.07 / 3 <= confidence(outside)


def test_one_disturbed_round_does_not_widen_the_interval() -> None:
    found = summarise([(1.0, 1.5)] * 10 + [(1.0, 45.0)], "a runtime", 1)
    assert (found.low, found.ratio, found.high) == (1.5, 1.5, 1.5)
    assert (found.reaches(1.5), found.reaches(1.6)) == (True, False)


@pytest.mark.parametrize(
    ("ratios", "bound", "rounds"),
    [([0.9, 1.3], 1.1, 101), ([1.3], 1.1, 11), ([0.9, 1.3], None, 11), ([1.3, 0.9, 0.9, *[1.3] * 40], 1.1, 31)],
)
def test_it_is_measured_longer_while_the_interval_contains_the_bound(
    ratios: list[float], bound: float | None, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"engine": itertools.repeat(1.0), "a fake runner": itertools.cycle(ratios)}
    seen: list[str] = []

    def measure(runner: Runner, **_: object) -> SimpleNamespace:
        seen.append(runner.description)
        return SimpleNamespace(median_ms=next(times[runner.description]))

    monkeypatch.setattr(speedup, "measure", measure)
    engine, baseline = FakeRunner(numbered_contract(3)), FakeRunner(numbered_contract(3))
    engine.description, baseline.description = "engine", "a fake runner"
    speedup.compare_speed(engine, baseline, 1, bound)
    assert seen.count("engine") == seen.count("a fake runner") == rounds


def test_without_a_bound_a_slow_engine_is_built_and_it_is_said(onnx: Path, tmp_path: Path) -> None:
    check = SpeedCheck("fp16", compare=of_ratio(0.9))
    build_bundle(onnx, tmp_path / "engine", "fp16", targets=("sm89",), accept=check)
    first, second = check.describe()
    assert first.startswith("not faster here: 0.90 ")
    assert first.endswith("alexnet-deploy profile-layers shows which layers, and why")
    assert second == "not timed, for want of such a GPU: the plan for sm89"
    assert check.to_dict()["untimed_plans"] == ["sm89"]


def test_an_engine_that_cannot_be_measured_passes_only_without_a_bound(onnx: Path, tmp_path: Path) -> None:
    check = SpeedCheck("fp16", compare=never)
    build_engine(onnx, tmp_path / "engine", precision="fp16", accept=check)
    assert check.describe() == ["speed not measured: the machine is on fire"]
    assert check.to_dict()["reason"] == "the machine is on fire"
    before = content(tmp_path / "engine")
    with pytest.raises(UnavailableError, match="`min_speedup` cannot be checked, nothing written: the machine is on"):
        build_engine(onnx, tmp_path / "engine", precision="fp16", accept=SpeedCheck("fp16", 1.1, compare=never))
    assert content(tmp_path / "engine") == before


def test_a_gpu_is_compared_with_a_plan_of_the_float_model(
    onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra 'rtx'")
    opened: list[Engine] = []

    class OnGpu(FakeRunner):
        runtime, device, description = "tensorrt", "sm89", "TensorRT on a fake GPU"

    def open_fake(engine: Engine, runtime: str = "auto", *, verify: bool = True) -> SelectedRunner:
        assert all(path.is_file() for _, path in engine.plans)
        opened.append(engine)
        return SelectedRunner(OnGpu(engine.contract))

    monkeypatch.setattr(speedup, "open_runner", open_fake)
    monkeypatch.setattr(targets, "current_capability", lambda: "sm89")
    engine = Engine("engine", onnx, numbered_contract(3), "fp16", BatchProfile(1, 2, 4))
    check = SpeedCheck("fp16", compare=of_ratio(2.0))
    check(engine, onnx)
    assert check.describe() == [
        "speed not measured: the float32 model has no plan for this GPU; give a `min_speedup` to build one"
    ]
    SpeedCheck("fp16", 1.1, compare=of_ratio(2.0))(engine, onnx)
    assert [plan.target for plan, _ in opened[-1].plans] == ["sm89"]
    assert opened[-1].precision == "fp32"


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bound_out_of_range_is_refused(bound: float) -> None:
    with pytest.raises(UsageError, match=r"`min_speedup` .*: must be a finite number above 0"):
        SpeedCheck("int8", bound)


def test_the_command_measures_and_obeys_the_bound(
    command: Command, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speedup, "compare_speed", of_ratio(1.5, 0.05))
    build = ("build-engine", onnx, "--fp16", "-o", "engine")
    ran = command(*build, "--min-speedup", 1.4, "--json")
    assert ran.code == 0, ran.err
    speed = json.loads(ran.out)["speed"]
    assert (speed["measured"]["ratio"], speed["reached"], speed["reason"], speed["untimed_plans"]) == (
        1.5,
        True,
        None,
        [],
    )
    before = content(Path("engine"))
    ran = command(*build, "--min-speedup", 1.6)
    assert ran.code == 1
    assert ran.error.startswith("error: --min-speedup 1.6: not reached, nothing written: engine has 1.50 ")
    assert content(Path("engine")) == before
    ran = command(*build)
    assert ran.code == 0
    assert "speed: 1.50 (1.45..1.55) x the speed of the float32 model" in " ".join(ran.err.split())
    ran = command("build-engine", onnx, "--min-speedup", 1.1)
    assert (ran.code, "--min-speedup compares with the float32 model" in ran.error) == (2, True)


def test_a_float_model_is_not_compared_with_itself(
    command: Command, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speedup, "compare_speed", never)
    ran = command("build-engine", onnx, "--json")
    assert json.loads(ran.out)["speed"] == {
        "measured": None,
        "reached": None,
        "reason": "it is the float32 model itself",
        "untimed_plans": [],
    }
    assert "speed" not in ran.err


def test_a_runtime_that_refuses_the_float_model_does_not_fail_the_build(onnx: Path, tmp_path: Path) -> None:
    def refuses(engine: Runner, baseline: Runner, batch: int, bound: float | None) -> Speedup:
        raise InputError("no such operator")

    check = SpeedCheck("fp16", compare=refuses)
    build_engine(onnx, tmp_path / "engine", precision="fp16", accept=check)
    assert check.reason == "no such operator"
