"""NVML by a fake of its Python module, whose every name and number the real one has."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alexnet_deploy.machine.gpu import (
    LIMITS,
    SLOWDOWNS,
    CardData,
    GpuState,
    NvmlGpu,
    driver_version,
    has_nvidia_gpu,
    open_gpu,
)

pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")


class FakeError(Exception):
    pass


def fake(*, gpus: int = 1, reasons: int = 0, refuses: frozenset[str] = frozenset()) -> SimpleNamespace:
    """``gpus`` GPUs at 1500 MHz, 70 W, 60 °C; the functions in ``refuses`` raise."""

    def function(name: str, result: Any) -> Any:
        def call(*arguments: Any) -> Any:
            if name in refuses:
                raise FakeError(name)
            return result(*arguments) if callable(result) else result

        return call

    values = {
        "nvmlInit": None,
        "nvmlDeviceGetCount": gpus,
        "nvmlDeviceGetHandleByIndex": lambda index: f"slot {index}",
        "nvmlDeviceGetHandleByUUID": lambda uuid: f"uuid {uuid}",
        "nvmlDeviceGetClockInfo": lambda handle, kind: {1: 1500}[kind],
        "nvmlDeviceGetPowerUsage": 70_000,
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=3 << 30, total=24 << 30),
        "nvmlDeviceGetTotalEnergyConsumption": 5_250,
        "nvmlDeviceGetName": "NVIDIA L4",
        "nvmlDeviceGetNumGpuCores": 7424,
        "nvmlDeviceGetMaxClockInfo": lambda handle, kind: {1: 2040, 2: 6251}[kind],
        "nvmlDeviceGetMemoryBusWidth": 192,
        "nvmlDeviceGetTemperature": lambda handle, sensor: {0: 60}[sensor],
        "nvmlDeviceGetCurrentClocksEventReasons": reasons,
        "nvmlDeviceGetCurrentClocksThrottleReasons": reasons,
    }
    api = SimpleNamespace(**{name: function(name, result) for name, result in values.items()})
    api.NVMLError = FakeError
    api.NVML_CLOCK_SM, api.NVML_CLOCK_MEM, api.NVML_TEMPERATURE_GPU = 1, 2, 0
    bits = {"GpuIdle": 1, "SwPowerCap": 4, "HwSlowdown": 8, "SwThermalSlowdown": 32, "HwThermalSlowdown": 64}
    for name, bit in (bits | {"HwPowerBrakeSlowdown": 128}).items():
        setattr(api, f"nvmlClocksThrottleReason{name}", bit)
    return api


def test_the_real_module_has_every_name_and_number_of_the_fake() -> None:
    for name, value in vars(fake()).items():
        real = getattr(pynvml, name)
        assert callable(real) if callable(value) else real == value
    assert all(hasattr(pynvml, f"nvmlClocksThrottleReason{name}") for name in LIMITS)
    assert issubclass(pynvml.NVMLError, Exception)


def test_without_a_driver_there_is_no_gpu() -> None:
    """The real module on a machine without NVIDIA's library; where there is one, it must at least answer."""
    gpu = open_gpu()
    assert gpu is None or isinstance(gpu.read(), GpuState)


def test_reads_clock_power_temperature_memory_and_energy() -> None:
    assert NvmlGpu(fake(), "h").read() == GpuState(1500, 70.0, 60, memory_used_bytes=3 << 30, energy_j=5.25)


@pytest.mark.parametrize(
    ("reasons", "limited", "slowed"),
    [
        (0x1 | 0x2 | 0x10, (), ()),  # idle, clocks set by the user, sync boost: nothing is wrong
        (0x4, ("power limit",), ()),
        (0x4 | 0x40, ("too hot, hardware", "power limit"), ("too hot, hardware",)),
        (0x8 | 0x80, ("hardware slowdown", "external power brake"), ("hardware slowdown", "external power brake")),
        (0x20, ("too hot, driver",), ("too hot, driver",)),
    ],
)
def test_names_why_the_clock_is_held_down(reasons: int, limited: tuple[str, ...], slowed: tuple[str, ...]) -> None:
    state = NvmlGpu(fake(reasons=reasons), "h").read()
    assert (state.limited_by, state.slowed_by) == (limited, slowed)
    assert set(SLOWDOWNS) < set(LIMITS)


