"""Kernels that TensorRT-RTX compiled, kept between processes; on a fake GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.runtime.tensorrt import plans as tensorrt_plans
from tests.helpers.fake_device import FakeDevice
from tests.helpers.fake_tensorrt import FakeMachine, expected_logits, fake_tensorrt
from tests.helpers.models.foreign_models import random_pixels

PIXELS = random_pixels(2, 4, seed=1)


@pytest.fixture(autouse=True)
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


def run(machine: FakeMachine, device: FakeDevice | None = None) -> bytes:
    """One process with the plan: its answers are right; the kernels that it began with."""
    runner = machine.load(device, rtx=True)
    began = machine.engine.runtime_configs[0].cache.kernels if machine.engine.runtime_configs[0].cache else b"no cache"
    np.testing.assert_array_equal(runner(PIXELS), expected_logits(PIXELS, 3))
    runner.close()
    assert not machine.device.live
    return bytes(began)


def test_the_next_process_has_the_kernels_of_the_last(machine: FakeMachine, kernels: Path) -> None:
    assert run(machine) == b""
    (file,) = kernels.iterdir()
    written = file.stat().st_mtime_ns
    assert run(machine) == b"kernels"
    assert file.stat().st_mtime_ns == written, "nothing new was compiled"


def test_another_plan_or_gpu_has_its_own(machine: FakeMachine, kernels: Path) -> None:
    run(machine)
    machine.plan_file.write_bytes(b"another plan")
    assert run(machine) == b""
    for name in ("name", "card"):
        other = FakeDevice()
        setattr(other, name, "another GPU sm89")
        assert run(machine, other) == b""
    assert len(list(kernels.iterdir())) == 4


def test_kernels_that_the_library_refuses_are_replaced(machine: FakeMachine, kernels: Path) -> None:
    run(machine)
    (file,) = kernels.iterdir()
    file.write_bytes(b"of another driver")
    assert run(machine) == b""
    assert file.read_bytes() == b"kernels"


def test_a_cache_that_cannot_be_written_costs_only_time(machine: FakeMachine, kernels: Path) -> None:
    kernels.parent.mkdir()
    kernels.write_text("not a folder")
    for _ in range(2):
        assert run(machine) == b""


def test_without_a_home_there_is_no_cache(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("no home")

    for variable in ("ALEXNET_DEPLOY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert run(machine) == b"no cache"


def test_forks_share_the_kernels_and_the_parent_keeps_them(machine: FakeMachine, kernels: Path) -> None:
    runner = machine.load(rtx=True)
    fork = runner.fork()
    fork(PIXELS)
    fork.close()
    assert not kernels.exists()
    first, second = machine.engine.runtime_configs
    assert first.cache is second.cache
    runner.close()
    assert len(list(kernels.iterdir())) == 1


@pytest.mark.parametrize(("eager", "strategy"), [(False, "lazy"), (True, "eager")])
def test_kernels_are_compiled_in_the_background_unless_one_measures(
    eager: bool, strategy: str, machine: FakeMachine
) -> None:
    device = FakeDevice()
    library, engine = fake_tensorrt(device, rtx=True)
    plan = machine.install(library)
    runner = tensorrt_plans.load_plan(
        machine.plan_file, plan, machine.contract, machine.batch, device=device, eager=eager
    )
    runner.close()
    configs = engine.runtime_configs
    assert [config.dynamic_shapes_kernel_specialization_strategy for config in configs] == [strategy]


def test_the_full_tensorrt_has_none(machine: FakeMachine, kernels: Path) -> None:
    machine.load().close()
    assert machine.engine.runtime_configs == [None]
    assert not kernels.exists()
