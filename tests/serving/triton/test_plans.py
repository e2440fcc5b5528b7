"""Plans of the full TensorRT in a repository. Their content does not matter here: it is copied, never read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from alexnet_deploy.bundle.manifest import Plan, load_manifest, save_manifest
from alexnet_deploy.contract import BatchProfile
from tests.helpers.command import Command
from tests.serving.triton.reading import config_of


@pytest.fixture
def planned(here: Path) -> Path:
    """``exact`` with plans: full TensorRT for sm80 and sm90, TensorRT-RTX for sm89."""
    return _with_plans(here / "engines/exact", ("sm80", "10.13.3"), ("sm90", "10.13.3"))


def _with_plans(bundle: Path, *full: tuple[str, str], batch: BatchProfile | None = None) -> Path:
    manifest = load_manifest(bundle)[0]
    added = tuple(Plan(f"{target}.plan", "tensorrt", version, target) for target, version in full)
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
