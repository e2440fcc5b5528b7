"""The TensorRT runner against a fake GPU; the real one is tried where there is a GPU (marker ``gpu``)."""

from __future__ import annotations

from collections import Counter
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.errors import UnavailableError, UsageError
from alexnet_deploy.runtime.tensorrt import plans as tensorrt_plans
from alexnet_deploy.runtime.tensorrt.runner import MAX_GRAPHS, TensorRTRunner
from tests.helpers.fake_device import FakeDevice
from tests.helpers.fake_tensorrt import FakeMachine, expected_logits, fake_tensorrt
from tests.helpers.models.foreign_models import random_pixels
from tests.helpers.runners import run_steps

SIDE, CLASSES = 4, 3


def pixels(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return random_pixels(count, SIDE, seed)


class TestRun:
    @pytest.mark.parametrize(("rtx", "graphs"), [(False, True), (False, False), (True, True), (True, False)])
    def test_logits_belong_to_their_images_at_every_batch_size(
        self, rtx: bool, graphs: bool, machine: FakeMachine
    ) -> None:
        runner = machine.load(FakeDevice(graphs=graphs), rtx=rtx)
        for round_trip in range(3):
            for count in range(FakeMachine.batch.min, FakeMachine.batch.max + 1):
                given_pixels = pixels(count, seed=round_trip)
                np.testing.assert_array_equal(runner(given_pixels), expected_logits(given_pixels, CLASSES))

    def test_logits_are_the_callers_own(self, machine: FakeMachine) -> None:
        runner = machine.load()
        first = runner(pixels(2, seed=1))
        kept = first.copy()
        runner(pixels(2, seed=2))
        runner.close()
        np.testing.assert_array_equal(first, kept)

    def test_pixels_need_not_be_contiguous(self, machine: FakeMachine) -> None:
        runner = machine.load()
        reversed_pixels = pixels(8)[::-2, :, ::-1]
        np.testing.assert_array_equal(runner(reversed_pixels), expected_logits(reversed_pixels, CLASSES))

    def test_buffers_are_allocated_once(self, machine: FakeMachine) -> None:
        runner = machine.load()
        after_opening = [call for call in machine.device.calls if call.startswith("allocate")]
        for count in (1, 8, 3, 8):
            runner(pixels(count))
        assert [call for call in machine.device.calls if call.startswith("allocate")] == after_opening
        assert sorted(map(len, machine.device.memory.values())) == [
            FakeMachine.batch.max * CLASSES * 4,
            FakeMachine.batch.max * SIDE * SIDE * 3,
        ]

    @pytest.mark.parametrize("rtx", [False, True])
    def test_only_the_images_of_a_call_are_copied(self, rtx: bool, machine: FakeMachine) -> None:
        runner = machine.load(rtx=rtx)
        for _ in range(2):
            runner(pixels(2))
        assert machine.device.moved == [2 * SIDE * SIDE * 3, 2 * CLASSES * 4] * 2

    @pytest.mark.parametrize(
        "wrong",
        [
            np.zeros((9, SIDE, SIDE, 3), np.uint8),
            np.zeros((0, SIDE, SIDE, 3), np.uint8),
            np.zeros((1, SIDE, SIDE, 3), np.float32),
            np.zeros((1, 3, SIDE, SIDE), np.uint8),
        ],
    )
    def test_what_would_not_fit_the_buffers_is_refused(self, wrong: NDArray[np.uint8], machine: FakeMachine) -> None:
        runner = machine.load()
        with pytest.raises(ValueError, match="are not pixels of"):
            runner(wrong)

    def test_its_fields_name_what_it_runs_on(self, machine: FakeMachine) -> None:
        runner = machine.load(rtx=True)
        assert runner.description == "TensorRT-RTX 1.7.1.116 on fake GPU sm89"
        assert (runner.runtime, runner.device, runner.batch) == ("tensorrt", "sm89", machine.batch)


class TestForks:
    def test_a_fork_has_a_stream_and_buffers_of_its_own_and_leaves_the_parent_usable(
        self, machine: FakeMachine
    ) -> None:
        runner = machine.load()
        before = set(machine.device.live)
        fork = runner.fork()
        kinds = Counter(kind for kind, _ in machine.device.live - before)
        assert kinds == {"stream": 1, "memory": 2, "pinned": 2}
        assert len(machine.engine.contexts) == 2
        first, second = pixels(2, seed=1), pixels(3, seed=2)
        assert np.array_equal(fork(first), expected_logits(first, CLASSES))
        assert np.array_equal(runner(second), expected_logits(second, CLASSES))
        fork.close()
        assert np.array_equal(runner(first), expected_logits(first, CLASSES))
        runner.close()
        assert machine.device.live == set()
        with pytest.raises(ValueError, match="closed"):
            runner.fork()


class TestSteps:
    def test_each_step_is_waited_for_and_no_graph_is_made(self, machine: FakeMachine) -> None:
        runner = machine.load()
        machine.device.calls.clear()
        given_pixels = pixels(3)
        names, logits_NK = run_steps(runner.steps(given_pixels))
        assert names == ["host-to-device", "compute", "device-to-host"]
        np.testing.assert_array_equal(logits_NK, expected_logits(given_pixels, CLASSES))
        assert machine.device.calls == ["upload", "synchronize", "synchronize", "download", "synchronize"]
        np.testing.assert_array_equal(runner(given_pixels), logits_NK)

    def test_a_call_within_another_is_refused(self, machine: FakeMachine) -> None:
        """As from another thread: both would share the pinned buffers."""
        runner = machine.load()
        steps = runner.steps(pixels(2))
        next(steps)
        with pytest.raises(UsageError, match=r"is used by another thread; give each thread its own `fork\(\)`"):
            runner(pixels(1))
        with closing(runner.fork()) as fork:
            np.testing.assert_array_equal(fork(pixels(1)), expected_logits(pixels(1), CLASSES))
        steps.close()
        np.testing.assert_array_equal(runner(pixels(1)), expected_logits(pixels(1), CLASSES))

    def test_a_graph_is_left_alone(self, machine: FakeMachine) -> None:
        runner = machine.load()
        runner(pixels(2))
        launches = machine.device.calls.count("launch")
        assert len(run_steps(runner.steps(pixels(2)))[0]) == 3
        assert machine.device.calls.count("launch") == launches
        runner(pixels(2))
        assert machine.device.calls.count("launch") == launches + 1


class TestGraphs:
    def test_a_batch_size_is_captured_once_and_launched_from_then_on(self, machine: FakeMachine) -> None:
        runner = machine.load()
        for _ in range(3):
            runner(pixels(2))
        assert machine.device.calls.count("begin_capture") == 1
        assert machine.device.calls.count("launch") == 2

    def test_each_graph_has_a_context_that_nothing_changes_after_the_capture(self, machine: FakeMachine) -> None:
        runner = machine.load()
        for count in (1, 2, 3, 1, 2, 3):
            runner(pixels(count))
        assert [context.shape[0] for context in machine.engine.contexts] == [1, 2, 3]

    def test_only_the_latest_batch_sizes_keep_their_graph(self, machine: FakeMachine) -> None:
        runner = machine.load()
        for count in (1, 2, 3, 4, 1, 5):  # 2 is the least recently used when 5 comes
            runner(pixels(count))
        assert len(machine.device.recorded) == MAX_GRAPHS
        captures = machine.device.calls.count("begin_capture")
        runner(pixels(1))
        assert machine.device.calls.count("begin_capture") == captures
        runner(pixels(2))
        assert machine.device.calls.count("begin_capture") == captures + 1

    def test_an_engine_that_cannot_be_captured_runs_without(self, machine: FakeMachine) -> None:
        runner = machine.load(capturable=False)
        for _ in range(2):
            np.testing.assert_array_equal(runner(pixels(2)), expected_logits(pixels(2), CLASSES))
        assert not machine.device.recording
        assert machine.device.calls.count("begin_capture") == 1
        assert not machine.device.recorded
        assert machine.device.last_error == "", "what fails next must not be told this error"

    def test_rtx_captures_by_itself(self, machine: FakeMachine) -> None:
        runner = machine.load(rtx=True)
        runner(pixels(2))
        assert "begin_capture" not in machine.device.calls
        assert [config.cuda_graph_strategy for config in machine.engine.runtime_configs] == ["whole graph"]


class TestCleanUp:
    def test_close_gives_everything_back_and_may_be_called_twice(self, machine: FakeMachine) -> None:
        runner = machine.load()
        for count in range(1, 7):
            runner(pixels(count))
        runner.close()
        runner.close()
        assert not machine.device.live
        with pytest.raises(ValueError, match="closed"):
            runner(pixels(1))

    def test_whatever_call_fails_nothing_stays_allocated(self, machine: FakeMachine) -> None:
        def session(device: FakeDevice) -> None:
            runner = machine.load(device)
            try:
                for count in (2, 2, 3):
                    runner(pixels(count))
            finally:
                runner.close()

        whole = FakeDevice()
        session(whole)
        gives_back = {"free", "free_pinned", "destroy_stream", "destroy_graph"}
        survived = set()
        for index, name in enumerate(whole.calls):
            device = FakeDevice(fail_at=index)
            message = None
            try:
                session(device)
            except UnavailableError as exc:
                message = str(exc)
            else:
                survived.add(name)
            assert message in (None, f"{name}: cudaErrorFake (injected)")
            # A call that gives back and fails keeps its own handle; all the others must still have had their turn.
            assert len(device.live) == (1 if name in gives_back else 0), (index, name, device.live)
        # A capture that fails is no loss: the engine then runs kernel by kernel.
        assert {"begin_capture", "end_capture"} <= survived <= {"begin_capture", "end_capture", "upload", "download"}

    def test_a_device_that_it_opened_is_closed(self, monkeypatch: pytest.MonkeyPatch, machine: FakeMachine) -> None:
        device = FakeDevice()
        monkeypatch.setattr(tensorrt_plans, "open_device", lambda: device)
        plan = machine.install(fake_tensorrt(device, side=SIDE, classes=CLASSES)[0])
        tensorrt_plans.load_plan(machine.plan_file, plan, machine.contract, machine.batch).close()
        assert device.calls[-1] == "close"

    @settings(max_examples=50, deadline=None)
    @given(counts=st.lists(st.integers(1, FakeMachine.batch.max), max_size=30))
    def test_any_order_of_batch_sizes_is_right_and_leaves_nothing(self, counts: list[int]) -> None:
        device = FakeDevice()
        library, engine = fake_tensorrt(device, side=SIDE, classes=CLASSES)
        with closing(TensorRTRunner(library, engine, device, FakeMachine.contract, FakeMachine.batch)) as runner:
            for seed, count in enumerate(counts):
                np.testing.assert_array_equal(
                    runner(pixels(count, seed)), expected_logits(pixels(count, seed), CLASSES)
                )
                assert len(device.recorded) <= MAX_GRAPHS
        assert not device.live
