"""Logits that are not finite: the image has no answer, the others have theirs, and the counters say so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from alexnet_deploy.serving.engines.models import Models
from alexnet_deploy.serving.engines.sources import ModelSource
from alexnet_deploy.serving.metrics import Metrics
from alexnet_deploy.serving.protocol.tensors import RequestedOutput, make_outputs
from alexnet_deploy.serving.refusals import EngineError
from alexnet_deploy.serving.settings import Settings
from tests.helpers.models.onnx_models import CLASSES, SIDE, Graph, with_contract

REASON = "image 1: the model's output is not finite; try an engine of higher precision"


@pytest.fixture
def source(tmp_path: Path) -> ModelSource:
    """An engine whose logits are those of the darkest value of an image, and infinite where that is 0."""
    g = Graph()
    darkest = g.node("ReduceMin", g.node("Cast", "pixels", to=TensorProto.FLOAT), g.constant(np.array([1, 2, 3])))
    flat = g.node("Flatten", g.node("Log", darkest))
    path = g.save(
        g.node("Gemm", flat, g.weight(1, CLASSES)), tmp_path / "net.onnx", ["N", SIDE, SIDE, 3], TensorProto.UINT8
    )
    return ModelSource("net", with_contract(path), "onnxruntime")


def test_an_image_without_an_answer_counts_as_failed(source: ModelSource) -> None:
    metrics = Metrics()

    async def body() -> None:
        models = Models([source], Settings(), metrics)
        await models.load()
        engine = models.get()
        pixels_NHWC = np.full((3, SIDE, SIDE, 3), 90, np.uint8)
        pixels_NHWC[1] = 0
        result = await engine.classify_pixels(pixels_NHWC)
        wanted = [RequestedOutput("logits"), RequestedOutput("probabilities"), RequestedOutput("error")]
        with engine.counted(result):
            logits, probabilities, error = make_outputs(engine, result, wanted)
        for each in (logits, probabilities):
            assert np.isfinite(each.content).all(axis=1).tolist() == [True, False, True]
            assert np.isnan(each.content[1]).all()
        assert error.content == [b"", REASON.encode(), b""]
        assert counted("answered", "failed") == [2, 1]
        with pytest.raises(EngineError, match=REASON), engine.counted(result):
            make_outputs(engine, result, wanted[:1])
        assert counted("answered", "failed") == [2, 1 + 3]  # refused as a whole
        await models.close()

    def counted(*outcomes: str) -> list[float]:
        lines = metrics.text().decode().splitlines()
        starts = [f'alexnet_deploy_images_total{{model="net",outcome="{outcome}"}} ' for outcome in outcomes]
        return [float(line.removeprefix(start)) for start in starts for line in lines if line.startswith(start)]

    asyncio.run(body())
