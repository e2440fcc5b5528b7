"""On a GPU, and on the CPU as its measure: forks in threads, each with its own stream; a plan with other answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.build.plans import build_plans
from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import DeployError, ProofError
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.gpu import require_gpu
from tests.helpers.models.foreign_models import random_pixels
from tests.helpers.models.onnx_models import SIDE, TINY_CONTRACT, pooled_model, tiny_model

BATCH = BatchProfile(1, 4, 8)
CALLERS, CALLS = 4, 24
TOLERANCE = 1e-3
"""Of the range of float32 logits, as in ``runtime.reference``."""


@pytest.fixture(autouse=True)
def no_verdicts_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path / "cache"))


def with_plan(onnx: Path, of: Path | None = None) -> Engine:
    """``onnx`` with a plan for this GPU, built from ``of`` (None: itself); a skip with the cause if none is built."""
    require_gpu()
    (folder := onnx.parent / "plans").mkdir()
    try:
        built = build_plans(of or onnx, folder, batch=BATCH, targets=["current"]).plans
    except DeployError as exc:
        pytest.skip(str(exc))
    if not built:
        pytest.skip("the installed TensorRT builds no plan for this GPU")
    plans = tuple((each.plan, folder / each.plan.file) for each in built)
    return Engine("tiny", onnx, TINY_CONTRACT, "fp32", BATCH, plans)


@pytest.fixture(
    params=[
        "onnxruntime",
        pytest.param("onnxruntime-cuda", marks=pytest.mark.gpu),
        pytest.param("tensorrt", marks=pytest.mark.gpu),
    ]
)
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runner]:
    onnx = tiny_model(tmp_path / "tiny.onnx")
    engine = with_plan(onnx) if request.param == "tensorrt" else Engine("tiny", onnx, TINY_CONTRACT, "fp32", None)
    try:
        selected = open_runner(engine, request.param, concurrency=CALLERS)
    except DeployError as exc:
        pytest.skip(str(exc))
    with closing(selected.runner) as runner:
        yield runner


def test_forks_in_threads_answer_as_one_does(runner: Runner, tmp_path: Path) -> None:
    """Batches of changing sizes, so that plain calls, padded ones and graphs of several threads overlap."""
    onnx = tmp_path / "tiny.onnx"
    images = [random_pixels(1 + number % BATCH.max, SIDE, seed=number) for number in range(CALLS)]
    with closing(open_runner(Engine("tiny", onnx, TINY_CONTRACT, "fp32", None), "onnxruntime").runner) as reference:
        expected = [reference(pixels) for pixels in images]
    with ExitStack() as forks, ThreadPoolExecutor(CALLERS) as pool:
        each = [runner, *(forks.enter_context(closing(runner.fork())) for _ in range(CALLERS - 1))]

        def answers(number: int) -> list[tuple[int, np.ndarray]]:
            """This caller's share, and again: the second time the sizes are known."""
            mine = [*range(number, CALLS, CALLERS)] * 2
            return [(index, each[number](images[index])) for index in mine]

        for found in pool.map(answers, range(CALLERS)):
            for index, logits_NK in found:
                bound = TOLERANCE * float(np.ptp(expected[index]))
                np.testing.assert_allclose(logits_NK, expected[index], rtol=0, atol=bound)


@pytest.mark.gpu
class TestVerify:
    def test_a_sound_plan_is_what_auto_takes(self, tmp_path: Path) -> None:
        selected = open_runner(with_plan(tiny_model(tmp_path / "tiny.onnx")))
        with closing(selected.runner) as runner:
            assert (runner.runtime, selected.passed_over) == ("tensorrt", ())

    def test_a_plan_with_other_answers_is_passed_over_and_the_next_runtime_is_right(self, tmp_path: Path) -> None:
        onnx = tiny_model(tmp_path / "tiny.onnx")
        engine = with_plan(onnx, of=pooled_model(tmp_path / "other.onnx"))
        selected = open_runner(engine)
        with closing(selected.runner) as runner:
            assert runner.runtime != "tensorrt"
            (passed,) = [each for each in selected.passed_over if each.runtime == "tensorrt"]
            assert passed.doubted
            assert "of their range from what the ONNX says" in passed.reason
            plain = dataclasses.replace(engine, plans=(), batch=None)
            with closing(open_runner(plain, "onnxruntime").runner) as reference:
                pixels = random_pixels(3, SIDE)
                expected_NK = reference(pixels)
                bound = TOLERANCE * float(np.ptp(expected_NK))
                np.testing.assert_allclose(runner(pixels), expected_NK, rtol=0, atol=bound)

    def test_named_it_is_refused_where_answers_count(self, tmp_path: Path) -> None:
        onnx = tiny_model(tmp_path / "tiny.onnx")
        engine = with_plan(onnx, of=pooled_model(tmp_path / "other.onnx"))
        with pytest.raises(ProofError, match="is not used: its logits for"):
            open_runner(engine, "tensorrt", refuse_doubted=True)
