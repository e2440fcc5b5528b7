"""Clock, power, energy, memory, temperature and throttling of a GPU, from NVIDIA's management library (NVML)."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

SLOWDOWNS = {
    "HwSlowdown": "hardware slowdown",
    "HwThermalSlowdown": "too hot, hardware",
    "HwPowerBrakeSlowdown": "external power brake",
    "SwThermalSlowdown": "too hot, driver",
}
"""Reasons that a GPU reports only when something is wrong, by their name in NVML without its prefix."""
LIMITS = SLOWDOWNS | {"SwPowerCap": "power limit"}
"""A GPU at full load runs at its power limit: that is reported, but the clock decides."""
_IDLE = {"GpuIdle": "idle"}

_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class GpuState:
    """The state at one moment; None: this GPU does not report it."""

    clock_mhz: float | None = None
    """Of its multiprocessors; None while it is idle, when the clock says nothing about a measurement."""
    power_w: float | None = None
    temperature_c: float | None = None
    limited_by: tuple[str, ...] = ()
    """Values of ``LIMITS``."""
    slowed_by: tuple[str, ...] = ()
    """Those of them that are in ``SLOWDOWNS``."""
    memory_used_bytes: int | None = None
    """By all processes."""
    energy_j: float | None = None
    """Of the whole GPU since its driver was loaded: only differences mean anything."""


@dataclass(frozen=True, slots=True)
class CardData:
    """What a GPU is built of; None: it does not report it."""

    name: str | None = None
    cuda_cores: int | None = None
    clock_mhz: float | None = None
    """The highest one of its multiprocessors."""
    memory_clock_mhz: float | None = None
    """The highest one; memory of a GPU transfers twice per clock."""
    memory_bits: int | None = None
    """Width of the bus to its memory."""


class Gpu(Protocol):
    """A GPU with a state to read: through NVML, or a fake."""

    def read(self) -> GpuState: ...


class NvmlGpu:
    """One GPU. ``api`` is the module ``pynvml`` (the package nvidia-ml-py)."""

    def __init__(self, api: Any, handle: Any) -> None:
        self._api, self._handle = api, handle

    def read(self) -> GpuState:
        """Read the state now."""
        api = self._api
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:  # a driver before R535 has it under its old name
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        idle = self._named(reasons or 0, _IDLE)
        return GpuState(
            clock_mhz=None if idle else self._ask("nvmlDeviceGetClockInfo", api.NVML_CLOCK_SM),
            power_w=None if milliwatts is None else milliwatts / 1000,
            temperature_c=self._ask("nvmlDeviceGetTemperature", api.NVML_TEMPERATURE_GPU),
            limited_by=self._named(reasons or 0, LIMITS),
            slowed_by=self._named(reasons or 0, SLOWDOWNS),
            memory_used_bytes=None if memory is None else int(memory.used),
            energy_j=None if millijoules is None else millijoules / 1000,
        )

    def card(self) -> CardData:
        """Read what it is built of."""
        api = self._api
        name = self._ask("nvmlDeviceGetName")
        return CardData(
            name=name.decode() if isinstance(name, bytes) else name,  # bytes before nvidia-ml-py 11.515
            cuda_cores=self._ask("nvmlDeviceGetNumGpuCores"),
            clock_mhz=self._ask("nvmlDeviceGetMaxClockInfo", api.NVML_CLOCK_SM),
            memory_clock_mhz=self._ask("nvmlDeviceGetMaxClockInfo", api.NVML_CLOCK_MEM),
            memory_bits=self._ask("nvmlDeviceGetMemoryBusWidth"),
        )

    def _ask(self, function: str, *arguments: int) -> Any:
        """None if this GPU, its driver or this pynvml does not support the query."""
        ask = getattr(self._api, function, None)
        if ask is None:
            return None
        try:
            return ask(self._handle, *arguments)
        except self._api.NVMLError:
            return None

    def _named(self, reasons: int, names: Mapping[str, str]) -> tuple[str, ...]:
        # Their names changed from Throttle to Event, their values never did.
        bits = {name: getattr(self._api, f"nvmlClocksThrottleReason{name}", 0) for name in names}
        return tuple(text for name, text in names.items() if reasons & bits[name])


def has_nvidia_gpu(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process may see an NVIDIA GPU, from the driver's device files; loads nothing.

    A container without passed-in GPUs has none, and neither has a process with an empty ``CUDA_VISIBLE_DEVICES``.
    """
    if environment.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    files = ("dev/nvidia[0-9]*", "dev/nvhost-gpu", "usr/lib/wsl/lib/libcuda.so*")  # a card, a Jetson, Windows' WSL
    return any(any(root.glob(pattern)) for pattern in files)


def count_gpus(root: Path = Path("/")) -> int:
    """Number of NVIDIA cards that the driver made device files for, whatever ``CUDA_VISIBLE_DEVICES`` says."""
    return len(list(root.glob("dev/nvidia[0-9]*")))


@functools.cache
def driver_version(root: Path = Path("/")) -> str:
    """Text that is another one after an update of NVIDIA's driver; empty if nobody can tell."""
    for name in ("proc/driver/nvidia/version", "etc/nv_tegra_release"):  # a card, a Jetson
        with contextlib.suppress(OSError):
            return (root / name).read_text(encoding="utf-8", errors="replace")
    return nvidia_smi() or ""  # in Windows' WSL


def nvidia_smi() -> str | None:
    """Its ``name, driver_version, compute_cap`` lines, or its error message; None without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"it does not answer ({type(exc).__name__})"
    return asked.stdout or asked.stderr


def open_gpu(
    load: Callable[[], Any] | None = None, environment: Mapping[str, str] = os.environ, *, index: int = 0
) -> NvmlGpu | None:
    """GPU ``index`` of those that CUDA sees; None without pynvml or a driver, or if NVML cannot tell which one it is.

    NVML numbers GPUs by slot, CUDA by speed unless ``CUDA_DEVICE_ORDER`` changes that: with several GPUs and no UUID in
    ``CUDA_VISIBLE_DEVICES`` a guess could watch the wrong one.
    """
    try:
        api = (load or _pynvml)()
    except ImportError:
        return None
    try:
        api.nvmlInit()
        shown = environment.get("CUDA_VISIBLE_DEVICES", "").strip()
        names = [name.strip() for name in shown.split(",")] if shown else list(map(str, range(index + 1)))
        if index >= len(names):
            return None
        name = names[index]
        if name.startswith("GPU-"):
            return NvmlGpu(api, api.nvmlDeviceGetHandleByUUID(name))
        by_slot = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        if api.nvmlDeviceGetCount() == 1:
            if index > 0:
                return None
            name = "0"
        elif not by_slot or not name.isdecimal():
            return None
        return NvmlGpu(api, api.nvmlDeviceGetHandleByIndex(int(name)))
    except api.NVMLError:
        return None


def _pynvml() -> Any:
    import pynvml

    return pynvml
