"""A runtime whose answers are not those of the graph is passed over, or refused, once per engine and machine."""

from __future__ import annotations

import dataclasses
import json
import logging
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.errors import ArtifactError, ProofError
from alexnet_deploy.inference.engine import open_engine
from alexnet_deploy.runtime.onnxruntime import runner as onnxruntime_runner
from alexnet_deploy.runtime.reference import judge
from alexnet_deploy.runtime.select import open_runner
from alexnet_deploy.verification.photos import photo_pixels
from tests.helpers.models.onnx_models import (
    CLASSES,
    TINY_CONTRACT,
    pooled_model,
    small_scales,
    tiny_engine,
    tiny_model,
)

PHOTOS = photo_pixels(TINY_CONTRACT.preprocessing)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone."""
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pooled_engine(path: Path) -> Engine:
    """A net whose AveragePool OpenVINO computes with other divisors at the border (ceil_mode, count_include_pad)."""
    pooled_model(path)
    return Engine("pooled", path, TINY_CONTRACT, "fp32", None)


def answers_of_onnx(path: Path) -> NDArray[np.float32]:
    """What the graph says, by ONNX's own evaluator."""
    from onnx.reference import ReferenceEvaluator

    (logits_NK,) = ReferenceEvaluator(str(path)).run(None, {"pixels": PHOTOS[:2]})
    return np.asarray(logits_NK, np.float32)


class TestARuntimeThatLeavesTheGraph:
    def test_auto_takes_the_next_one_and_says_why(
        self, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine = pooled_engine(tmp_path / "pooled.onnx")
        selected = open_runner(engine)
        with closing(selected.runner) as runner:
            assert runner.runtime == "onnxruntime"
            # float32 sums in another order
            np.testing.assert_allclose(runner(PHOTOS[:2]), answers_of_onnx(engine.onnx_path), rtol=1e-4, atol=1e-4)
        (passed,) = [each for each in selected.passed_over if each.runtime == "openvino"]
        assert passed.doubted
        assert "of their range from what the ONNX says" in passed.reason
        assert "OpenVINO" in caplog.text

    def test_the_named_one_is_refused_by_open_engine_unless_it_is_not_verified(
        self, tmp_path: Path, cache: Path
    ) -> None:
        path = pooled_model(tmp_path / "pooled.onnx")
        with pytest.raises(ProofError, match=r"pooled: OpenVINO .* is not used: .*; choose another `runtime`"):
            open_engine(path, runtime="openvino")
        with open_engine(path, runtime="openvino", verify=False) as opened:
            assert opened.runtime == "openvino"

    def test_one_that_is_named_to_be_measured_is_opened_with_a_warning(
        self, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with closing(open_runner(pooled_engine(tmp_path / "pooled.onnx"), "openvino").runner) as runner:
            assert runner.runtime == "openvino"
        assert "pooled: do not trust OpenVINO" in caplog.text


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8+fp16", "fp8"])
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_sound_runtime_is_trusted_in_every_precision(
    precision: str, runtime: str, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_runner(tiny_engine(tmp_path / "tiny.onnx", precision), runtime).runner.close()
    assert "do not trust" not in caplog.text


@pytest.mark.parametrize(("factor", "agrees"), [(1.05, True), (1.3, False), (1.9, False)])
def test_of_a_quantised_engine_most_photos_must_be_near(
    factor: float, agrees: bool, tmp_path: Path, cache: Path
) -> None:
    """Logits times 1.3 are off by 15 to 30 % of their range on every photo, and name the same classes."""
    engine = Engine("tiny", tiny_model(tmp_path / "tiny.onnx"), TINY_CONTRACT, "int8", None)
    model = onnx.load(engine.onnx_path)
    model.graph.node[-1].op_type = "Mul"  # of an Identity
    model.graph.node[-1].input.append("factor")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(factor).reshape(()), "factor"))
    onnx.save(model, tmp_path / "other.onnx")
    other = dataclasses.replace(engine, onnx_path=tmp_path / "other.onnx", precision="fp32")
    with closing(open_runner(other, "onnxruntime", verify=False).runner) as runner:
        reason = judge(runner, engine).reason
    assert reason is None if agrees else "and 0 first classes are others" in str(reason)


class TestMemory:
    def test_the_verdict_is_read_by_the_next_run_of_the_same_engine_alone(self, tmp_path: Path, cache: Path) -> None:
        engine = tiny_engine(tmp_path / "tiny.onnx")
        assert open_runner(engine).runner.runtime == "openvino"
        (verdict,) = (cache / "verdicts").iterdir()
        verdict.write_text(json.dumps(json.loads(verdict.read_text()) | {"reason": "remembered"}))
        passed = open_runner(engine).passed_over
        assert [each.reason for each in passed if each.runtime == "openvino"] == ["remembered"]
        model = onnx.load(engine.onnx_path)
        model.graph.name = "another content"
        onnx.save(model, engine.onnx_path)
        assert open_runner(engine).runner.runtime == "openvino"

    @pytest.mark.parametrize("content", ["", "{", '{"schema": 1, "reason": 3}', '{"schema": 9}'])
    def test_a_damaged_verdict_is_measured_again(self, content: str, tmp_path: Path, cache: Path) -> None:
        engine = tiny_engine(tmp_path / "tiny.onnx")
        open_runner(engine).runner.close()
        (verdict,) = (cache / "verdicts").iterdir()
        whole = verdict.read_text()
        verdict.write_text(content)
        open_runner(engine).runner.close()
        assert verdict.read_text() == whole

    def test_a_reference_that_had_no_memory_is_tried_again(
        self, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*args: object, **options: object) -> None:
            raise RuntimeError("bad allocation")

        engine = pooled_engine(tmp_path / "pooled.onnx")
        with monkeypatch.context() as patch:
            patch.setattr(onnxruntime_runner, "open_session", fails)
            assert open_runner(engine).runner.runtime == "openvino", "nothing says that it is wrong"
        assert open_runner(engine).runner.runtime == "onnxruntime"

    def test_no_place_for_a_cache_costs_only_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_text("not a folder")
        monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path / "file"))
        assert open_runner(tiny_engine(tmp_path / "tiny.onnx")).runner.runtime == "openvino"


