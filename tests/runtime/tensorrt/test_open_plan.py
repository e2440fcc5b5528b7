"""Which plan of a bundle is loaded, why another one is not, and what a GPU's wrong answers lead to; on a fake GPU."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from alexnet_deploy.bundle.manifest import Engine, Plan
from alexnet_deploy.bundle.plan_options import PlanOptions
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.profiling.engine import try_engine
from alexnet_deploy.profiling.settings import ProfileSettings
from alexnet_deploy.runtime.select import open_runner
from alexnet_deploy.runtime.tensorrt import plans as tensorrt_plans
from tests.helpers.fake_device import FakeDevice, FakeMachine, expected_logits, fake_tensorrt
from tests.helpers.models.foreign_models import random_pixels
from tests.helpers.models.onnx_models import Graph

CLASSES = 3
PIXELS = random_pixels(2, 4, seed=1)


class Bundle:
    """A bundle of plans for the fake GPU; the content of each file decides what the fake TensorRT says of it."""

    def __init__(self, folder: Path, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch, *, rtx: bool) -> None:
        self.device = FakeDevice(capability="sm89")
        monkeypatch.setattr(tensorrt_plans, "open_device", lambda: self.device)
        self.library, self.loaded = fake_tensorrt(self.device, rtx=rtx)
        self._plan = machine.install(self.library)
        self._folder = folder

    def engine(self, *contents: bytes, onnx: Path = Path("model.onnx"), **record: object) -> Engine:
        plans: list[tuple[Plan, Path]] = []
        for index, content in enumerate(contents):
            path = self._folder / f"{index}.plan"
            path.write_bytes(content)
            plans.append((dataclasses.replace(self._plan, file=path.name, **record), path))  # type: ignore[arg-type]
        return Engine("b", onnx, FakeMachine.contract, "fp16", FakeMachine.batch, tuple(plans))


@pytest.fixture(params=[False, True], ids=["full", "rtx"])
def bundle(
    request: pytest.FixtureRequest, tmp_path: Path, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> Bundle:
    return Bundle(tmp_path, machine, monkeypatch, rtx=request.param)


@pytest.fixture
def rtx(tmp_path: Path, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    return Bundle(tmp_path, machine, monkeypatch, rtx=True)


@pytest.fixture
def full(tmp_path: Path, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    return Bundle(tmp_path, machine, monkeypatch, rtx=False)


class TestTheNextPlan:
    def test_is_tried_when_the_library_refuses_the_first(self, bundle: Bundle) -> None:
        with closing(tensorrt_plans.open_plan(bundle.engine(b"bad", b"bad", b"good"))) as runner:
            assert runner.plan == "2.plan"
            np.testing.assert_array_equal(runner(PIXELS), expected_logits(PIXELS, CLASSES))
        assert not bundle.device.live

    def test_each_reason_is_given_when_none_is_left(self, rtx: Bundle) -> None:
        with pytest.raises(UnavailableError) as caught:
            tensorrt_plans.open_plan(rtx.engine(b"bad", b"old", b"cc!", b"mem"))
        text = str(caught.value)
        assert text.startswith("b: no plan for this machine (0.plan: TensorRT-RTX 1.7.1.116 cannot load it (it is bad)")
        assert "1.plan: TensorRT-RTX 1.7.1.116 refuses it (VERSION_MISMATCH, OLD_CUDA_DRIVER); update NVIDIA" in text
        assert "2.plan: TensorRT-RTX 1.7.1.116 refuses it (UNSUPPORTED_CC); pip install 'alexnet-deploy[gpu]'" in text
        assert "3.plan: TensorRT-RTX 1.7.1.116 refuses it (INSUFFICIENT_GPU_MEMORY); free GPU memory" in text
        assert "\n" not in text
        assert not rtx.device.live

    def test_the_loaded_one_is_told_to_who_asks(self, bundle: Bundle) -> None:
        selected = open_runner(bundle.engine(b"bad", b"good"), "tensorrt", verify=False)
        with closing(selected.runner) as runner:
            assert getattr(runner, "plan", None) == "1.plan"


def test_a_plan_for_this_very_gpu_comes_first(rtx: Bundle) -> None:
    engine = rtx.engine(b"good", b"good")
    (portable, path), own = engine.plans
    plans = ((dataclasses.replace(portable, target="sm80+"), path), own)
    with closing(tensorrt_plans.open_plan(dataclasses.replace(engine, plans=plans))) as runner:
        assert runner.plan == "1.plan"


def test_documents_do_not_refuse_what_the_full_tensorrt_built(full: Bundle) -> None:
    """It builds on the GPU itself, so it runs there."""
    full.device.capability = "sm101"
    tensorrt_plans.open_plan(full.engine(b"good", target="sm101")).close()


@pytest.mark.parametrize("capability", ["sm87", "sm90", "sm100", "sm110"])
def test_a_portable_plan_of_rtx_is_not_offered_to_a_gpu_it_does_not_support(
    capability: str, rtx: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtx.device.capability = capability
    with pytest.raises(UnavailableError, match=rf"does not support {capability}; .*alexnet-deploy\[gpu\]") as caught:
        tensorrt_plans.open_plan(rtx.engine(b"good", target="sm80+"))
    assert "build the bundle again" not in str(caught.value), "that would be refused again"


class TestVersionCompatible:
    COMPATIBLE = PlanOptions(version_compatible=True)

    @pytest.mark.parametrize(
        ("built", "here", "runs"),
        [
            ("11.0.0.1", "11.4.0.106", True),
            ("10.16.1.11", "11.4.0.106", True),
            ("11.5.0.1", "11.4.0.106", False),
            ("8.6.1", "11.4.0.106", False),
            ("11.4.0.106", "11.4.0.106", True),
            ("not a version", "11.4.0.106", False),
        ],
    )
    def test_runs_in_later_versions(
        self, built: str, here: str, runs: bool, full: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(tensorrt_plans.TRUST_VARIABLE, "1")
        assert full.library.version == here
        engine = full.engine(b"good", version=built, options=self.COMPATIBLE)
        if runs:
            tensorrt_plans.open_plan(engine).close()
        else:
            with pytest.raises(UnavailableError, match=f"built with tensorrt {built}, this machine has {here}"):
                tensorrt_plans.open_plan(engine)

    def test_its_code_runs_only_with_consent(self, full: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = full.engine(b"good", options=self.COMPATIBLE)
        runtime = full.library.api.Runtime(None)
        with pytest.raises(UnavailableError, match="contains code that TensorRT would run; if you trust the bundle"):
            tensorrt_plans.open_plan(engine)
        assert not runtime.engine_host_code_allowed
        monkeypatch.setenv(tensorrt_plans.TRUST_VARIABLE, "1")
        tensorrt_plans.open_plan(engine).close()
        assert runtime.engine_host_code_allowed

    def test_another_plan_may_never_bring_code(self, full: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(tensorrt_plans.TRUST_VARIABLE, "1")
        tensorrt_plans.open_plan(full.engine(b"good", options=PlanOptions())).close()
        assert not full.library.api.Runtime(None).engine_host_code_allowed


class TestVerify:
    """Answers of a plan beside those of ONNX Runtime on the CPU, for the sample photos."""

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path / "cache"))

    def test_profile_waits_for_the_kernels_that_it_measures_and_others_do_not(
        self, rtx: Bundle, tmp_path: Path
    ) -> None:
        engine = rtx.engine(b"good", onnx=self.onnx(tmp_path, 1, 2, 3))
        open_runner(engine, "tensorrt").runner.close()
        try_engine(engine, ProfileSettings(runtime="tensorrt"))
        strategies = [each.dynamic_shapes_kernel_specialization_strategy for each in rtx.loaded.runtime_configs]
        assert strategies == ["lazy", "eager"]

    @staticmethod
    def onnx(folder: Path, *factors: float) -> Path:
        """A graph whose logit k is ``factors[k]`` times the sum of the pixels; the fake GPU computes 1, 2, 3."""
        g = Graph()
        x = g.node("Cast", "pixels", to=TensorProto.FLOAT)
        x = g.node("ReduceSum", x, g.constant(np.array([1, 2, 3])), keepdims=0)
        x = g.node("Mul", g.node("Unsqueeze", x, g.constant(np.array([1]))), g.constant(np.float32([factors])))
        return g.save(g.node("Identity", x), folder / "model.onnx", ["N", 4, 4, 3], TensorProto.UINT8)

    def test_a_plan_with_the_right_answers_is_compared_once(self, bundle: Bundle, tmp_path: Path) -> None:
        engine = bundle.engine(b"good", onnx=self.onnx(tmp_path, 1, 2, 3))
        for compared in (True, False):
            bundle.device.moved.clear()
            selected = open_runner(engine)
            with closing(selected.runner) as runner:
                assert (runner.runtime, selected.passed_over) == ("tensorrt", ())
            assert bool(bundle.device.moved) is compared, "the first load runs the photos, later ones do not"

    def test_one_with_wrong_answers_is_passed_over_with_the_reason(self, bundle: Bundle, tmp_path: Path) -> None:
        engine = bundle.engine(b"good", onnx=self.onnx(tmp_path, 3, 1, 2))
        selected = open_runner(engine)
        with closing(selected.runner) as runner:
            assert runner.device == "cpu"
        (passed,) = [each for each in selected.passed_over if each.runtime == "tensorrt"]
        assert passed.doubted
        assert "differ by up to" in passed.reason
        assert not bundle.device.live

    def test_rounding_of_tf32_is_accepted_only_in_a_plan_that_allows_it(self, full: Bundle, tmp_path: Path) -> None:
        # 2**-8 off: more than float32 rounds, less than 10 bits of mantissa may over a few operands.
        onnx = self.onnx(tmp_path, 1, 2, 3 * (1 + 2**-8))
        for tf32 in (False, True):
            engine = full.engine(b"good", onnx=onnx, options=PlanOptions(tf32=tf32))
            selected = open_runner(dataclasses.replace(engine, precision="fp32"))
            with closing(selected.runner) as runner:
                assert (runner.runtime == "tensorrt") is tf32
