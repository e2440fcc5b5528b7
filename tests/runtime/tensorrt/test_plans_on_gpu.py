"""What only a GPU can show of TensorRT plans: each precision, profile and option beside ONNX Runtime on the CPU."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.build.plans import build_plans
from alexnet_deploy.bundle.manifest import Plan
from alexnet_deploy.bundle.plan_options import PlanOptions
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import DeployError
from alexnet_deploy.runtime.cuda.device import current_capability
from alexnet_deploy.runtime.tensorrt import plans as tensorrt_plans
from alexnet_deploy.runtime.tensorrt.library import FULL, RTX, installed
from alexnet_deploy.runtime.tensorrt.runner import TensorRTRunner
from alexnet_deploy.runtime.tensorrt.support import is_limit, why_unsupported
from tests.helpers.gpu import require_gpu
from tests.helpers.models.foreign_models import random_pixels
from tests.helpers.models.onnx_models import PRECISIONS, SIDE, TINY_CONTRACT, tiny_classifier

pytestmark = pytest.mark.gpu

BATCH = BatchProfile(1, 4, 8)
TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2}
"""Of the range of the logits, as in ``runtime.reference``."""
QUANTISED = 0.1
"""The same for int8 and fp8: values that a GPU rounds elsewhere fall on neighbouring steps."""


@pytest.fixture(scope="module")
def library() -> str:
    """The TensorRT that builds for the GPU of this machine, or a skip with the reason."""
    here = require_gpu()
    libraries = installed()
    if FULL in libraries:
        return FULL
    if RTX not in libraries:
        pytest.skip("no TensorRT is installed")
    reason = why_unsupported(RTX, libraries[RTX].version, here)
    if reason is not None:
        pytest.skip(reason)
    return RTX


@pytest.fixture(autouse=True)
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


def built(onnx: Path, **options: object) -> tuple[Plan, Path]:
    (made,) = build_plans(
        onnx,
        onnx.parent,
        batch=BATCH,
        targets=["current"],
        options=PlanOptions(**options),  # type: ignore[arg-type]
    ).plans
    return made.plan, onnx.parent / made.plan.file


def agrees(runner: TensorRTRunner, onnx: Path, precision: str) -> None:
    """The runner answers every batch size as ONNX Runtime on the CPU does, at first and from its graph."""
    from alexnet_deploy.runtime.onnxruntime.runner import OnnxRuntimeRunner

    reference = OnnxRuntimeRunner(onnx, TINY_CONTRACT, precision=precision, exact=True)
    for count in (*range(1, BATCH.max + 1), 1, BATCH.max):
        images = random_pixels(count, SIDE, seed=count)
        expected_NK = reference(images)
        bound = TOLERANCE.get(precision, QUANTISED) * float(np.ptp(expected_NK))
        np.testing.assert_allclose(runner(images), expected_NK, rtol=0, atol=bound)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_precision_answers_as_the_cpu_does(precision: str, library: str, tmp_path: Path) -> None:
    here, version = current_capability(), installed()[library].version
    assert here is not None
    if is_limit(library, version, here, precision):
        pytest.skip(f"no document lists {precision} for {here} in {library} {version}")
    onnx = tiny_classifier(tmp_path / "model.onnx", precision)
    plan, path = built(onnx)
    with closing(tensorrt_plans.load_plan(path, plan, TINY_CONTRACT, BATCH)) as runner:
        agrees(runner, onnx, precision)


def test_several_profiles(library: str, tmp_path: Path) -> None:
    onnx = tiny_classifier(tmp_path / "model.onnx", "fp16")
    plan, path = built(onnx, profiles=(BatchProfile(1, 1, 1), BATCH))
    with closing(tensorrt_plans.load_plan(path, plan, TINY_CONTRACT, BATCH)) as runner:
        agrees(runner, onnx, "fp16")
        with closing(runner.fork()) as fork:
            agrees(fork, onnx, "fp16")


@pytest.mark.parametrize("eager", [False, True])
def test_kernels_of_rtx_are_kept(eager: bool, library: str, tmp_path: Path, kernels: Path) -> None:
    if library != RTX:
        pytest.skip("the full TensorRT compiles when it builds")
    onnx = tiny_classifier(tmp_path / "model.onnx", "fp16")
    plan, path = built(onnx)
    for _ in range(2):
        with closing(tensorrt_plans.load_plan(path, plan, TINY_CONTRACT, BATCH, eager=eager)) as runner:
            agrees(runner, onnx, "fp16")
        (file,) = kernels.iterdir()
        assert file.stat().st_size > 0


class TestTheFullTensorRT:
    @pytest.fixture(autouse=True)
    def full(self, library: str) -> None:
        if library != FULL:
            pytest.skip("needs the full TensorRT")

    @pytest.fixture(
        params=[
            {"hardware_compatible": "ampere+"},
            {"hardware_compatible": "sameComputeCapability"},
            {"version_compatible": True},
            {"optimization_level": 5},
            {"tf32": True},
        ],
        ids=str,
    )
    def options(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
        monkeypatch.setenv(tensorrt_plans.TRUST_VARIABLE, "1")
        return dict(request.param)

    def test_each_option_gives_a_plan_that_runs(self, options: dict[str, object], tmp_path: Path) -> None:
        onnx = tiny_classifier(tmp_path / "model.onnx", "fp16")
        plan, path = built(onnx, **options)
        with closing(tensorrt_plans.load_plan(path, plan, TINY_CONTRACT, BATCH)) as runner:
            agrees(runner, onnx, "fp16")

    def test_timings_are_kept(self, tmp_path: Path) -> None:
        onnx = tiny_classifier(tmp_path / "model.onnx", "fp16")
        timings = tmp_path / "timings"
        for _ in range(2):
            build_plans(onnx, tmp_path, batch=BATCH, targets=["current"], timings=timings)
            (file,) = timings.iterdir()
            assert file.stat().st_size > 0


def test_a_plan_of_another_gpu_is_refused_in_one_line(library: str, tmp_path: Path) -> None:
    plan, path = built(tiny_classifier(tmp_path / "model.onnx", "fp16"))
    other = Plan(plan.file, plan.builder, plan.version, "sm75" if current_capability() != "sm75" else "sm80")
    with pytest.raises(DeployError, match="built for sm") as caught:
        tensorrt_plans.load_plan(path, other, TINY_CONTRACT, BATCH)
    assert "\n" not in str(caught.value)
