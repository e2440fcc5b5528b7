"""What ``build_engine`` makes on a machine whose GPU the installed TensorRT-RTX does not, or hardly, support."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.targets import why_no_plan_here
from alexnet_deploy.bundle.manifest import Manifest, open_bundle, verify
from alexnet_deploy.contract import Precision
from alexnet_deploy.errors import InputError, UnavailableError
from alexnet_deploy.runtime.select import open_runner
from alexnet_deploy.runtime.tensorrt import plans as tensorrt_plans
from tests.helpers.models.bundles import build_bundle
from tests.helpers.models.plans import full_tensorrt

pytestmark = pytest.mark.usefixtures("machine")
WITHOUT_RTX = ("sm87", "sm90", "sm100", "sm110")


def for_this_machine(onnx: Path, out: Path, precision: Precision, calibration_data: Path | None = None) -> Manifest:
    images = {} if calibration_data is None else {"calibration_images": 6}
    return build_bundle(onnx, out, precision, calibration_data, targets=(), **images)


@pytest.mark.parametrize("capability", WITHOUT_RTX)
def test_rtx_alone_has_no_plan_for_it(capability: str, machine: Callable[..., None]) -> None:
    machine(capability)
    reason = why_no_plan_here()
    assert reason is not None
    assert reason.startswith(f"TensorRT-RTX does not support {capability}; ")
    assert "pip install 'alexnet-deploy[gpu]'" in reason
    machine(capability, full_tensorrt([]))
    assert why_no_plan_here() is None, "the full TensorRT builds for it"


def test_a_gpu_that_rtx_does_not_know_gets_the_onnx(
    machine: Callable[..., None], tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("sm90")
    out = build_engine(tiny_onnx, tmp_path / "bundle", precision="fp16")
    made = verify(out)
    assert made.plans == ()
    (note,) = [note for note in made.notes if note.startswith("no TensorRT plan: ")]
    assert "TensorRT-RTX does not support sm90; " in note
    assert made.verification is not None, "a CPU runtime has run it"
    monkeypatch.setattr(tensorrt_plans, "has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(tensorrt_plans, "current_capability", lambda: "sm90")
    selected = open_runner(open_bundle(tmp_path / "bundle"))
    with closing(selected.runner) as runner:
        assert runner.device == "cpu"
    (reason,) = [passed.reason for passed in selected.passed_over if passed.runtime == "tensorrt"]
    assert reason.startswith("bundle holds no TensorRT plan; TensorRT-RTX does not support sm90; ")
    assert "build one: alexnet-deploy build-engine" not in reason, "that would give no plan again"


def test_who_asks_for_this_gpu_gets_an_error(machine: Callable[..., None], tiny_onnx: Path, tmp_path: Path) -> None:
    machine("sm90")
    with pytest.raises(UnavailableError, match=r"`targets` sm90: TensorRT-RTX .*alexnet-deploy\[gpu\]"):
        build_bundle(tiny_onnx, tmp_path / "bundle", targets=("current",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("capability", "precision", "says"),
    [
        ("sm75", "fp32", r"Turing \(sm75\) has no FP32 matrix multiply"),
        ("sm75", "int8+fp16", "layers did not get their precision"),
        ("sm86", "fp8", "sm86 has no FP8; choose sm89 or later"),
    ],
)
def test_what_rtx_does_not_promise_there_does_not_end_the_build(
    capability: str,
    precision: Precision,
    says: str,
    machine: Callable[..., None],
    tiny_onnx: Path,
    tmp_path: Path,
    photo_folder: Path,
) -> None:
    machine(capability)
    photos = photo_folder / "train" if "8" in precision else None
    made = for_this_machine(tiny_onnx, tmp_path / "bundle", precision, photos)
    assert made.plans == ()
    (note,) = [note for note in made.notes if note.startswith("no TensorRT plan for this GPU: ")]
    assert re.search(says, note)
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir() if path.suffix == ".plan") == []
    verify(tmp_path / "bundle")


def test_what_rtx_promises_there_is_built(machine: Callable[..., None], tiny_onnx: Path, tmp_path: Path) -> None:
    machine("sm75")
    assert [plan.target for plan in for_this_machine(tiny_onnx, tmp_path / "bundle", "fp16").plans] == ["sm75"]


def test_the_name_of_a_gpu_is_a_target(tiny_onnx: Path, tmp_path: Path) -> None:
    made = build_bundle(tiny_onnx, tmp_path / "bundle", "fp16", targets=("rtx4090", "NVIDIA L4", "a10"))
    assert [(plan.file, plan.target) for plan in made.plans] == [("sm89.plan", "sm89"), ("sm86.plan", "sm86")]


def test_a_fault_of_the_model_is_no_limit_of_the_gpu(
    machine: Callable[..., None], tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("sm89")

    def refused(*args: object, **kwargs: object) -> None:
        raise InputError("model.onnx: an operator that TensorRT does not have")

    monkeypatch.setattr("alexnet_deploy.build.engine.build_plans", refused)
    with pytest.raises(InputError, match="an operator"):
        for_this_machine(tiny_onnx, tmp_path / "bundle", "fp16")
