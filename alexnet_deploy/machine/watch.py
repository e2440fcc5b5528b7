"""Whether anything disturbed the machine during a measurement, so that the numbers do not count.

``MachineWatch.read`` reads the counters of the Linux kernel (and of NVML, for a GPU) at one moment; ``judge`` compares
several readings. Each bound below answers one question: would the same engine measure differently on the same machine
when it is idle? A counter that the machine does not have is None and is not judged.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.machine.cpu import kernel_text, usable_cpus
from alexnet_deploy.machine.gpu import Gpu, GpuState, open_gpu

MAX_OTHERS_PERCENT = 5.0
"""Share of the cores' time used by other processes. An idle machine needs 1 to 2 % for itself."""
MAX_STOLEN_PERCENT = 1.0
"""Share of the cores' time taken by the hypervisor. A p99 depends on the worst 1 % of calls."""
MAX_CLOCK_CHANGE_PERCENT = 10.0
"""Change of the clock within a run. Boost alone changes a busy core's clock by some 5 %, the end of a boost by more."""
MIN_ENERGY_S = 1.0
"""NVML renews the energy of a GPU several times per second; what it grew by in a shorter time says little."""
MIN_COUNTED_S = 0.05
"""The kernel counts CPU time in ticks of 10 ms; below five of them a share is rounding."""

