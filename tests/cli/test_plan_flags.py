"""The flags of ``build-engine`` about plans, and GPUs that the installed TensorRT-RTX does not support."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alexnet_deploy.bundle.manifest import load_manifest
from alexnet_deploy.bundle.plan_options import PlanOptions
from alexnet_deploy.cli.trtexec import as_trtexec
from tests.helpers.command import Command

pytest.importorskip("tensorrt_rtx", reason="needs the extra 'rtx'")

SMALL = ("--profile", "1,1,1", "--profile", "1,2,4")


def test_flags_reach_the_plan_and_are_shown_as_trtexecs(command: Command, here: Path) -> None:
    flags = (*SMALL, "--workspace", "2GiB", "--tf32", "--optimization-level", 5)
    ran = command("build-engine", "--fp16", "--target", "rtx4090", *flags, "-o", "engines/b", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    (plan,) = report["plans"]
    assert (plan["file"], plan["target"]) == ("sm89.plan", "sm89")
    assert plan["options"] == {
        "hardware_compatible": "none",
        "version_compatible": False,
        "optimization_level": 5,
        "workspace_mib": 2048,
        "tf32": True,
        "profiles": [{"min": 1, "opt": 1, "max": 1}, {"min": 1, "opt": 2, "max": 4}],
    }
    assert report["batch"] == {"min": 1, "opt": 2, "max": 4}
    shown = command("inspect", "b").out
    assert "plan for sm89 --builderOptimizationLevel=5 --memPoolSize=workspace:2048 --profile=0 --profile=1" in shown
    assert "--optimization-level 5 is not used: TensorRT-RTX" in shown
    assert not Path("engines/.timing-cache").exists(), "TensorRT-RTX has no timings"


def test_only_what_differs_from_trtexecs_defaults_is_shown() -> None:
    assert as_trtexec(PlanOptions()) == ("--noTF32",)
    assert as_trtexec(PlanOptions(tf32=True)) == ()
    options = PlanOptions(hardware_compatible="ampere+", version_compatible=True, tf32=True)
    assert as_trtexec(options) == ("--hardwareCompatibilityLevel=ampere+", "--versionCompatible")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--profile", "1,1,1", "--profile", "8,8,8"), "--profile: no profile has batches of 2..7"),
        ((*SMALL, "--max-batch", 4), "--profile sets the batch sizes: leave out --min-batch"),
        (("--profile", "1,8"), "'1,8' is not a smallest, tuned and largest batch, such as 1,8,32"),
        (("--profile", "8,4,32"), "is below"),
        (("--workspace", "512"), "'512' is not a size with its unit"),
        (("--hardware-compatible", "ampere+"), "--hardware-compatible ampere+: is for the full TensorRT"),
        (("--version-compatible",), "--version-compatible: is for the full TensorRT"),
        (("--optimization-level", 6), "--optimization-level 6: choose from 0"),
        (("--target", "rtx4091"), "--target rtx4091: unknown; did you mean"),
        (("--target", "h100"), "--target h100 (sm90): TensorRT-RTX"),
    ],
)
def test_what_cannot_be_is_a_usage_error(flags: tuple[object, ...], says: str, command: Command, here: Path) -> None:
    target = () if "--target" in flags else ("--target", "sm89")
    ran = command("build-engine", "--fp16", *target, *flags, "-o", "engines/b")
    assert ran.code == 2, ran.out
    assert says in ran.error
    assert not Path("engines/b").exists()


def test_int8_of_rtx_carries_a_note(command: Command, here: Path) -> None:
    calibration = ("--calibration-data", "photos/train", "--calibration-images", 4)
    built = command("build-engine", "--int8", *calibration, "--target", "sm89", "-o", "engines/b")
    assert built.code == 0, built.err
    note = "NVIDIA documents int8 there for weights alone"
    for printed in (built.out, command("inspect", "b").out):
        assert note in " ".join(printed.split())
    assert [text for text in load_manifest(here / "engines/b")[0].notes if note in text]


def test_a_gpu_without_a_plan_does_not_stop_the_demo(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_deploy.build.targets.current_capability", lambda: "sm90")
    built = command("build-engine", "--fp16", "-o", "engines/b")
    assert built.code == 0, built.err
    said = " ".join(built.out.split())
    assert "no TensorRT plan: TensorRT-RTX does not support sm90; " in said
    assert "pip install 'alexnet-deploy[gpu]'" in said
    answered = command("infer", "photos/val", "--engine", "b", "--format", "jsonl")
    assert answered.code == 0, answered.err
    assert answered.out.count('"file"') == 6
