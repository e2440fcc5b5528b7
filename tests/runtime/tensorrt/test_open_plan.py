"""Which plan of a bundle is loaded, why another one is not, and what a GPU's wrong answers lead to; on a fake GPU."""

from __future__ import annotations

import dataclasses
from contextlib import closing

import numpy as np
import pytest

from alexnet_deploy.bundle.plan_options import PlanOptions
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.runtime.select import open_runner
from alexnet_deploy.runtime.tensorrt import plans as tensorrt_plans
from tests.helpers.fake_bundle import FakeBundle
from tests.helpers.fake_tensorrt import expected_logits
from tests.helpers.models.foreign_models import random_pixels

CLASSES = 3
PIXELS = random_pixels(2, 4, seed=1)


class TestTheNextPlan:
    def test_is_tried_when_the_library_refuses_the_first(self, bundle: FakeBundle) -> None:
        with closing(tensorrt_plans.open_plan(bundle.engine(b"bad", b"bad", b"good"))) as runner:
            assert runner.plan == "2.plan"
            np.testing.assert_array_equal(runner(PIXELS), expected_logits(PIXELS, CLASSES))
        assert not bundle.device.live

    def test_each_reason_is_given_when_none_is_left(self, rtx: FakeBundle) -> None:
        with pytest.raises(UnavailableError) as caught:
            tensorrt_plans.open_plan(rtx.engine(b"bad", b"old", b"cc!", b"mem"))
        text = str(caught.value)
        assert text.startswith("b: no plan for this machine (0.plan: TensorRT-RTX 1.7.1.116 cannot load it (it is bad)")
        assert "1.plan: TensorRT-RTX 1.7.1.116 refuses it (VERSION_MISMATCH, OLD_CUDA_DRIVER); update NVIDIA" in text
        assert "2.plan: TensorRT-RTX 1.7.1.116 refuses it (UNSUPPORTED_CC); on a machine with that GPU, pip" in text
        assert "3.plan: TensorRT-RTX 1.7.1.116 refuses it (INSUFFICIENT_GPU_MEMORY); free GPU memory" in text
        assert "\n" not in text
        assert not rtx.device.live

    @pytest.mark.parametrize("content", [b"drv", b"too old"])
    def test_a_driver_that_is_too_old_is_said_to_be_too_old(self, content: bytes, rtx: FakeBundle) -> None:
        """To build the bundle again, as for a damaged plan, would give another plan that does not load."""
        with pytest.raises(UnavailableError, match="NVIDIA's driver is missing, or too old") as caught:
            tensorrt_plans.open_plan(rtx.engine(content))
        assert "update the driver" in str(caught.value)
        assert "again" not in str(caught.value)
        assert not rtx.device.live

    def test_the_loaded_one_is_told_to_who_asks(self, bundle: FakeBundle) -> None:
        selected = open_runner(bundle.engine(b"bad", b"good"), "tensorrt", verify=False)
        with closing(selected.runner) as runner:
            assert getattr(runner, "plan", None) == "1.plan"


def test_a_plan_for_this_very_gpu_comes_first(rtx: FakeBundle) -> None:
    engine = rtx.engine(b"good", b"good")
    (portable, path), own = engine.plans
    plans = ((dataclasses.replace(portable, target="sm80+"), path), own)
    with closing(tensorrt_plans.open_plan(dataclasses.replace(engine, plans=plans))) as runner:
        assert runner.plan == "1.plan"


def test_documents_do_not_refuse_what_the_full_tensorrt_built(full: FakeBundle) -> None:
    """It builds on the GPU itself, so it runs there."""
    full.device.capability = "sm101"
    tensorrt_plans.open_plan(full.engine(b"good", target="sm101")).close()


@pytest.mark.parametrize(("card", "warned"), [("", False), ("NVIDIA A10", False), ("NVIDIA A2", True)])
def test_a_plan_that_another_model_of_gpu_built_is_used_with_a_warning(
    card: str, warned: bool, full: FakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the same capability. Its answers are compared on each model (test_compared.py)."""
    full.device.card = "NVIDIA A10"
    with closing(tensorrt_plans.open_plan(full.engine(b"good", card=card))) as runner:
        np.testing.assert_array_equal(runner(PIXELS), expected_logits(PIXELS, CLASSES))
    said = "was built on NVIDIA A2, and this GPU is NVIDIA A10"
    assert [said in record.getMessage() for record in caplog.records] == [True] * warned


@pytest.mark.parametrize("capability", ["sm87", "sm90", "sm100", "sm110"])
def test_a_portable_plan_of_rtx_is_not_offered_to_a_gpu_it_does_not_support(
    capability: str, rtx: FakeBundle, monkeypatch: pytest.MonkeyPatch
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
        self, built: str, here: str, runs: bool, full: FakeBundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(tensorrt_plans.TRUST_VARIABLE, "1")
        assert full.library.version == here
        engine = full.engine(b"good", version=built, options=self.COMPATIBLE)
        if runs:
            tensorrt_plans.open_plan(engine).close()
        else:
            with pytest.raises(UnavailableError, match=f"built with tensorrt {built}, this machine has {here}"):
                tensorrt_plans.open_plan(engine)

    def test_its_code_runs_only_with_consent(self, full: FakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = full.engine(b"good", options=self.COMPATIBLE)
        runtime = full.library.api.Runtime(None)
        with pytest.raises(UnavailableError, match="contains code that TensorRT would run; if you trust the bundle"):
            tensorrt_plans.open_plan(engine)
        assert not runtime.engine_host_code_allowed
        monkeypatch.setenv(tensorrt_plans.TRUST_VARIABLE, "1")
        tensorrt_plans.open_plan(engine).close()
        assert runtime.engine_host_code_allowed

    def test_another_plan_may_never_bring_code(self, full: FakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(tensorrt_plans.TRUST_VARIABLE, "1")
        tensorrt_plans.open_plan(full.engine(b"good", options=PlanOptions())).close()
        assert not full.library.api.Runtime(None).engine_host_code_allowed
