"""OpenVINO and ONNX Runtime answer alike, hand over their results, take any batch, refuse what they cannot run."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.runtime.runner import AnyBatch, Runner, batch_near
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.models.foreign_models import random_pixels
from tests.helpers.models.onnx_models import CLASSES, SIDE, TINY_CONTRACT, Graph, tiny_engine
from tests.helpers.runners import FakeRunner, numbered_contract, run_steps

ON_CPU = ("onnxruntime", "openvino")


@pytest.fixture(params=ON_CPU)
def runner(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Runner]:
    runner = open_runner(engine, request.param, threads=1).runner
    yield runner
    runner.close()


def pixels(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return random_pixels(count, SIDE, seed)


class TestAnswers:
    def test_the_runtimes_agree(self, engine: Engine) -> None:
        first_NK, second_NK = (open_runner(engine, runtime, threads=1).runner(pixels(5)) for runtime in ON_CPU)
        # float32 sums in another order differ by 1e-6 of the largest logit; bfloat16, which OpenVINO would take by
        # itself on some processors, by some 1e-3.
        np.testing.assert_allclose(first_NK, second_NK, rtol=0, atol=2e-5 * np.abs(first_NK).max())
        assert np.ptp(first_NK, axis=0).max() > 1e-3

    def test_the_caller_owns_the_logits(self, runner: Runner) -> None:
        first_NK = runner(pixels(2, seed=1))
        assert (first_NK.shape, first_NK.dtype) == ((2, CLASSES), np.float32)
        kept_NK = first_NK.copy()
        second_NK = runner(pixels(2, seed=2))
        assert not np.array_equal(second_NK, kept_NK)
        np.testing.assert_array_equal(first_NK, kept_NK)
        first_NK[:] = 0  # writable, and nobody else's
        np.testing.assert_array_equal(runner(pixels(2, seed=1)), kept_NK)

    def test_the_pixels_stay_the_callers(self, runner: Runner) -> None:
        mine_NHWC = pixels(2)
        expected_NK = runner(mine_NHWC)
        np.testing.assert_array_equal(mine_NHWC, pixels(2))
        mine_NHWC[:] = 0
        assert not np.array_equal(runner(mine_NHWC), expected_NK)

    def test_pixels_in_any_memory_layout(self, runner: Runner) -> None:
        expected_NK = runner(pixels(4))
        wide_NHWC = np.zeros((4, SIDE, 2 * SIDE, 3), np.uint8)
        wide_NHWC[:, :, ::2] = pixels(4)
        locked_NHWC = pixels(4)
        locked_NHWC.flags.writeable = False
        for same_NHWC in (wide_NHWC[:, :, ::2], locked_NHWC, pixels(4)[::-1][::-1]):
            np.testing.assert_array_equal(runner(same_NHWC), expected_NK)

    def test_steps_are_the_call(self, runner: Runner) -> None:
        names, logits_NK = run_steps(runner.steps(pixels(3)))
        assert names == ["compute"]
        np.testing.assert_array_equal(logits_NK, runner(pixels(3)))

    @pytest.mark.parametrize("runtime", ON_CPU)
    def test_forks_in_threads_answer_as_one_does(self, runtime: str, engine: Engine) -> None:
        runner = open_runner(engine, runtime, threads=2, concurrency=2).runner
        fork = runner.fork()
        batches = [pixels(3, seed=i) for i in range(20)]
        expected = [runner(batch) for batch in batches]
        with ThreadPoolExecutor(2) as pool:
            found = [pool.submit(lambda each: list(map(each, batches)), each) for each in (runner, fork)]
            for answers in found:
                assert all(map(np.array_equal, answers.result(), expected))
        fork.close()
        assert np.array_equal(runner(batches[0]), expected[0])

    @pytest.mark.parametrize(
        "use",
        [lambda r: r(pixels(1)), lambda r: next(r.steps(pixels(1))), lambda r: r.fork()],
        ids=["call", "steps", "fork"],
    )
    def test_after_close_it_refuses_all_but_close(self, runner: Runner, use: Callable[[Runner], object]) -> None:
        use(runner)
        runner.close()
        runner.close()
        with pytest.raises(ValueError, match=r"^the runner is closed$"):
            use(runner)


def test_a_second_thread_on_one_openvino_request_is_told_to_fork(engine: Engine) -> None:
    """OpenVINO refuses it too, but not always: then a thread gets the answers to the other one's images."""
    runner = open_runner(engine, "openvino", threads=1).runner
    refused: list[str] = []

    def compute(seed: int) -> None:
        batch_NHWC = pixels(50, seed)
        expected_NK = expected[seed]
        for _ in range(200):
            try:
                found_NK = runner(batch_NHWC)
            except UsageError as exc:
                refused.append(str(exc))
            else:
                np.testing.assert_array_equal(found_NK, expected_NK)

    expected = [runner(pixels(50, seed)) for seed in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(compute, seed) for seed in range(2)]:
            done.result()
    assert {message.partition(": ")[2] for message in refused} == {
        "is used by another thread; give each thread its own `fork()`"
    }


STATIC = 3


@pytest.fixture(scope="session")
def static_runners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Runner, Runner]]:
    """By runtime: the same network with a batch of exactly ``STATIC`` and with any."""
    folder = tmp_path_factory.mktemp("static")
    static, free = (tiny_engine(folder / f"{b}.onnx", batch=b) for b in (STATIC, "N"))
    return {
        name: (open_runner(static, name, threads=1).runner, open_runner(free, name, threads=1).runner)
        for name in ON_CPU
    }


