"""What ``build_engine`` makes on a machine whose GPU the installed TensorRT-RTX does not, or hardly, support."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.targets import choose_builder, why_no_plan_here
from alexnet_deploy.bundle.manifest import Manifest
from alexnet_deploy.bundle.verified import open_bundle, verify
from alexnet_deploy.contract import Precision
from alexnet_deploy.errors import InputError, UnavailableError, UsageError
from alexnet_deploy.runtime.select import open_runner
from alexnet_deploy.runtime.tensorrt import plans as tensorrt_plans
from alexnet_deploy.runtime.tensorrt.library import FULL, RTX, TensorRT
from alexnet_deploy.runtime.tensorrt.support import describe
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
    made = verify(out)[0]
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


def refusing(version: str) -> TensorRT:
    """A full TensorRT that does not support the GPU at hand, as it says when it builds."""
    library = full_tensorrt([])

    class Api:
        def __getattr__(self, name: str) -> Any:
            return getattr(library.api, name)

        def Builder(self, logger: object) -> Any:
            builder = library.api.Builder(logger)

            def refuse(*args: object) -> bool:
                library.messages.errors.append("Error Code 9: API Usage Error (Target GPU SM is not supported by it)")
                return False

            parts = ("create_network", "create_builder_config", "create_optimization_profile")
            return SimpleNamespace(
                build_serialized_network_to_stream=refuse,
                build_serialized_network=lambda *args: None,
                **{part: getattr(builder, part) for part in parts},
            )

    return dataclasses.replace(library, version=version, api=Api())


def test_the_full_tensorrt_without_a_usable_gpu_makes_the_bundle_without_a_plan(
    machine: Callable[..., None], tiny_onnx: Path, tmp_path: Path
) -> None:
    machine(None, full_tensorrt([]), rtx=False)
    made = for_this_machine(tiny_onnx, tmp_path / "bundle", "fp16")
    assert made.plans == ()
    (note,) = [note for note in made.notes if note.startswith("no TensorRT plan: TensorRT 11.4")]
    assert note.endswith("CUDA opens none here; pip install 'alexnet-deploy[rtx]' builds ahead of time")
    with pytest.raises(UnavailableError, match=r"`targets` sm89: TensorRT 11.4.* builds only for its own GPU"):
        build_bundle(tiny_onnx, tmp_path / "named", "fp16", targets=("sm89",))


@pytest.mark.parametrize(
    ("capability", "version"),
    [("sm70", "10.16.1.11"), ("sm100", "10.3.0.26"), ("sm130", "11.4.0.106")],  # gone, not yet there, not yet known
)
def test_a_gpu_that_the_full_tensorrt_refuses_gets_the_onnx(
    capability: str, version: str, machine: Callable[..., None], tiny_onnx: Path, tmp_path: Path
) -> None:
    for rtx in (False, True):
        machine(capability, refusing(version), rtx=rtx)
        made = for_this_machine(tiny_onnx, tmp_path / f"bundle {rtx}", "fp16")
        assert made.plans == ()
        (note,) = [note for note in made.notes if note.startswith("no TensorRT plan for this GPU: ")]
        assert "Target GPU SM is not supported" in note
        verify(tmp_path / f"bundle {rtx}")
        with pytest.raises(InputError, match="is not supported by it"):
            build_bundle(tiny_onnx, tmp_path / "named", "fp16", targets=("current",))


def test_of_both_the_one_that_supports_this_gpu_builds(
    machine: Callable[..., None], tiny_onnx: Path, tmp_path: Path
) -> None:
    machine("sm120", refusing("10.3.0.26"))
    made = for_this_machine(tiny_onnx, tmp_path / "bundle", "fp16")
    assert [(plan.builder, plan.target) for plan in made.plans] == [(RTX, "sm120")]


def test_a_failure_on_a_gpu_that_the_full_tensorrt_supports_ends_the_build(
    machine: Callable[..., None], tiny_onnx: Path, tmp_path: Path
) -> None:
    machine("sm90", refusing("10.16.1.11"), rtx=False)
    for precision in ("fp16", "int8-weights"):
        with pytest.raises(InputError, match="is not supported by it"):
            for_this_machine(tiny_onnx, tmp_path / "bundle", precision)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("capability", ["sm53", "sm61", "sm70", "sm72"])
def test_nobody_is_sent_to_a_package_that_does_not_support_the_gpu(
    capability: str, machine: Callable[..., None]
) -> None:
    machine(capability)
    texts = [why_no_plan_here(), describe(RTX, "1.7.1", capability), describe(FULL, "10.16.1", capability)]
    with pytest.raises(UnavailableError) as caught:
        choose_builder([capability, "sm89"])
    for text in (*texts, str(caught.value)):
        assert text is not None
        assert "pip install" not in text
        assert "run the ONNX with `runtime` onnxruntime" in text


def test_a_target_is_answered_under_the_name_it_was_given(machine: Callable[..., None]) -> None:
    with pytest.raises(UsageError, match=r"`targets` NVIDIA H100 80GB HBM3 \(sm90\): TensorRT-RTX"):
        choose_builder(["NVIDIA H100 80GB HBM3"])


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
