"""While ONNX Runtime captures a graph, nothing else of this process uses a GPU; on fake GPUs with real addresses."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.runtime.cuda.captures import is_alone, present
from alexnet_deploy.runtime.cuda.memory import shared_pixels
from alexnet_deploy.runtime.onnxruntime.cuda_runner import OnnxRuntimeCudaRunner
from tests.helpers.fake_tensorrt import FakeMachine
from tests.helpers.host_device import HostDevice, RecordingSession, cuda_runner_on_host
from tests.helpers.models.foreign_models import random_pixels
from tests.helpers.models.onnx_models import SIDE, TINY_CONTRACT

PIXELS = random_pixels(2, SIDE, seed=1)
SHORT_S = 0.2
"""How long a thread is given to do what it must not do; it needs microseconds."""


def on_host(engine: Engine) -> tuple[OnnxRuntimeCudaRunner, RecordingSession]:
    return cuda_runner_on_host(engine.onnx_path, TINY_CONTRACT, device=HostDevice())


@pytest.fixture
def one(engine: Engine) -> Iterator[tuple[OnnxRuntimeCudaRunner, RecordingSession]]:
    runner, session = on_host(engine)
    with closing(runner):
        yield runner, session


def call(runner: OnnxRuntimeCudaRunner, times: int) -> None:
    for _ in range(times):
        runner(PIXELS)


def test_alone_it_captures(one: tuple[OnnxRuntimeCudaRunner, RecordingSession]) -> None:
    call(one[0], 3)
    assert one[1].graphs == ["-1", "2", "2"]


@pytest.mark.parametrize("other", ["session", "plan"])
def test_beside_another_engine_it_only_replays(
    other: str, one: tuple[OnnxRuntimeCudaRunner, RecordingSession], engine: Engine, machine: FakeMachine
) -> None:
    """Such as that of another GPU, of another bundle in `serve`, or the next one while it replaces this."""
    runner, session = one
    call(runner, 2)
    with closing(on_host(engine)[0] if other == "session" else machine.load(rtx=True)):
        runner(PIXELS)
        for _ in range(3):
            runner(PIXELS[:1])
    runner(PIXELS[:1])
    # A batch of 2 was captured before. 1 runs plainly, at first padded to 2, until the other is gone.
    assert session.graphs == ["-1", "2", "2", "2", "-1", "-1", "1"]


def test_two_cards_capture_nothing_whoever_calls_when(engine: Engine) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        each = [on_host(engine) for _ in range(2)]
        for runner, _ in each:
            stack.enter_context(closing(runner))
        list(pool.map(lambda pair: call(pair[0], 5), each))
    assert all(set(session.graphs) == {"-1"} for _, session in each)


@pytest.mark.parametrize("what", ["opens", "allocates"])
def test_who_comes_during_a_capture_waits_for_its_end(
    what: str, one: tuple[OnnxRuntimeCudaRunner, RecordingSession]
) -> None:
    runner, session = one
    order: list[str] = []
    run = session.run_with_iobinding

    def other() -> None:
        with ExitStack() as stack:
            if what == "opens":
                stack.enter_context(present())
            else:
                shared_pixels(HostDevice(), stack, (1, 2, 2, 3))
            order.append(what)

    thread = threading.Thread(target=other)

    def capture(binding: Any, options: Any = None) -> None:
        if options.get_run_config_entry("gpu_graph_id") != "-1":
            thread.start()
            thread.join(SHORT_S)
        run(binding, options)
        order.append("captured")

    call(runner, 1)
    session.run_with_iobinding = capture  # type: ignore[method-assign]
    call(runner, 1)
    thread.join()
    assert order == ["captured", what]


def test_close_lets_go_of_the_session(engine: Engine, tmp_path: Path) -> None:
    """Its graphs and its arena are memory of the GPU."""
    runner, session = on_host(engine)
    call(runner, 3)
    fork = runner.fork()
    gone = weakref.ref(session)
    del session
    fork.close()
    runner.close()
    gc.collect()
    assert gone() is None
    assert is_alone()


def test_an_engine_that_is_forgotten_is_present_no_longer(engine: Engine) -> None:
    others = [on_host(engine)[0] for _ in range(2)]
    assert not is_alone()
    del others
    gc.collect()
    assert is_alone()