@given(count=st.integers(1, 3 * STATIC + 2))
@settings(max_examples=12, deadline=None)
def test_a_static_batch_takes_any_number(count: int, static_runners: dict[str, tuple[Runner, Runner]]) -> None:
    for static, free in static_runners.values():
        assert static.batch is None
        expected_NK = free(pixels(count))
        # Another batch size may take another kernel, which sums in another order.
        np.testing.assert_allclose(static(pixels(count)), expected_NK, rtol=0, atol=2e-5 * np.abs(expected_NK).max())


CONTRACT = numbered_contract(20)


def numbered(count: int) -> NDArray[np.uint8]:
    return np.ones((1, 8, 8, 3), np.uint8) * np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)


@given(
    count=st.integers(1, 20),
    profile=st.tuples(st.integers(1, 5), st.integers(1, 9)).map(lambda p: BatchProfile(p[0], max(p), max(p))),
)
def test_calls_are_split_and_padded_and_so_are_their_steps(count: int, profile: BatchProfile) -> None:
    inner = FakeRunner(CONTRACT, profile)
    runner: Runner = AnyBatch(inner, "tiny")
    assert runner(numbered(count)).argmax(axis=1).tolist() == list(range(count))
    assert runner.batch is None
    assert sum(inner.sizes) - count < profile.min  # the padding, of the last call only
    sizes = inner.sizes.copy()
    names, logits_NK = run_steps(runner.steps(numbered(count)))
    assert logits_NK.argmax(axis=1).tolist() == list(range(count))
    assert inner.sizes == 2 * sizes
    assert names == ["compute"] * len(sizes)


@given(wanted=st.integers(1, 64), low=st.integers(1, 70), more=st.integers(0, 70) | st.just(0))
def test_a_batch_near_to_the_wanted_one_fills_up_no_call(wanted: int, low: int, more: int) -> None:
    profile = BatchProfile(low, low, low + more)
    inner = FakeRunner(CONTRACT, profile)
    runner = AnyBatch(inner, "tiny")
    near = batch_near(runner, wanted)
    runner(np.repeat(numbered(1), near, axis=0))
    assert sum(inner.sizes) == near
    assert wanted - profile.max < near <= max(wanted, profile.min)
    if profile.min <= wanted <= profile.max:
        assert near == wanted
    assert batch_near(inner, wanted) == near
    assert batch_near(AnyBatch(FakeRunner(CONTRACT), "tiny"), wanted) == wanted


def test_the_rest_is_that_of_the_runner_inside() -> None:
    inner = FakeRunner(CONTRACT, BatchProfile(4, 4, 4))
    runner = AnyBatch(inner, "tiny")
    assert runner.contract is inner.contract
    assert (runner.runtime, runner.device, runner.description) == ("fake", "cpu", "fake on CPU")
    assert runner.fork()(numbered(3)).shape == (3, 20)
    assert inner.forks[0].sizes == [4]
    runner.close()
    assert inner.closed


class TestRefused:
    @pytest.mark.parametrize("runtime", ON_CPU)
    def test_a_file_that_is_no_model(
        self, runtime: str, engine: Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        bad = tmp_path / "bad.onnx"
        bad.write_bytes(b"garbage")
        with pytest.raises(
            InputError, match=r"bad.onnx: (ONNX Runtime|OpenVINO) refuses it \(.+\); try `runtime`"
        ) as info:
            open_runner(dataclasses.replace(engine, onnx_path=bad), runtime)
        assert "\n" not in str(info.value)
        if runtime == "onnxruntime":
            assert capfd.readouterr().err == ""

    def test_a_graph_that_takes_one_image_for_all_it_says(
        self, engine: Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """OpenVINO would answer two images with what it said of the one before, and later end the process."""
        g = Graph()
        flat = g.node("Reshape", g.node("Cast", "pixels", to=1), g.constant(np.array([1, SIDE * SIDE * 3])))
        path = g.save(
            g.node("MatMul", flat, g.weight(SIDE * SIDE * 3, CLASSES)),
            tmp_path / "net.onnx",
            ["N", SIDE, SIDE, 3],
            TensorProto.UINT8,
        )
        one_by_one, refusing = (
            open_runner(dataclasses.replace(engine, onnx_path=path), runtime, threads=1, verify=False).runner
            for runtime in ON_CPU[::-1]
        )
        images_NHWC = pixels(2)
        single_NK = np.concatenate([refusing(images_NHWC[:1]), refusing(images_NHWC[1:])])
        # float32 sums of 3072 products in another order
        np.testing.assert_allclose(one_by_one(images_NHWC), single_NK, rtol=0, atol=2e-5 * np.abs(single_NK).max())
        with pytest.raises(InputError, match=r"net.onnx: fails on pixels \(2, 32, 32, 3\)") as info:
            refusing(images_NHWC)
        assert "\n" not in str(info.value)
        assert capfd.readouterr().err == ""


def test_openvino_leaves_signals_alone_and_forks_no_process(engine: Engine) -> None:
    """A core that went before a later one left the thread a freed signal stack, and Ctrl-C became a segfault.

    Its telemetry forks. Such a fork can deadlock, outlive a killed process, and keep its standard error open.
    """
    code = f"""
import faulthandler, os, signal, sys
faulthandler.enable()
os.fork = None
from pathlib import Path
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.runtime.openvino_runner import OpenVinoRunner

contract = ModelContract.from_json({TINY_CONTRACT.to_json()!r}, source="test")
runners = [OpenVinoRunner(Path({str(engine.onnx_path)!r}), contract) for _ in range(3)]
while runners:
    runners.pop(0)
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
os.kill(os.getpid(), signal.SIGINT)
print(heard, sys.modules["openvino_telemetry"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[1] None\n"), done.stderr
