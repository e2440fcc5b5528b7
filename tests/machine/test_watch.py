"""The kernel's counters, as files of a machine that never was; and what of them makes a measurement invalid."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from alexnet_deploy.machine import cpu as machine_cpu
from alexnet_deploy.machine import watch as machine_watch
from alexnet_deploy.machine.cpu import describe_machine
from alexnet_deploy.machine.gpu import GpuState
from alexnet_deploy.machine.watch import MachineConditions, MachineWatch, Reading, judge

HZ = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four cores, of which we may use 1 and 2, in a control group of version 2 inside one with a quota."""
    for module in (machine_cpu, machine_watch):
        monkeypatch.setattr(module, "usable_cpus", lambda: (1, 2))
    files = {
        "proc/loadavg": "1.50 3.20 2.29 10/138 32275\n",
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Abacus 9000\nflags\t\t: vnni\n",
        "proc/self/cgroup": "0::/pod/box\n",
        "sys/fs/cgroup/cpu.stat": "usage_usec 9\n",
        "sys/fs/cgroup/pod/cpu.stat": "usage_usec 9\nnr_periods 40\nnr_throttled 3\nthrottled_usec 700\n",
        "sys/fs/cgroup/pod/box/cpu.stat": "usage_usec 9\nnr_periods 40\nnr_throttled 4\nthrottled_usec 700\n",
    }
    for cpu, mhz in enumerate((4000, 2600, 3400, 800)):
        files[f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq"] = f"{mhz}000\n"
        files[f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count"] = f"{cpu}\n"
        files[f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/package_throttle_count"] = "5\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    set_cpu_seconds(tmp_path, busy=0, stolen=0)
    return tmp_path


def set_cpu_seconds(root: Path, *, busy: float, stolen: float) -> None:
    """Of cores 1 and 2 together; the others are never idle."""
    ticks, lost = int(busy * HZ), int(stolen * HZ)
    rows = [
        "cpu  1 1 1 1 1 1 1 1 0 0",
        "cpu0 999999 0 0 0 0 0 0 9999 0 0",
        f"cpu1 {ticks // 2} {ticks - ticks // 2} 0 70 80 0 0 {lost} 0 0",
        "cpu2 0 0 0 90 10 0 0 0 0 0",
        "cpu3 999999 0 0 0 0 0 0 9999 0 0",
        "intr 17 0 0",
    ]
    (root / "proc/stat").write_text("\n".join(rows) + "\n")


def test_reads_the_cores_that_we_may_use_and_the_groups_around_us(root: Path) -> None:
    set_cpu_seconds(root, busy=5, stolen=0.5)
    read = MachineWatch(root=root, own_s=lambda: 2.0).read()
    assert dataclasses.replace(read, at_s=0) == Reading(
        at_s=0,
        own_s=2.0,
        busy_s=5.0,
        stolen_s=0.5,
        load_1min=1.5,
        clock_mhz=3400,
        thermal_throttles=1 + 5 + 2 + 5,
        quota_throttles=3 + 4,
    )


def test_every_kind_of_busy_counts_and_no_idle(root: Path) -> None:
    # user nice system idle iowait irq softirq steal guest guest_nice; guest is part of user already
    (root / "proc/stat").write_text("cpu1 1 2 4 1000 2000 8 16 32 1 0\ncpu2 0 0 0 0 0 0 0 0 0 0\n")
    read = MachineWatch(root=root).read()
    assert (read.busy_s, read.stolen_s) == (31 / HZ, 32 / HZ)


@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct"])
def test_control_groups_of_version_1(root: Path, controllers: str) -> None:
    group = root / "sys/fs/cgroup" / controllers / "docker/x"
    group.mkdir(parents=True)
    (group / "cpu.stat").write_text("nr_periods 9\nnr_throttled 8\nthrottled_time 1\n")
    (root / "proc/self/cgroup").write_text(f"9:memory:/docker/x\n2:cpuset:/\n1:{controllers}:/docker/x\n")
    assert MachineWatch(root=root).read().quota_throttles == 8


def test_a_machine_that_tells_nothing_is_not_judged(tmp_path: Path) -> None:
    watch = MachineWatch(root=tmp_path)
    seen = watch.judge([watch.read(), watch.read()])
    unknown = {f.name: getattr(seen, f.name) for f in dataclasses.fields(MachineConditions)}
    assert unknown.pop("cores") >= 1
    assert set(unknown.values()) == {None, ()}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such counters")
def test_this_machine_tells_of_its_cores() -> None:
    watch = MachineWatch()
    first = watch.read()
    while watch.read().own_s - first.own_s < 3 / HZ:
        pass
    last = watch.read()
    assert first.busy_s is not None
    assert last.busy_s is not None
    assert last.busy_s > first.busy_s
    assert watch.judge([first, last]).cores == len(os.sched_getaffinity(0))


QUIET = [
    Reading(at_s=at, own_s=at, busy_s=at, stolen_s=0.0, clock_mhz=3000, thermal_throttles=7, quota_throttles=7)
    for at in (10.0, 11.0, 12.0, 13.0)
]
"""One core of two kept busy by ourselves, for three seconds."""


def changed(**last: float | GpuState | None) -> list[Reading]:
    return [*QUIET[:-1], dataclasses.replace(QUIET[-1], **last)]  # type: ignore[arg-type]


def test_our_own_work_is_no_reason() -> None:
    seen = judge(QUIET, cores=2)
    assert (seen.others_percent, seen.stolen_percent, seen.thermal_throttles, seen.quota_throttles) == (0, 0, 0, 0)
    assert seen.invalid == ()


@pytest.mark.parametrize(
    ("readings", "cause"),
    [
        (changed(busy_s=13.29), None),
        (changed(busy_s=13.31), "other processes took 5 % of the cores"),
        (changed(stolen_s=0.059), None),
        (changed(stolen_s=0.061), "the hypervisor took 1.0 % of the cores"),
        (changed(clock_mhz=2701), None),
        (changed(clock_mhz=2699), "the CPU's clock moved between 2699 and 3000 MHz"),
        (changed(clock_mhz=3340), "the CPU's clock moved between 3000 and 3340 MHz"),
        (changed(thermal_throttles=8), "the CPU was too hot"),
        (changed(quota_throttles=9), "the container's CPU quota was used up 2 times"),
        (changed(gpu=GpuState(1500.0, slowed_by=("too hot, driver",))), "slowed down (too hot, driver)"),
        (changed(gpu=GpuState(1500.0, limited_by=("power limit",))), None),
    ],
)
def test_each_bound(readings: list[Reading], cause: str | None) -> None:
    found = judge(readings, cores=2).invalid
    if cause is None:
        assert found == ()
    else:
        (only,) = found
        assert cause in only
        assert "; " in only, "a cause comes with what to do"


def test_the_gpus_clock_is_judged_over_all_readings() -> None:
    clocks = (1500.0, 1200.0, 1500.0, 1500.0)
    readings = [dataclasses.replace(r, gpu=GpuState(mhz, 70.0, 80.0)) for r, mhz in zip(QUIET, clocks, strict=True)]
    seen = judge(readings, cores=2)
    assert (seen.gpu_clock_mhz_min, seen.gpu_clock_mhz_max) == (1200, 1500)
    assert (seen.gpu_power_w_max, seen.gpu_temperature_c_max) == (70, 80)
    (only,) = seen.invalid
    assert only.startswith("the GPU's clock moved between 1200 and 1500 MHz; measure again while it is warm, or ")


def test_a_gpu_that_was_idle_before_is_no_change_of_its_clock() -> None:
    """It clocks down between two engines, and is awake again when the calls begin."""
    clocks = (None, 1500.0, 1480.0, None)
    readings = [dataclasses.replace(r, gpu=GpuState(mhz)) for r, mhz in zip(QUIET, clocks, strict=True)]
    seen = judge(readings, cores=2)
    assert (seen.gpu_clock_mhz_min, seen.gpu_clock_mhz_max) == (1480, 1500)
    assert seen.invalid == ()


def test_a_few_ticks_are_rounding() -> None:
    """In a run of 10 ms, a single tick of another process would be half of both cores."""
    first = Reading(at_s=0.0, own_s=0.0, busy_s=0.0, stolen_s=0.0)
    last = Reading(at_s=0.01, own_s=0.0, busy_s=0.04, stolen_s=0.04)
    assert judge([first, last], cores=2).invalid == ()


@given(
    st.lists(
        st.builds(
            Reading,
            at_s=st.floats(0, 1e6),
            own_s=st.floats(0, 1e6),
            busy_s=st.none() | st.floats(0, 1e6),
            stolen_s=st.none() | st.floats(0, 1e6),
            clock_mhz=st.none() | st.floats(0, 1e5),
            quota_throttles=st.none() | st.integers(0, 10**9),
        ),
        min_size=1,
    )
)
def test_no_counter_however_odd_makes_a_share_negative(readings: list[Reading]) -> None:
    """Counters of /proc/stat may go back by a tick (man 5 proc_stat), and differ from our own CPU time by some."""
    seen = judge(readings, cores=2)
    shares = (seen.others_percent, seen.stolen_percent, seen.quota_throttles)
    assert all(share is None or share >= 0 for share in shares)


def test_the_machine_is_described(root: Path) -> None:
    said = describe_machine(root)
    assert (said["cpu"], said["cores"]) == ("Abacus 9000", 2)
    assert all(describe_machine().values())


@pytest.mark.parametrize(
    ("seconds", "energies", "used_j"),
    [
        (2.0, (100.0, 105.0, 130.0), 30.0),
        (0.9, (100.0, 105.0, 130.0), None),  # too short for a counter that is renewed a few times per second
        (2.0, (100.0, 105.0, None), None),
        (2.0, (None, None, None), None),
    ],
)
def test_energy_of_the_gpu_is_the_difference_and_its_memory_the_most(
    seconds: float, energies: tuple[float | None, ...], used_j: float | None
) -> None:
    memories = (1 << 30, 3 << 30, 2 << 30)
    readings = [
        Reading(at_s=i * seconds / 2, own_s=0, gpu=GpuState(memory_used_bytes=memory, energy_j=energy_j))
        for i, (energy_j, memory) in enumerate(zip(energies, memories, strict=True))
    ]
    found = judge(readings, cores=2)
    assert (found.gpu_energy_j, found.gpu_memory_used_bytes_max) == (used_j, 3 << 30)
    assert judge([Reading(at_s=0, own_s=0), Reading(at_s=9, own_s=0)], cores=2).gpu_memory_used_bytes_max is None
