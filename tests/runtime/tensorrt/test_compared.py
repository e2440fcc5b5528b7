"""Answers of a plan beside those of ONNX Runtime on the CPU, for the sample photos; on a fake GPU."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from alexnet_deploy.bundle.plan_options import PlanOptions
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.profiling.engine import try_engine
from alexnet_deploy.profiling.settings import ProfileSettings
from alexnet_deploy.runtime.select import SelectedRunner, open_runner
from tests.helpers.fake_bundle import FakeBundle
from tests.helpers.fake_tensorrt import FakeContext, expected_logits
from tests.helpers.models.foreign_models import random_pixels
from tests.helpers.models.onnx_models import Graph


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path / "cache"))


def onnx(folder: Path, *factors: float) -> Path:
    """A graph whose logit k is ``factors[k]`` times the sum of the pixels; the fake GPU computes 1, 2, 3."""
    g = Graph()
    x = g.node("Cast", "pixels", to=TensorProto.FLOAT)
    x = g.node("ReduceSum", x, g.constant(np.array([1, 2, 3])), keepdims=0)
    x = g.node("Mul", g.node("Unsqueeze", x, g.constant(np.array([1]))), g.constant(np.float32([factors])))
    return g.save(g.node("Identity", x), folder / "model.onnx", ["N", 4, 4, 3], TensorProto.UINT8)


def assert_passed_over(selected: SelectedRunner) -> str:
    """TensorRT is not used because of its answers, and another runtime is; the reason."""
    with closing(selected.runner) as runner:
        assert runner.device == "cpu"
    (passed,) = [each for each in selected.passed_over if each.runtime == "tensorrt"]
    assert passed.doubted
    return passed.reason


def test_a_plan_with_the_right_answers_is_compared_once(bundle: FakeBundle, tmp_path: Path) -> None:
    engine = bundle.engine(b"good", onnx=onnx(tmp_path, 1, 2, 3))
    for compared in (True, False):
        bundle.device.moved.clear()
        selected = open_runner(engine)
        with closing(selected.runner) as runner:
            assert (runner.runtime, selected.passed_over) == ("tensorrt", ())
        assert bool(bundle.device.moved) is compared, "the first load runs the photos, later ones do not"


def test_one_with_wrong_answers_is_passed_over_with_the_reason(bundle: FakeBundle, tmp_path: Path) -> None:
    engine = bundle.engine(b"good", onnx=onnx(tmp_path, 3, 1, 2))
    selected = open_runner(engine)
    with closing(selected.runner) as runner:
        assert runner.device == "cpu"
    (passed,) = [each for each in selected.passed_over if each.runtime == "tensorrt"]
    assert passed.doubted
    assert "differ by up to" in passed.reason
    assert not bundle.device.live


def test_rounding_of_tf32_is_accepted_only_in_a_plan_that_allows_it(full: FakeBundle, tmp_path: Path) -> None:
    # 2**-8 off: more than float32 rounds, less than 10 bits of mantissa may over a few operands.
    path = onnx(tmp_path, 1, 2, 3 * (1 + 2**-8))
    for tf32 in (False, True):
        engine = full.engine(b"good", onnx=path, options=PlanOptions(tf32=tf32))
        selected = open_runner(dataclasses.replace(engine, precision="fp32"))
        with closing(selected.runner) as runner:
            assert (runner.runtime == "tensorrt") is tf32


def strategy(context: FakeContext) -> Any:
    config = context.runtime_config
    return None if config is None else config.dynamic_shapes_kernel_specialization_strategy


def test_kernels_that_come_later_are_compared_before_they_come(rtx: FakeBundle, tmp_path: Path) -> None:
    """TensorRT-RTX computes the first calls with other kernels than those that it compiles meanwhile."""
    rtx.loaded.fault = lambda context, images, captured: strategy(context) == "eager"
    assert_passed_over(open_runner(rtx.engine(b"good", onnx=onnx(tmp_path, 1, 2, 3))))
    assert not rtx.device.live


def test_kernels_of_the_first_calls_are_compared_where_they_are_used(rtx: FakeBundle, tmp_path: Path) -> None:
    rtx.loaded.fault = lambda context, images, captured: strategy(context) == "lazy"
    engine = rtx.engine(b"good", onnx=onnx(tmp_path, 1, 2, 3))
    assert_passed_over(open_runner(engine))
    try_engine(engine, ProfileSettings(runtime="tensorrt"))  # it waits for the others, so they are what it measures
    assert strategy(rtx.loaded.contexts[-1]) == "eager"


def test_a_verdict_on_one_strategy_is_none_on_the_other(rtx: FakeBundle, tmp_path: Path) -> None:
    engine = rtx.engine(b"good", onnx=onnx(tmp_path, 1, 2, 3))
    open_runner(engine, "tensorrt", eager=True).runner.close()
    rtx.loaded.fault = lambda context, images, captured: strategy(context) == "lazy"
    assert_passed_over(open_runner(engine))


@pytest.mark.parametrize(("options", "said"), [(None, False), (PlanOptions(tf32=True), False), (PlanOptions(), True)])
def test_tf32_that_a_plan_was_built_without_is_said(
    options: PlanOptions | None, said: bool, full: FakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    engine = full.engine(b"good", options=options)
    open_runner(engine, "tensorrt", tf32=True, verify=False).runner.close()
    assert ("its plan was built without; build it with `tf32`" in caplog.text) is said


PROFILES = (BatchProfile(1, 1, 4), BatchProfile(4, 8, 32), BatchProfile(2, 24, 100))


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_each_profile_is_compared(wrong: int, bundle: FakeBundle, tmp_path: Path) -> None:
    bundle.loaded.profiles = PROFILES
    bundle.loaded.fault = lambda context, images, captured: context.profile == wrong
    engine = bundle.engine(b"good", onnx=onnx(tmp_path, 1, 2, 3), options=PlanOptions(profiles=PROFILES))
    reason = assert_passed_over(open_runner(dataclasses.replace(engine, batch=BatchProfile(1, 8, 100))))
    assert reason.startswith(f"in batches of {(1, 8, 100)[wrong]}, ")


@pytest.mark.parametrize("images", [1, 4, 8])
def test_one_image_the_tuned_batch_and_the_largest_are_compared(
    images: int, bundle: FakeBundle, tmp_path: Path
) -> None:
    bundle.loaded.fault = lambda context, count, captured: count == images
    assert_passed_over(open_runner(bundle.engine(b"good", onnx=onnx(tmp_path, 1, 2, 3))))


@pytest.mark.parametrize("images", [1, 16, 32])  # fewer than the sample photos, and more
def test_what_a_captured_graph_replays_is_compared(images: int, full: FakeBundle, tmp_path: Path) -> None:
    full.loaded.fault = lambda context, count, captured: captured and count == images
    engine = full.engine(b"good", onnx=onnx(tmp_path, 1, 2, 3))
    assert_passed_over(open_runner(dataclasses.replace(engine, batch=BatchProfile(1, 16, 32))))
    assert not full.device.live


@pytest.mark.parametrize("smallest", [1, 16])
def test_answers_that_stand_in_memory_from_the_call_before_are_not_taken_for_new_ones(
    smallest: int, full: FakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that computes nothing leaves them there."""
    monkeypatch.setattr(full.device, "launch", lambda graph, stream: None)
    engine = full.engine(b"good", onnx=onnx(tmp_path, 1, 2, 3))
    assert_passed_over(open_runner(dataclasses.replace(engine, batch=BatchProfile(smallest, 16, 32))))


