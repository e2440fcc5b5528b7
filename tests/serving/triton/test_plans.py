"""Plans of the full TensorRT in a repository. Their content does not matter here: it is copied, never read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.bundle.manifest import Plan, load_manifest, save_manifest
from alexnet_deploy.bundle.plan_options import PlanOptions
from alexnet_deploy.contract import BatchProfile
from tests.helpers.command import Command
from tests.serving.triton.reading import config_of


@pytest.fixture
def planned(here: Path) -> Path:
    """``exact`` with plans: full TensorRT for sm80 and sm90, TensorRT-RTX for sm89."""
    return _with_plans(here / "engines/exact", ("sm80", "10.13.3"), ("sm90", "10.13.3"))


def _with_plans(
    bundle: Path,
    *full: tuple[str, str],
    batch: BatchProfile | None = None,
    profiles: Sequence[BatchProfile] = (),
    **more: Any,
) -> Path:
    """``more`` are other options of the plans."""
    manifest = load_manifest(bundle)[0]
    options = PlanOptions(profiles=tuple(profiles), **more) if profiles or more else None
    added = tuple(Plan(f"{target.rstrip('+')}.plan", "tensorrt", version, target, options) for target, version in full)
    for plan in added:
        (bundle / plan.file).write_bytes(plan.target.encode())
    changed = dataclasses.replace(manifest, plans=(*manifest.plans, *added), batch=batch or manifest.batch)
    save_manifest(changed, bundle)
    return bundle


def test_one_target(command: Command, planned: Path) -> None:
    result = command("package", "exact", "--triton", "repo", "--target", "sm90")
    assert result.code == 0
    assert "needs a Triton with TensorRT 10.13.3" in result.err
    config = config_of(Path("repo/exact"))
    assert (config["backend"], config["platform"]) == ("tensorrt", "tensorrt_plan")
    assert config["instance_group"] == [{"count": 1, "kind": "KIND_GPU"}]
    assert config["cc_model_filenames"] == {"9.0": "model.plan"}
    assert Path("repo/exact/1/model.plan").read_bytes() == b"sm90"
    assert not Path("repo/exact/1/model.onnx").exists()


def test_several_targets(command: Command, planned: Path) -> None:
    command("package", "exact", "--triton", "repo", "--target", "sm80", "--target", "sm90", "--kserve")
    files = config_of(Path("repo/exact"))["cc_model_filenames"]
    assert {key: Path("repo/exact/1", name).read_bytes() for key, name in files.items()} == {
        "8.0": b"sm80",
        "9.0": b"sm90",
    }
    assert 'nvidia.com/gpu: "1"' in Path("repo/inferenceservice.yaml").read_text()


@pytest.mark.parametrize("name", ["h100", "NVIDIA H100 80GB HBM3", "SM90"])
def test_a_target_by_the_name_of_its_gpu(name: str, command: Command, planned: Path) -> None:
    assert command("package", "exact", "--triton", "repo", "--target", name).code == 0
    assert config_of(Path("repo/exact"))["cc_model_filenames"] == {"9.0": "model.plan"}


def test_a_plan_for_several_capabilities_serves_each_of_them_from_one_file(command: Command, here: Path) -> None:
    bundle = _with_plans(here / "engines/exact", ("sm80+", "10.13.3"), hardware_compatible="ampere+")
    ask = ["package", "exact", "--triton", "repo", "--target"]
    assert command(*ask, "sm89", "--target", "a10").code == 0
    assert config_of(Path("repo/exact"))["cc_model_filenames"] == {"8.9": "model.plan", "8.6": "model.plan"}
    assert [path.name for path in Path("repo/exact/1").iterdir()] == ["model.plan"]
    refused = command(*ask, "sm75")
    assert (refused.code, "has no plan for sm75; it has sm80+;" in refused.error) == (1, True)
    whole = command(*ask, "sm80+")
    assert whole.code == 2
    assert "--target sm80+: name each GPU that Triton will run on, such as sm89; a plan for sm80+" in whole.error
    _with_plans(bundle, ("sm89", "10.13.3"))  # one for this very capability comes first
    assert command(*ask, "sm89", "--target", "sm86").code == 0
    files = config_of(Path("repo/exact"))["cc_model_filenames"]
    assert {key: Path("repo/exact/1", name).read_bytes() for key, name in files.items()} == {
        "8.9": b"sm89",
        "8.6": b"sm80+",
    }


def test_a_version_compatible_plan_needs_a_flag_of_triton(command: Command, here: Path) -> None:
    _with_plans(here / "engines/exact", ("sm90", "10.13.3"), version_compatible=True)
    ran = command("package", "exact", "--triton", "repo", "--target", "sm90")
    assert ran.code == 0
    said = " ".join(ran.err.split())
    assert "TensorRT 10.13.3, or a later one of its major version, started with" in said
    assert "--backend-config=tensorrt,version-compatible=true" in said


PROFILES = (BatchProfile(1, 1, 1), BatchProfile(1, 8, 16), BatchProfile(17, 24, 32))


def test_a_plan_with_several_profiles(command: Command, here: Path) -> None:
    """Without their names Triton uses the first alone, whose one image is fewer than `max_batch_size`: it refuses."""
    bundle = _with_plans(here / "engines/exact", ("sm90", "10.13.3"), batch=BatchProfile(1, 8, 32), profiles=PROFILES)
    assert command("package", "exact", "--triton", "repo", "--target", "sm90", "--instances", "2").code == 0
    config = config_of(Path("repo/exact"))
    assert config["instance_group"] == [{"count": 2, "kind": "KIND_GPU", "profile": ["0", "1", "2"]}]
    assert config["max_batch_size"] == max(profile.max for profile in PROFILES)
    assert config["dynamic_batching"]["preferred_batch_size"] == [1, 8, 24, 32]
    assert [each["batch_size"] for each in config["model_warmup"]] == [1, 8, 24, 32]  # each profile runs once
    assert load_manifest(bundle)[0].plans[-1].options == PlanOptions(profiles=PROFILES)
    assert command("package", "exact", "--triton", "onnx").code == 0
    assert "profile" not in config_of(Path("onnx/exact"))["instance_group"][0]  # ONNX Runtime has none


def test_plans_of_different_profiles(command: Command, planned: Path) -> None:
    """One instance group is for all GPUs."""
    _with_plans(planned, ("sm86", "10.13.3"), profiles=(BatchProfile(1, 1, 1), BatchProfile(1, 8, 32)))
    result = command("package", "exact", "--triton", "repo", "--target", "sm80", "--target", "sm86")
    assert result.code == 1
    assert result.error.endswith(
        "its plans for sm80, sm86 have different optimisation profiles, and Triton takes the same ones of each; build "
        "them with the same profiles, or package one target"
    )
    assert not Path("repo").exists()
    assert command("package", "exact", "--triton", "repo", "--target", "sm86").code == 0


def test_a_plan_of_tensorrt_rtx(command: Command, planned: Path) -> None:
    result = command("package", "exact", "--triton", "repo", "--target", "sm89")
    assert result.code == 1
    assert result.error == (
        "error: exact: its plan for sm89 is of TensorRT-RTX, which Triton cannot load; build it with the full "
        "TensorRT on that GPU, or leave out --target to serve its ONNX"
    )
    assert not Path("repo").exists()


def test_no_plan_for_the_target(command: Command, planned: Path) -> None:
    result = command("package", "exact", "--triton", "repo", "--target", "sm75")
    assert (result.code, "has no plan for sm75; it has sm80, sm90;" in result.error) == (1, True)


def test_plans_of_two_versions(command: Command, planned: Path) -> None:
    _with_plans(planned, ("sm86", "10.14.1"))
    result = command("package", "exact", "--triton", "repo", "--target", "sm80", "--target", "sm86")
    assert (result.code, "different versions of TensorRT" in result.error) == (1, True)


def test_plans_that_take_no_small_batch(command: Command, here: Path) -> None:
    """Triton cannot promise a minimum, and such a plan would fail at run time."""
    _with_plans(here / "engines/exact", ("sm90", "10.13.3"), batch=BatchProfile(4, 8, 32))
    result = command("package", "exact", "--triton", "repo", "--target", "sm90")
    assert result.code == 1
    assert result.error.endswith(
        "its plans take 4 images or more, and Triton also sends fewer; build it for batches from 1 image on, or leave "
        "out --target"
    )
    assert command("package", "exact", "--triton", "repo").code == 0  # its ONNX takes any