def with_classes(contract_classes: int, path: Path) -> Engine:
    """``tiny_classifier`` (10 classes) under a contract that has another number of them."""
    labels = tuple(map(str, range(contract_classes)))
    contract = dataclasses.replace(TINY_CONTRACT, labels=labels, class_ids=labels)
    return dataclasses.replace(tiny_engine(path), contract=contract)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("classes", [4, 12])
def test_outputs_that_the_contract_does_not_promise_are_refused(
    runtime: str, classes: int, tmp_path: Path, cache: Path
) -> None:
    engine = with_classes(classes, tmp_path / "tiny.onnx")
    with pytest.raises(ArtifactError, match=rf"tiny: returns \[\d+, 10\] for \d+ images, .* has {classes} classes"):
        open_runner(engine, runtime)
    with pytest.raises(ArtifactError, match="tiny: returns"):
        open_runner(engine)
    with closing(open_runner(engine, runtime, verify=False).runner) as runner, pytest.raises(ArtifactError):
        list(runner.steps(PHOTOS))


def test_a_bundle_with_the_labels_of_another_model_is_refused(tmp_path: Path, cache: Path) -> None:
    path = tiny_model(tmp_path / "tiny.onnx")
    labels = tuple(f"other {k}" for k in range(CLASSES))
    engine = Engine("tiny", path, dataclasses.replace(TINY_CONTRACT, labels=labels), "fp32", None)
    with pytest.raises(ArtifactError, match=r"tiny.onnx: has another contract than its bundle"):
        open_runner(engine)
    # The temperature of a bundle is its own.
    warmer = dataclasses.replace(TINY_CONTRACT, temperature=2.0)
    assert open_runner(dataclasses.replace(engine, contract=warmer)).runner.runtime == "openvino"


def test_float16_bias_scales_do_not_underflow_in_onnx_runtime(tmp_path: Path, cache: Path) -> None:
    """Its WeightBiasQuantization would compute them in float16: small scales of input and weights become 0."""
    path = small_scales(tmp_path / "net.onnx")
    engine = Engine("half", path, TINY_CONTRACT, "int8+fp16", None)
    with closing(open_runner(engine, "onnxruntime", verify=False).runner) as runner:
        # Sums of float16 values in another order; without the remedy 0.9 of a range of 0.2
        np.testing.assert_allclose(runner(PHOTOS[:2]), answers_of_onnx(path), atol=2e-3)


def test_a_doubt_is_logged_at_warning_level(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_runner(pooled_engine(tmp_path / "pooled.onnx")).runner.close()
    assert {record.levelno for record in caplog.records if "is not used" in record.getMessage()} == {logging.WARNING}
