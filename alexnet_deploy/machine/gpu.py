"""Clock, power, temperature and throttling of the GPU, as NVIDIA's management library (NVML) tells them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

SLOWDOWNS = {
    "HwSlowdown": "hardware slowdown",
    "HwThermalSlowdown": "too hot, hardware",
    "HwPowerBrakeSlowdown": "external power brake",
    "SwThermalSlowdown": "too hot, driver",
}
"""Reasons by their name in NVML, without its prefix, that no GPU at rest or at work has unless something is wrong."""
LIMITS = SLOWDOWNS | {"SwPowerCap": "power limit"}
"""At its power limit is where a GPU at full load belongs: told, but the clock is what judges it."""


@dataclass(frozen=True, slots=True)
class GpuState:
    """One moment; None: this GPU does not tell."""

    clock_mhz: float | None = None
    """Of its multiprocessors."""
    power_w: float | None = None
    temperature_c: float | None = None
    limited_by: tuple[str, ...] = ()
    """Values of ``LIMITS``."""
    slowed_by: tuple[str, ...] = ()
    """Those of them that are in ``SLOWDOWNS``."""


class Gpu(Protocol):
    """Something with a state: NVML, or a fake."""

    def read(self) -> GpuState: ...


class NvmlGpu:
    """One GPU. ``api`` is the module ``pynvml`` (the package nvidia-ml-py)."""

    def __init__(self, api: Any, handle: Any) -> None:
        self._api, self._handle = api, handle

    def read(self) -> GpuState:
        """The state of this moment."""
        api = self._api
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:  # a driver from before R535 knows it by its old name
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        return GpuState(
            clock_mhz=self._ask("nvmlDeviceGetClockInfo", api.NVML_CLOCK_SM),
            power_w=None if milliwatts is None else milliwatts / 1000,
            temperature_c=self._ask("nvmlDeviceGetTemperature", api.NVML_TEMPERATURE_GPU),
            limited_by=self._named(reasons or 0, LIMITS),
            slowed_by=self._named(reasons or 0, SLOWDOWNS),
        )

    def _ask(self, function: str, *arguments: int) -> Any:
        """None where this GPU, its driver or this pynvml does not answer."""
        ask = getattr(self._api, function, None)
        if ask is None:
            return None
        try:
            return ask(self._handle, *arguments)
        except self._api.NVMLError:
            return None

    def _named(self, reasons: int, names: Mapping[str, str]) -> tuple[str, ...]:
        # Their values never changed, their names did, from Throttle to Event.
        bits = {name: getattr(self._api, f"nvmlClocksThrottleReason{name}", 0) for name in names}
        return tuple(text for name, text in names.items() if reasons & bits[name])


def open_gpu(load: Callable[[], Any] | None = None, environment: Mapping[str, str] = os.environ) -> NvmlGpu | None:
    """The first GPU that CUDA sees; None without pynvml, without a driver, or where NVML cannot know which it is.

    NVML numbers GPUs by their slot, CUDA by speed unless ``CUDA_DEVICE_ORDER`` says otherwise: with several and no
    UUID in ``CUDA_VISIBLE_DEVICES``, a guess could watch another one.
    """
    try:
        api = (load or _pynvml)()
    except ImportError:
        return None
    try:
        api.nvmlInit()
        first = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
        if first.startswith("GPU-"):
            return NvmlGpu(api, api.nvmlDeviceGetHandleByUUID(first))
        by_slot = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        if api.nvmlDeviceGetCount() == 1:
            first = ""
        elif not by_slot or not (first == "" or first.isdecimal()):
            return None
        return NvmlGpu(api, api.nvmlDeviceGetHandleByIndex(int(first or 0)))
    except api.NVMLError:
        return None


def _pynvml() -> Any:
    import pynvml

    return pynvml
