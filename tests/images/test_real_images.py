"""The shipped checkpoint on real photos: needs ``ALEXNET_DEPLOY_DATA``, the folder CONTRIBUTING.md describes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alexnet_deploy.evaluation.evaluate import Evaluation, evaluate
from alexnet_deploy.images.choose import choose_images
from alexnet_deploy.inference.engine import open_engine
from alexnet_deploy.model.checkpoint import load_checkpoint, shipped_checkpoint
from alexnet_deploy.model.export import export
from tests.helpers.models.bundles import build_bundle

DATA = Path(os.environ.get("ALEXNET_DEPLOY_DATA", ""))

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not (DATA / "imagenette/val").is_dir(), reason="ALEXNET_DEPLOY_DATA names no folder with imagenette/val"
    ),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FP32 and INT8 bundles of the shipped checkpoint, calibrated on training images."""
    folder = tmp_path_factory.mktemp("store")
    onnx = export(output=folder / "alexnet.onnx", parity_images=DATA / "photos")
    build_bundle(onnx, folder / "fp32")
    build_bundle(onnx, folder / "int8", "int8", choose_images(DATA / "imagenette/train", count=128))
    return folder


@pytest.fixture(scope="module")
def evaluation(store: Path) -> Evaluation:
    """Both engines on the same pixels: decoding and running 2,925 images takes long enough once."""
    return evaluate([store / "fp32", store / "int8"], DATA / "imagenette/val", latency_s=None)


def test_fp32_reaches_the_accuracy_in_the_checkpoint(evaluation: Evaluation) -> None:
    """The recorded accuracy is torch's on the same files: at most a tie or two may fall to the other side."""
    recorded = load_checkpoint(shipped_checkpoint()).recipe["evaluation"]["top1_percent"]
    assert abs(evaluation.engines[0].accuracy.top1_percent - recorded) <= 0.1


def test_int8_costs_less_than_a_point(evaluation: Evaluation) -> None:
    """The goal is 0.3; on 2,925 images the difference itself is known to about 0.5."""
    fp32, int8 = (engine.accuracy.top1_percent for engine in evaluation.engines)
    assert fp32 - int8 <= 1.0


def test_every_photo_gets_an_answer(store: Path) -> None:
    with open_engine(store / "int8") as engine:
        predictions = list(engine.predict(DATA / "photos"))
    assert len(predictions) == 300
    assert [p.error for p in predictions if p.error] == []
    assert all(len(p.top) == 5 and 0 < p.top[0].probability <= 1 for p in predictions)
