"""What ``infer`` says of a GPU or a plan that it cannot use: one line, with the next step; on a fake GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.bundle.manifest import MODEL, Manifest, Plan, save_manifest
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.runtime.cuda import device as device_module
from alexnet_deploy.runtime.cuda.errors import gpu_error
from alexnet_deploy.runtime.tensorrt import plans as tensorrt_plans
from alexnet_deploy.runtime.tensorrt.library import EXTRA, FULL, RTX, TensorRT
from tests.helpers.command import Command, RunResult
from tests.helpers.cuda_libraries import FakeCudart, cudart_module
from tests.helpers.fake_device import FakeDevice
from tests.helpers.fake_tensorrt import fake_tensorrt
from tests.helpers.models.onnx_models import CLASSES, SIDE, TINY_CONTRACT

INFER = ("infer", "photos", "--engine", "planned", "--runtime", "tensorrt", "--no-verify", "--batch", 1)
PLANS = {FULL: Plan("full.plan", FULL, "11.4.0.106", "sm89"), RTX: Plan("rtx.plan", RTX, "1.7.1.116", "sm80+")}


class Machine:
    """The engine ``planned`` of the current folder has ``plans``; the machine has a GPU and ``installed``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        Path("planned").mkdir()
        Path("tiny.onnx").rename(Path("planned", MODEL))

    def has(
        self, *plans: str, installed: tuple[str, ...] = (FULL, RTX), device: FakeDevice | None = None, bad: str = ""
    ) -> FakeDevice:
        """``bad`` is the builder whose plan does not load."""
        added = tuple(PLANS[name] for name in plans)
        for plan in added:
            Path("planned", plan.file).write_bytes(b"bad" if plan.builder == bad else b"good")
        save_manifest(Manifest("fp32", TINY_CONTRACT, BatchProfile(1, 4, 8), {}, added), Path("planned"))
        gpu = device or FakeDevice()
        libraries = {name: fake_tensorrt(gpu, rtx=name == RTX, side=SIDE, classes=CLASSES)[0] for name in installed}

        def load(name: str) -> TensorRT:
            if name not in libraries:
                raise UnavailableError(f"{name} is not installed; pip install 'alexnet-deploy[{EXTRA[name]}]'")
            return libraries[name]

        self._monkeypatch.setattr(tensorrt_plans, "load", load)
        self._monkeypatch.setattr(tensorrt_plans, "open_device", lambda: gpu)
        return gpu


@pytest.fixture
def machine(place: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def refused(ran: RunResult) -> str:
    """The one line of a command that did nothing."""
    assert (ran.code, ran.out) == (1, "")
    assert "Traceback" not in ran.err
    assert ran.err.count("error: ") == 1
    return ran.error


def test_a_plan_of_another_card(machine: Machine, command: Command) -> None:
    machine.has(FULL, device=FakeDevice(capability="sm90"))
    assert refused(command(*INFER)) == (
        "error: planned: no plan for this machine (full.plan: built for sm89, this GPU is sm90; build the bundle again "
        "on this machine)"
    )


@pytest.mark.parametrize("bad", [FULL, RTX])
def test_of_two_flavours_of_tensorrt_the_one_whose_plan_loads_runs(
    bad: str, machine: Machine, command: Command
) -> None:
    machine.has(FULL, RTX, bad=bad)
    ran = command(*INFER)
    assert ran.code == 0, ran.err
    assert ("TensorRT-RTX 1.7.1.116" in ran.err) is (bad == FULL)
    assert len(ran.out.splitlines()) == 6


@pytest.mark.parametrize(("have", "plan"), [(RTX, FULL), (FULL, RTX)])
def test_the_other_flavour_of_tensorrt(have: str, plan: str, machine: Machine, command: Command) -> None:
    machine.has(plan, installed=(have,))
    assert f"({PLANS[plan].file}: {plan} is not installed; pip install " in refused(command(*INFER))


def test_an_old_driver(machine: Machine, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.has(FULL)
    cudart = FakeCudart(fails="cudaGetDeviceCount")
    cudart.error = ("cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version")
    opened = cudart_module(monkeypatch, cudart).CudartDevice
    monkeypatch.setattr(device_module, "_through_cuda_python", opened)
    monkeypatch.setattr(tensorrt_plans, "open_device", device_module.open_device)

    def no_pycuda(index: int) -> Any:
        raise ModuleNotFoundError("pycuda")

    monkeypatch.setattr(device_module, "_through_pycuda", no_pycuda)
    line = refused(command(*INFER))
    assert "NVIDIA's driver is missing, or too old for this version of CUDA (cudaErrorInsufficientDriver" in line
    assert "check nvidia-smi, CUDA_VISIBLE_DEVICES and the driver's version" in line


class Full(FakeDevice):
    """Has room for some allocations alone."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def allocate(self, nbytes: int) -> int:
        if len(self.memory) == self.room:
            raise _no_room(nbytes)
        return super().allocate(nbytes)


def _no_room(nbytes: int) -> UnavailableError:
    said = "cudaErrorMemoryAllocation (out of memory)"
    error = gpu_error("cudaMalloc", said, needed=nbytes, memory=lambda: (3 << 20, 16 << 30))
    assert error is not None
    return error


@pytest.mark.parametrize("room", [0, 1])
def test_a_full_gpu(room: int, machine: Machine, command: Command) -> None:
    gpu = machine.has(FULL, device=Full(room))
    line = refused(command(*INFER))
    assert "the GPU is out of memory (" in line
    assert " needed, 3 MiB of 16.0 GiB free); use a smaller batch, or stop the other programs" in line
    assert not gpu.live


class Fails(FakeDevice):
    """Is lost when it is waited for the ``left``-th time."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def synchronize(self, stream: int) -> None:
        self.left -= 1
        self.lost = self.lost or self.left < 0
        super().synchronize(stream)


@pytest.mark.parametrize("left", [0, 3])
def test_a_card_that_is_lost_in_the_middle(left: int, machine: Machine, command: Command) -> None:
    asked: list[Any] = [*INFER, "--format", "csv", "--output", "rows.csv"]
    machine.has(FULL, device=Fails(left))
    ran = command(*asked)
    assert ran.code == 1
    assert "Traceback" not in ran.err
    assert "the GPU stopped working in this process; start again" in ran.error
    assert not Path("rows.csv").exists()
    machine.has(FULL)
    ran = command(*asked, "--resume")
    assert ran.code == 0, ran.err
    assert len(Path("rows.csv").read_text().splitlines()) == 1 + 6