_THROTTLED = re.compile(r"^nr_throttled (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters at one moment. They count from some point in the past, so only differences mean anything."""

    at_s: float
    own_s: float
    """CPU time of this process."""
    busy_s: float | None = None
    """CPU time of all processes on the cores that this one may use."""
    stolen_s: float | None = None
    """Time in which the hypervisor ran something else while one of these cores had work."""
    load_1min: float | None = None
    clock_mhz: float | None = None
    """Clock of the fastest of these cores, since idle cores clock down."""
    thermal_throttles: int | None = None
    quota_throttles: int | None = None
    """Number of times that the CPU quota of our control groups was used up."""
    gpu: GpuState | None = None


@dataclass(frozen=True, slots=True)
class MachineConditions:
    """What happened from the first to the last reading; None: the machine does not report it."""

    cores: int
    """That this process may use."""
    load_average_1min: float | None
    """At the first reading."""
    others_percent: float | None
    stolen_percent: float | None
    clock_mhz_min: float | None
    clock_mhz_max: float | None
    thermal_throttles: int | None
    quota_throttles: int | None
    gpu_clock_mhz_min: float | None
    gpu_clock_mhz_max: float | None
    gpu_power_w_max: float | None
    gpu_temperature_c_max: float | None
    gpu_memory_used_bytes_max: int | None
    """Of all processes."""
    gpu_energy_j: float | None
    """Used by the whole GPU from the first to the last reading; None as well for less than ``MIN_ENERGY_S``."""
    gpu_limited_by: tuple[str, ...]
    """Why the GPU's clock was below its highest, in NVML's words."""
    invalid: tuple[str, ...]
    """The reasons that the measurement does not count, each with the next step; empty if it counts."""


class MachineWatch:
    """Reads the counters below ``root``, and of ``gpu`` if the work runs on one."""

    def __init__(
        self, *, gpu: Gpu | None = None, root: Path = Path("/"), own_s: Callable[[], float] = time.process_time
    ) -> None:
        self._gpu, self._root, self._own_s = gpu, root, own_s
        self._cpus = usable_cpus()
        self._groups = _control_groups(root)
        self._clocks, self._throttles = (
            [path for cpu in self._cpus for path in (root / f"sys/devices/system/cpu/cpu{cpu}").glob(pattern)]
            for pattern in ("cpufreq/scaling_cur_freq", "thermal_throttle/*_throttle_count")
        )

    def read(self) -> Reading:
        """Read all counters now; this takes some hundred microseconds on a small machine."""
        busy_s, stolen_s = self._cpu_seconds()
        load = kernel_text(self._root / "proc/loadavg").split()
        clocks_khz = _numbers(self._clocks)
        throttles = _numbers(self._throttles)
        quota = [
            int(found[1]) for group in self._groups if (found := _THROTTLED.search(kernel_text(group))) is not None
        ]
        return Reading(
            at_s=time.perf_counter(),
            own_s=self._own_s(),
            busy_s=busy_s,
            stolen_s=stolen_s,
            load_1min=float(load[0]) if load else None,
            clock_mhz=max(clocks_khz) / 1000 if clocks_khz else None,
            thermal_throttles=sum(throttles) if throttles else None,
            quota_throttles=sum(quota) if quota else None,
            gpu=None if self._gpu is None else self._gpu.read(),
        )

    def judge(self, readings: Sequence[Reading]) -> MachineConditions:
        """``judge`` for the watched cores."""
        return judge(readings, cores=len(self._cpus))

    def _cpu_seconds(self) -> tuple[float | None, float | None]:
        """Busy and stolen, of our cores: user, nice, system, irq and softirq; steal (man 5 proc_stat)."""
        mine = {f"cpu{cpu}" for cpu in self._cpus}
        rows = [row for line in kernel_text(self._root / "proc/stat").splitlines() if (row := line.split())[:1] != []]
        ticks = [list(map(int, row[1:9])) for row in rows if row[0] in mine]
        if not ticks:
            return None, None
        hz = os.sysconf("SC_CLK_TCK")
        return sum(sum(t[:3]) + t[5] + t[6] for t in ticks) / hz, sum(t[7] for t in ticks) / hz


def watch_for(device: str, index: int = 0) -> MachineWatch:
    """The watch for a ``Runner.device``: with GPU ``index`` unless that is ``"cpu"``."""
    return MachineWatch(gpu=None if device == "cpu" else open_gpu(index=index))


def judge(readings: Sequence[Reading], *, cores: int) -> MachineConditions:
    """Compare ``readings`` from first to last: the changes, and the reasons that the measurement is invalid."""
    first, last = readings[0], readings[-1]
    capacity_s = max(last.at_s - first.at_s, 1e-9) * cores
    busy_s, stolen_s = _grown(first.busy_s, last.busy_s), _grown(first.stolen_s, last.stolen_s)
    others_s = None if busy_s is None else max(busy_s - (last.own_s - first.own_s), 0.0)
    thermal = _grown(first.thermal_throttles, last.thermal_throttles)
    quota = _grown(first.quota_throttles, last.quota_throttles)
    clocks = [r.clock_mhz for r in readings if r.clock_mhz is not None]
    states = [r.gpu for r in readings if r.gpu is not None]
    gpu_clocks = [state.clock_mhz for state in states if state.clock_mhz is not None]
    powers = [state.power_w for state in states if state.power_w is not None]
    temperatures = [state.temperature_c for state in states if state.temperature_c is not None]
    memory = [state.memory_used_bytes for state in states if state.memory_used_bytes is not None]
    ends = [None if each.gpu is None else each.gpu.energy_j for each in (first, last)]
    energy_j = _grown(*ends) if last.at_s - first.at_s >= MIN_ENERGY_S else None
    slowed = sorted({reason for state in states for reason in state.slowed_by})

    invalid = []
    for share_s, bound, cause in (
        (others_s, MAX_OTHERS_PERCENT, "other processes took {:.0f} % of the cores; stop them and measure again"),
        (
            stolen_s,
            MAX_STOLEN_PERCENT,
            "the hypervisor took {:.1f} % of the cores; measure again when the host is less busy",
        ),
    ):
        if share_s is not None and share_s >= MIN_COUNTED_S and 100 * share_s / capacity_s > bound:
            invalid.append(cause.format(100 * share_s / capacity_s))
    for what, mhz, fix in (
        ("the CPU's clock", clocks, "set the performance governor, and let it cool"),
        # Locking it needs root, which the owner of a hired machine keeps.
        ("the GPU's clock", gpu_clocks, "measure again while it is warm, or have an administrator lock it"),
    ):
        if mhz and 100 * (max(mhz) - min(mhz)) > MAX_CLOCK_CHANGE_PERCENT * max(mhz):
            invalid.append(f"{what} moved between {min(mhz):.0f} and {max(mhz):.0f} MHz; {fix}")
    if thermal:
        invalid.append("the CPU was too hot and throttled; let it cool and measure again")
    if quota:
        invalid.append(f"the container's CPU quota was used up {quota:.0f} times; raise it, or use fewer threads")
    if slowed:
        invalid.append(f"the GPU was slowed down ({', '.join(slowed)}); let it cool, check its power supply")

    return MachineConditions(
        cores=cores,
        load_average_1min=first.load_1min,
        others_percent=None if others_s is None else 100 * others_s / capacity_s,
        stolen_percent=None if stolen_s is None else 100 * stolen_s / capacity_s,
        clock_mhz_min=min(clocks, default=None),
        clock_mhz_max=max(clocks, default=None),
        thermal_throttles=None if thermal is None else int(thermal),
        quota_throttles=None if quota is None else int(quota),
        gpu_clock_mhz_min=min(gpu_clocks, default=None),
        gpu_clock_mhz_max=max(gpu_clocks, default=None),
        gpu_power_w_max=max(powers, default=None),
        gpu_temperature_c_max=max(temperatures, default=None),
        gpu_memory_used_bytes_max=max(memory, default=None),
        gpu_energy_j=energy_j,
        gpu_limited_by=tuple(sorted({reason for state in states for reason in state.limited_by})),
        invalid=tuple(invalid),
    )


def _control_groups(root: Path) -> list[Path]:
    """``cpu.stat`` of our control group and its parents, of version 2 or 1: a quota of any of them limits us."""
    found: set[Path] = set()
    for line in kernel_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        inside = (mount / path.lstrip("/") / "cpu.stat").parents
        found |= {folder / "cpu.stat" for folder in inside if folder.is_relative_to(mount)}
    return sorted(path for path in found if path.is_file())


def _grown(first: float | None, last: float | None) -> float | None:
    return None if first is None or last is None else max(last - first, 0)


def _numbers(paths: Iterable[Path]) -> list[int]:
    return [int(text) for path in paths if (text := kernel_text(path).strip()).isdecimal()]