def test_an_idle_gpu_has_no_clock_of_the_work() -> None:
    state = NvmlGpu(fake(reasons=0x1), "h").read()
    assert (state.clock_mhz, state.power_w, state.temperature_c) == (None, 70.0, 60)


def test_an_older_driver_is_asked_by_the_old_name() -> None:
    old = fake(reasons=0x40, refuses=frozenset({"nvmlDeviceGetCurrentClocksEventReasons"}))
    assert NvmlGpu(old, "h").read().slowed_by == ("too hot, hardware",)
    del old.nvmlDeviceGetCurrentClocksEventReasons  # an older pynvml
    assert NvmlGpu(old, "h").read().slowed_by == ("too hot, hardware",)


def test_what_a_gpu_does_not_tell_is_none() -> None:
    everything = frozenset(name for name in vars(fake()) if name.startswith("nvmlDeviceGet"))
    assert NvmlGpu(fake(refuses=everything), "h").read() == GpuState()
    assert NvmlGpu(fake(refuses=everything), "h").card() == CardData()


def test_what_a_card_is_built_of() -> None:
    assert NvmlGpu(fake(), "h").card() == CardData("NVIDIA L4", 7424, 2040, 6251, 192)


@pytest.mark.parametrize(
    ("gpus", "environment", "handle"),
    [
        (1, {}, "slot 0"),
        (1, {"CUDA_VISIBLE_DEVICES": "3"}, "slot 0"),  # a container that shows the one GPU numbers it anew
        (4, {}, None),
        (4, {"CUDA_VISIBLE_DEVICES": "2"}, None),
        (4, {"CUDA_VISIBLE_DEVICES": "2,1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, "slot 2"),
        (4, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, "slot 0"),
        (4, {"CUDA_VISIBLE_DEVICES": "GPU-8a2c,GPU-1"}, "uuid GPU-8a2c"),
        (4, {"CUDA_VISIBLE_DEVICES": "MIG-1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, None),
    ],
)
def test_the_gpu_that_cuda_sees_first_or_none(gpus: int, environment: dict[str, str], handle: str | None) -> None:
    gpu = open_gpu(lambda: fake(gpus=gpus), environment)
    assert (None if gpu is None else gpu._handle) == handle


@pytest.mark.parametrize(
    ("gpus", "environment", "index", "handle"),
    [
        (4, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, 2, "slot 2"),
        (4, {}, 2, None),
        (4, {"CUDA_VISIBLE_DEVICES": "3,1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, 1, "slot 1"),
        (4, {"CUDA_VISIBLE_DEVICES": "3, GPU-8a2c"}, 1, "uuid GPU-8a2c"),
        (4, {"CUDA_VISIBLE_DEVICES": "3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, 1, None),
        (1, {}, 1, None),
    ],
)
def test_another_gpu_of_those_that_cuda_shows(
    gpus: int, environment: dict[str, str], index: int, handle: str | None
) -> None:
    gpu = open_gpu(lambda: fake(gpus=gpus), environment, index=index)
    assert (None if gpu is None else gpu._handle) == handle


def test_no_pynvml_and_no_driver_are_no_error() -> None:
    def missing() -> Any:
        raise ModuleNotFoundError("pynvml")

    assert open_gpu(missing) is None
    assert open_gpu(lambda: fake(refuses=frozenset({"nvmlInit"}))) is None


def test_a_gpu_is_there_where_the_driver_has_its_device_file(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()  # the driver's own, also in a container without GPUs
    assert not has_nvidia_gpu(tmp_path, {})
    (tmp_path / "dev/nvidia0").touch()
    assert has_nvidia_gpu(tmp_path, {})
    assert has_nvidia_gpu(tmp_path, {"CUDA_VISIBLE_DEVICES": "1"})
    for hidden in ("", "-1"):
        assert not has_nvidia_gpu(tmp_path, {"CUDA_VISIBLE_DEVICES": hidden})


@pytest.mark.parametrize("file", ["proc/driver/nvidia/version", "etc/nv_tegra_release"])
def test_an_update_of_the_driver_shows(file: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06\n")
    before = driver_version(tmp_path)
    assert "580.65.06" in before
    path.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  590.10\n")
    assert driver_version(tmp_path) == before, "a process has the driver that it started with"
    driver_version.cache_clear()
    assert "590.10" in driver_version(tmp_path)