def test_after_the_comparison_nothing_of_it_is_left_in_the_runner(bundle: FakeBundle, tmp_path: Path) -> None:
    """Graphs of ONNX Runtime belong to the thread that made them, which is another one in `serve`."""
    with closing(open_runner(bundle.engine(b"good", onnx=onnx(tmp_path, 1, 2, 3))).runner) as runner:
        assert not [kind for kind, _ in bundle.device.live if kind == "graph"]
        pixels = random_pixels(3, 4)
        np.testing.assert_array_equal(runner(pixels), expected_logits(pixels, 3))


@pytest.mark.parametrize("other", ["card", "driver"])
def test_another_card_of_the_same_capability_and_another_driver_are_compared_again(
    other: str, full: FakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_deploy.runtime.reference.driver_version", lambda: "580.65")
    engine = full.engine(b"good", onnx=onnx(tmp_path, 1, 2, 3))
    open_runner(engine, "tensorrt").runner.close()
    full.loaded.fault = lambda context, images, captured: True
    open_runner(engine, "tensorrt", refuse_doubted=True).runner.close()  # known to be right on this one
    if other == "card":
        full.device.card = "NVIDIA L4"
    else:
        monkeypatch.setattr("alexnet_deploy.runtime.reference.driver_version", lambda: "590.10")
    assert_passed_over(open_runner(engine))
