"""A plan with several optimisation profiles: each batch runs in a context of its own profile; on a fake GPU."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_deploy.bundle.manifest import Plan
from alexnet_deploy.bundle.plan_options import PlanOptions, profile_for
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.runtime.tensorrt.runner import TensorRTRunner
from tests.helpers.fake_device import FakeDevice
from tests.helpers.fake_tensorrt import FakeEngine, FakeMachine, expected_logits, fake_tensorrt
from tests.helpers.models.foreign_models import random_pixels
from tests.helpers.runners import run_steps

PROFILES = (BatchProfile(1, 1, 1), BatchProfile(1, 4, 8), BatchProfile(2, 2, 3))


def opened(device: FakeDevice) -> tuple[TensorRTRunner, FakeEngine]:
    library, engine = fake_tensorrt(device)
    engine.profiles = PROFILES
    plan = Plan("sm89.plan", library.name, library.version, "sm89", PlanOptions(profiles=PROFILES))
    return TensorRTRunner(library, engine, device, FakeMachine.contract, BatchProfile(1, 4, 8), plan=plan), engine


@pytest.mark.parametrize("graphs", [False, True])
@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(1, 8), max_size=20))
def test_any_order_of_batches_is_right_and_leaves_nothing(graphs: bool, counts: list[int]) -> None:
    device = FakeDevice(graphs=graphs)
    runner, engine = opened(device)
    with closing(runner), closing(runner.fork()) as fork:
        for seed, count in enumerate(counts):
            pixels = random_pixels(count, 4, seed)
            for each in (runner, fork):
                np.testing.assert_array_equal(each(pixels), expected_logits(pixels, 3))
    for context in engine.contexts:
        assert not context.shape or context.profile == profile_for(PROFILES, context.shape[0])
    assert not device.live


def test_steps_and_kernel_times_use_the_profiles_too() -> None:
    runner, engine = opened(FakeDevice())
    with closing(runner):
        runner.report_kernels(lambda name, ms: None)
        for count in (1, 2, 8):
            pixels = random_pixels(count, 4, count)
            np.testing.assert_array_equal(run_steps(runner.steps(pixels))[1], expected_logits(pixels, 3))
    assert [context.profile for context in engine.contexts[-3:]] == [0, 1, 2]


def test_a_plan_of_one_profile_never_sets_it() -> None:
    """As before there were several: TensorRT gives each context the first one."""
    device = FakeDevice()
    library, engine = fake_tensorrt(device)
    with closing(TensorRTRunner(library, engine, device, FakeMachine.contract, FakeMachine.batch)) as runner:
        runner(random_pixels(2, 4, 0))
    assert {context.profile for context in engine.contexts} == {0}
