"""Which plan runs here, what a plan must be, and TensorRT's own causes; on a fake GPU."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.bundle.manifest import Engine, Plan
from alexnet_deploy.errors import ArtifactError, InputError, UnavailableError
from alexnet_deploy.runtime.tensorrt import plans as tensorrt_plans
from alexnet_deploy.runtime.tensorrt.library import cause_in, installed
from tests.helpers.fake_device import FakeDevice
from tests.helpers.fake_tensorrt import FakeMachine, expected_logits, fake_tensorrt

SIDE, CLASSES = 4, 3
CONTRACT, BATCH = FakeMachine.contract, FakeMachine.batch


class TestWhyNot:
    @pytest.mark.parametrize(
        ("target", "capability", "runs"),
        [
            ("sm89", "sm89", True),
            ("sm89", "sm86", False),
            ("sm86", "sm89", False),
            ("sm80+", "sm80", True),
            ("sm80+", "sm120", True),
            ("sm80+", "sm75", False),
            ("sm89+", "sm86", False),
            ("sm89+", "sm121", True),
            ("anything", "sm89", False),
        ],
    )
    def test_a_plan_runs_on_its_own_target(
        self, target: str, capability: str, runs: bool, machine: FakeMachine
    ) -> None:
        device = FakeDevice(capability=capability)
        plan = dataclasses.replace(machine.install(fake_tensorrt(device)[0]), target=target)
        reason = tensorrt_plans.why_not(plan, machine.plan_file, device)
        assert (reason is None) is runs
        if reason is not None:
            assert target in reason
            assert capability in reason

    def test_another_version(self, machine: FakeMachine) -> None:
        device = FakeDevice()
        plan = dataclasses.replace(machine.install(fake_tensorrt(device)[0]), version="10.16.1.11")
        reason = "built with tensorrt 10.16.1.11, this machine has 11.4.0.106; build the bundle again on this machine"
        assert tensorrt_plans.why_not(plan, machine.plan_file, device) == reason

    def test_not_installed(self) -> None:
        absent = "tensorrt" if "tensorrt" not in installed() else None
        if absent is None:
            pytest.skip("both TensorRTs are installed")
        assert tensorrt_plans.why_not(
            Plan("sm89.plan", absent, "11.4.0.106", "sm89"), Path("sm89.plan"), FakeDevice()
        ) == ("tensorrt is not installed; pip install 'alexnet-deploy[gpu]'")

    def test_a_manifest_cannot_name_a_module_to_import(self) -> None:
        sys.modules.pop("this", None)
        reason = tensorrt_plans.why_not(Plan("sm89.plan", "this", "1", "sm89"), Path("sm89.plan"), FakeDevice())
        assert reason == "'this' is not a TensorRT that this version supports (tensorrt, tensorrt_rtx)"
        assert "this" not in sys.modules

    def test_no_gpu_costs_no_tensorrt(self, monkeypatch: pytest.MonkeyPatch, machine: FakeMachine) -> None:
        def no_device() -> FakeDevice:
            raise UnavailableError("cudaGetDeviceCount: cudaErrorNoDevice")

        plan = machine.install(fake_tensorrt(FakeDevice())[0])
        monkeypatch.setattr(tensorrt_plans, "open_device", no_device)
        monkeypatch.setattr(tensorrt_plans, "load", None)
        assert (
            tensorrt_plans.why_not(plan, machine.plan_file) == "no CUDA device (cudaGetDeviceCount: cudaErrorNoDevice)"
        )
        bundle = Engine("alexnet-fp16", Path("model.onnx"), CONTRACT, "fp16", BATCH, ((plan, Path("sm89.plan")),))
        with pytest.raises(
            UnavailableError, match=r"alexnet-fp16: no plan for this machine \(sm89.plan: no CUDA device"
        ):
            tensorrt_plans.open_plan(bundle)

    def test_the_plan_for_the_gpu_at_hand_is_taken(self, monkeypatch: pytest.MonkeyPatch, machine: FakeMachine) -> None:
        device = FakeDevice(capability="sm89")
        monkeypatch.setattr(tensorrt_plans, "open_device", lambda: device)
        fits = machine.install(fake_tensorrt(device, side=SIDE, classes=CLASSES)[0])
        other = dataclasses.replace(fits, file="sm86.plan", target="sm86")
        plans = ((other, machine.plan_file.with_name("not-there.plan")), (fits, machine.plan_file))
        engine = Engine("b", Path("model.onnx"), CONTRACT, "fp16", BATCH, plans)
        pixels = np.ones((1, SIDE, SIDE, 3), np.uint8)
        with closing(tensorrt_plans.open_plan(engine)) as runner:
            assert runner.plan == fits.file
            np.testing.assert_array_equal(runner(pixels), expected_logits(pixels, CLASSES))

    def test_a_bundle_without_plans(self) -> None:
        with pytest.raises(UnavailableError, match="holds no TensorRT plan"):
            tensorrt_plans.open_plan(Engine("b", Path("model.onnx"), CONTRACT, "fp16", BATCH))


class TestBadPlans:
    def test_refused_before_it_is_loaded(self, machine: FakeMachine) -> None:
        machine.plan_file.write_bytes(b"old")
        with pytest.raises(UnavailableError, match=r"refuses it \(VERSION_MISMATCH, OLD_CUDA_DRIVER\)"):
            machine.load(FakeDevice(), rtx=True)

    def test_does_not_load(self, machine: FakeMachine) -> None:
        machine.plan_file.write_bytes(b"bad")
        device = FakeDevice()
        with pytest.raises(UnavailableError, match=r"cannot load it \(it is bad\)"):
            machine.load(device)
        assert not device.live

    def test_is_missing(self, machine: FakeMachine) -> None:
        machine.plan_file.unlink()
        with pytest.raises(InputError, match="No such file"):
            machine.load(FakeDevice())

    @pytest.mark.parametrize(("side", "classes"), [(SIDE + 1, CLASSES), (SIDE, CLASSES + 1)])
    def test_of_other_shapes_than_the_contract_says(self, side: int, classes: int, machine: FakeMachine) -> None:
        device = FakeDevice()
        library, _ = fake_tensorrt(device, side=side, classes=classes)
        with pytest.raises(ArtifactError, match=rf"pixels uint8 \[N, {side}, {side}, 3\]"):
            tensorrt_plans.load_plan(machine.plan_file, machine.install(library), CONTRACT, BATCH, device=device)
        assert not device.live


@pytest.mark.parametrize(
    ("messages", "line"),
    [
        ([], "no reason given"),
        (
            [
                "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check] Cannot compile "
                "operation 'fc' for Turing (SM75): FP32 GEMM is not supported. In compile at /_src/a.cpp:2012)"
            ],
            "Cannot compile operation 'fc' for Turing (SM75): FP32 GEMM is not supported",
        ),
        (
            [
                "Invalid Node - mul\nITensor::getDimensions: Error Code 4: API Usage Error (mul: ElementWiseOperation "
                "PROD must have same input types. In validateTypes at /_src/elementWiseNode.cpp:40)\n"
                "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/x.cpp:1)"
            ],
            "mul: ElementWiseOperation PROD must have same input types",
        ),
        (
            [
                "IRuntime::deserializeCudaEngine: Error Code 1: Cuda Runtime (In ScopedCudaStream at /_src/c.cpp:25 "
                "(cudaError 35: CUDA driver version is insufficient for CUDA runtime version))"
            ],
            "cudaError 35: CUDA driver version is insufficient for CUDA runtime version",
        ),
    ],
)
def test_tensorrts_messages_become_one_line(messages: list[str], line: str) -> None:
    assert cause_in(messages) == line
