"""ONNX Runtime for CUDA with bound memory: on the CPU's own session, and on a fake GPU with real addresses."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.errors import UnavailableError, UsageError
from alexnet_deploy.runtime.onnxruntime.bound_session import MAX_KEPT, SharedState, with_padding
from alexnet_deploy.runtime.onnxruntime.cuda_runner import OnnxRuntimeCudaRunner
from alexnet_deploy.runtime.onnxruntime.runner import OnnxRuntimeRunner
from tests.helpers.host_device import HostDevice, RecordingSession, cuda_runner_on_host, pixels
from tests.helpers.models.onnx_models import CLASSES, TINY_CONTRACT, tiny_engine
from tests.helpers.runners import run_steps


@pytest.fixture(scope="module")
def expected(engine: Engine) -> OnnxRuntimeRunner:
    return OnnxRuntimeRunner(engine.onnx_path, TINY_CONTRACT, threads=1)


def assert_same(found_NK: NDArray[np.float32], expected_NK: NDArray[np.float32]) -> None:
    # Another batch size may take another kernel, which sums in another order: 1e-6 of the largest logit.
    np.testing.assert_allclose(found_NK, expected_NK, rtol=0, atol=2e-5 * np.abs(expected_NK).max())


@pytest.fixture
def device() -> HostDevice:
    return HostDevice()


@pytest.fixture
def bound(engine: Engine, device: HostDevice) -> tuple[OnnxRuntimeCudaRunner, RecordingSession]:
    return cuda_runner_on_host(engine.onnx_path, TINY_CONTRACT, device=device)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.booleans(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_any_series_of_batches_has_the_answers_of_each_alone(
    engine: Engine, expected: OnnxRuntimeRunner, counts: list[int], has_device: bool, graphs: bool
) -> None:
    device = HostDevice() if has_device else None
    runner, session = cuda_runner_on_host(engine.onnx_path, TINY_CONTRACT, device=device, graphs=graphs)
    for seed, count in enumerate(counts):
        found_NK = runner(pixels(count, seed))
        assert (found_NK.shape, found_NK.dtype) == ((count, CLASSES), np.float32)
        assert_same(found_NK, expected(pixels(count, seed)))
    assert all(size >= count for size, count in zip(session.sizes, counts, strict=True))
    runner.close()
    runner.close()
    assert device is None or device.live == set()


def sizes_run(counts: list[int]) -> list[int]:
    """The batch sizes that images in these ``counts`` run at, one after the other."""
    state, sizes = SharedState(captures=False, graphs=False), []
    for count in counts:
        sizes.append(state.padded(count))
        state.note(sizes[-1])
    return sizes


class TestPadding:
    def test_the_last_shorter_batch_runs_at_the_size_of_the_others(self) -> None:
        assert sizes_run([32, 32, 32, 7]) == [32, 32, 32, 32]

    def test_a_size_that_comes_again_is_worth_its_own_search(self) -> None:
        assert sizes_run([32, 7, 3, 7, 3, 2]) == [32, 32, 32, 7, 3, 3]

    @pytest.mark.parametrize("bound_memory", [True, False])
    def test_a_size_that_failed_is_none_to_pad_to(self, bound_memory: bool, engine: Engine, device: HostDevice) -> None:
        runner, session = cuda_runner_on_host(
            engine.onnx_path, TINY_CONTRACT, device=device if bound_memory else None, graphs=False
        )
        session.error = RuntimeError("Failed to allocate memory for requested buffer of size 2147483648")
        with pytest.raises(UnavailableError):
            runner(pixels(6))
        session.error = None
        for count in (3, 2):
            runner(pixels(count))
        assert session.sizes == [3, 3]

    @given(st.lists(st.integers(1, 64), max_size=40))
    def test_it_is_the_count_or_one_that_ran(self, counts: list[int]) -> None:
        ran: set[int] = set()
        for index, (count, size) in enumerate(zip(counts, sizes_run(counts), strict=True)):
            assert size == count or (size > count and size in ran and count not in counts[:index])
            ran.add(size)

    def test_the_last_image_is_repeated(self) -> None:
        images = pixels(3)
        padded = with_padding(images, 5)
        np.testing.assert_array_equal(padded, images[[0, 1, 2, 2, 2]])
        assert with_padding(images, 3) is images

    def test_no_image_of_an_earlier_batch_is_left(
        self, bound: tuple[OnnxRuntimeCudaRunner, RecordingSession], device: HostDevice
    ) -> None:
        runner, _ = bound
        runner(pixels(4))
        runner(pixels(2, seed=1))
        padded = with_padding(pixels(2, seed=1), 4)
        assert [bytes(each) for each in device.memory.values() if len(each) == padded.nbytes] == [padded.tobytes()]


class TestOwnership:
    def test_logits_belong_to_the_caller_and_pixels_stay_his(
        self, bound: tuple[OnnxRuntimeCudaRunner, RecordingSession]
    ) -> None:
        runner, _ = bound
        mine = pixels(2, 1)
        first = runner(mine)
        kept = first.copy()
        np.testing.assert_array_equal(mine, pixels(2, 1))
        runner(pixels(2, 2))
        np.testing.assert_array_equal(first, kept)

    def test_pixels_in_any_memory_layout(self, bound: tuple[OnnxRuntimeCudaRunner, RecordingSession]) -> None:
        runner, _ = bound
        expected_NK = runner(pixels(4))
        locked = pixels(4)
        locked.flags.writeable = False
        for same in (locked, pixels(4)[::-1][::-1], np.asfortranarray(pixels(4))):
            np.testing.assert_array_equal(runner(same), expected_NK)

    def test_a_second_thread_on_one_runner_is_told_to_fork(
        self, bound: tuple[OnnxRuntimeCudaRunner, RecordingSession]
    ) -> None:
        runner, _ = bound
        steps = runner.steps(pixels(1))
        next(steps)  # in the middle of a call
        with pytest.raises(UsageError, match=r"give each thread its own `fork\(\)`"):
            runner(pixels(1))
        steps.close()
        runner(pixels(1))

    def test_forks_in_threads_answer_as_one_does(
        self, bound: tuple[OnnxRuntimeCudaRunner, RecordingSession], expected: OnnxRuntimeRunner, device: HostDevice
    ) -> None:
        runner, _ = bound
        fork = runner.fork()
        batches = [pixels(1 + seed % 3, seed) for seed in range(12)]
        # One at a time: the fake device has one queue for all streams.
        turn = threading.Lock()

        def answers(each: OnnxRuntimeCudaRunner) -> list[NDArray[np.float32]]:
            found = []
            for batch in batches:
                with turn:
                    found.append(each(batch))
            return found

        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(answers, each) for each in (runner, fork)]:
                for found_NK, batch in zip(done.result(), batches, strict=True):
                    assert_same(found_NK, expected(batch))
        fork.close()
        assert "close" not in device.calls, "the device is the first runner's"
        assert_same(runner(batches[0]), expected(batches[0]))
        runner.close()
        assert device.live == set()
        assert device.calls[-1] == "close"

    def test_after_close_it_refuses_all_but_close(self, bound: tuple[OnnxRuntimeCudaRunner, RecordingSession]) -> None:
        runner, _ = bound
        runner.close()
        for use in (lambda: runner(pixels(1)), lambda: next(runner.steps(pixels(1))), runner.fork):
            with pytest.raises(ValueError, match=r"^the runner is closed$"):
                use()


class TestSteps:
    def test_they_are_the_call(self, bound: tuple[OnnxRuntimeCudaRunner, RecordingSession]) -> None:
        runner, session = bound
        names, logits_NK = run_steps(runner.steps(pixels(3)))
        assert names == ["host-to-device", "compute", "device-to-host"]
        np.testing.assert_array_equal(logits_NK, runner(pixels(3)))
        run_steps(runner.steps(pixels(3)))
        assert session.graphs[-1] == "-1", "a graph has no steps"

    def test_without_bound_memory_there_is_one(self, engine: Engine) -> None:
        runner, _ = cuda_runner_on_host(engine.onnx_path, TINY_CONTRACT)
        assert run_steps(runner.steps(pixels(2)))[0] == ["compute"]


class TestGraphs:
    def test_a_batch_size_that_returns_is_one(self, bound: tuple[OnnxRuntimeCudaRunner, RecordingSession]) -> None:
        runner, session = bound
        for seed in range(3):
            runner(pixels(4, seed))
        runner(pixels(6))
        assert session.graphs == ["-1", "4", "4", "-1"]

    def test_another_thread_runs_without(self, bound: tuple[OnnxRuntimeCudaRunner, RecordingSession]) -> None:
        runner, session = bound
        runner(pixels(2))
        with ThreadPoolExecutor(1) as pool:
            for _ in range(2):
                pool.submit(runner, pixels(2)).result()
        runner(pixels(2))
        assert session.graphs == ["-1", "2", "2", "-1"], "they belong to the first thread whose calls repeat"

    def test_none_after_a_fork(self, bound: tuple[OnnxRuntimeCudaRunner, RecordingSession]) -> None:
        runner, session = bound
        runner(pixels(2))
        runner(pixels(2))
        fork = runner.fork()
        for each in (runner, fork, runner, fork):
            each(pixels(2))
        assert session.graphs == ["-1", "2", "-1", "-1", "-1", "-1"]

    def test_only_a_few_sizes_keep_memory(
        self, bound: tuple[OnnxRuntimeCudaRunner, RecordingSession], device: HostDevice
    ) -> None:
        runner, session = bound
        sizes = range(1, MAX_KEPT + 4)
        for size in sizes:  # ascending, so none is padded
            runner(pixels(size))
            runner(pixels(size))
        kept = [str(size) for size in range(1, MAX_KEPT + 1)]
        assert [graph for graph in session.graphs if graph != "-1"] == kept
        assert len([kind for kind, _ in device.live if kind == "memory"]) == 2 * (MAX_KEPT + 1)

    @pytest.mark.parametrize("bound_memory", [True, False])
    def test_a_session_opened_for_graphs_is_told_where_none_is_wanted(self, bound_memory: bool, engine: Engine) -> None:
        """Otherwise ONNX Runtime captures the first call, and replays it over memory that is no longer the call's."""
        device = HostDevice() if bound_memory else None
        runner, session = cuda_runner_on_host(engine.onnx_path, TINY_CONTRACT, device=device)
        runner.fork()
        for _ in range(2):
            runner(pixels(2))
        assert session.graphs == ["-1", "-1"]

    def test_a_session_opened_without_is_told_nothing(self, engine: Engine, device: HostDevice) -> None:
        runner, session = cuda_runner_on_host(engine.onnx_path, TINY_CONTRACT, device=device, graphs=False)
        for _ in range(2):
            runner(pixels(2))
        assert session.graphs == [None, None]


class TestBoundOnlyWhereItFits:
    def test_nodes_on_the_cpu_leave_the_copies_to_the_session(self, engine: Engine, device: HostDevice) -> None:
        runner, session = cuda_runner_on_host(engine.onnx_path, TINY_CONTRACT, device=device, whole=False)
        runner(pixels(2))
        assert device.calls == []
        assert session.graphs == [None]
        assert runner.description.endswith(" on CUDA, some nodes on the CPU")

    def test_a_model_of_one_batch_size(self, tmp_path: Path, device: HostDevice) -> None:
        static = tiny_engine(tmp_path / "static.onnx", batch=3)
        runner, _ = cuda_runner_on_host(static.onnx_path, TINY_CONTRACT, device=device)
        assert runner.batch is not None
        assert (runner.batch.min, runner.batch.max) == (3, 3)
        assert runner(pixels(3)).shape == (3, CLASSES)
