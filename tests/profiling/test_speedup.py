"""A new engine beside its float32 model: what is measured, what is said, and that a slow one replaces nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from alexnet_deploy.build import engine as engine_module
from alexnet_deploy.build import plans
from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import InputError, ProofError, UnavailableError, UsageError
from alexnet_deploy.profiling import speedup
from alexnet_deploy.profiling.layer_profile import Bandwidth, Peak, Roofline
from alexnet_deploy.profiling.layers import profile as layer_profiles
from alexnet_deploy.profiling.layers import verdicts as layer_verdicts
from alexnet_deploy.profiling.speedup import SpeedCheck, Speedup, compare_speed
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
    monkeypatch.setattr(engine_module, "installed", dict)
    limits = Roofline("any", 1, (Peak("fp32", 100.0, "any"),), Bandwidth(10.0, 100.0, 1 << 25, cache_told=True))
    monkeypatch.setattr(layer_profiles, "measure_roofline", lambda *_: limits)


def measured(ratio: float) -> Speedup:
    return Speedup("a runtime", 1, 2.0, 2.0 * ratio, ratio, ratio - 0.1, ratio + 0.1)


def of_ratio(ratio: float) -> speedup.Compare:
    return lambda engine, baseline, batch: measured(ratio)


def never(engine: Runner, baseline: Runner, batch: int) -> Speedup:
    raise UnavailableError("the machine is on fire")


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
    numbers = "1.30 (1.20..1.40) x the speed of the float32 model: 2.00 instead of 2.60 ms at batch 1, a runtime"
    assert check.describe() == [f"speed: {numbers}"]
    assert check.to_dict()["measured"] == dataclasses.asdict(measured(1.3))


def test_a_slow_engine_replaces_nothing_and_its_layers_are_named(
    onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SimpleNamespace(layer="conv2", speedup=0.5, why="also computed in fp32", us=200.0, beside_us=100.0)
    fast = SimpleNamespace(layer="conv1", speedup=2.0, why="", us=100.0, beside_us=200.0)
    monkeypatch.setattr(layer_verdicts, "verdicts", lambda *_: [fast, slow])
    build_bundle(onnx, tmp_path / "engine", "fp16", targets=())
    before = content(tmp_path / "engine")
    with pytest.raises(
        ProofError,
        match=r"`min_speedup` 1.1: not reached, nothing written: engine has 0.90 .*; not faster: conv2 \(0.50x: also ",
    ):
        build_engine(onnx, tmp_path / "engine", precision="fp16", accept=SpeedCheck("fp16", 1.1, compare=of_ratio(0.9)))
    assert content(tmp_path / "engine") == before
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


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
    monkeypatch.setattr(plans, "current_capability", lambda: "sm89")
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
    with pytest.raises(UsageError, match=r"`min_speedup` .*: must be above 0"):
        SpeedCheck("int8", bound)


def test_the_command_measures_and_obeys_the_bound(
    command: Command, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speedup, "compare_speed", of_ratio(1.5))
    build = ("build-engine", onnx, "--fp16", "-o", "engine")
    ran = command(*build, "--min-speedup", 1.4, "--json")
    assert ran.code == 0, ran.err
    speed = json.loads(ran.out)["speed"]
    assert (speed["measured"]["ratio"], speed["reason"], speed["untimed_plans"]) == (1.5, None, [])
    before = content(Path("engine"))
    ran = command(*build, "--min-speedup", 1.6)
    assert ran.code == 1
    assert ran.error.startswith("error: --min-speedup 1.6: not reached, nothing written: engine has 1.50 ")
    assert content(Path("engine")) == before
    ran = command(*build)
    assert ran.code == 0
    assert "speed: 1.50 (1.40..1.60) x the speed of the float32 model" in " ".join(ran.err.split())
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
        "reason": "it is the float32 model itself",
        "untimed_plans": [],
    }
    assert "speed" not in ran.err


def test_a_runtime_that_refuses_the_float_model_does_not_fail_the_build(onnx: Path, tmp_path: Path) -> None:
    def refuses(engine: Runner, baseline: Runner, batch: int) -> Speedup:
        raise InputError("no such operator")

    check = SpeedCheck("fp16", compare=refuses)
    build_engine(onnx, tmp_path / "engine", precision="fp16", accept=check)
    assert check.reason == "no such operator"
