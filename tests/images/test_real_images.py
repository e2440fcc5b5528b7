"""The shipped checkpoint on real photos: needs ``ALEXNET_DEPLOY_DATA``, the folder CONTRIBUTING.md describes."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.options import EngineOptions
from alexnet_deploy.bundle.manifest import open_bundle
from alexnet_deploy.evaluation.accuracy import accuracy
from alexnet_deploy.evaluation.answers import answers_of
from alexnet_deploy.images.choose import choose_images
from alexnet_deploy.images.find import find_images
from alexnet_deploy.images.labelled import list_labelled
from alexnet_deploy.images.samples import parity_pixels
from alexnet_deploy.inference.predict import predict
from alexnet_deploy.model.checkpoint import load_checkpoint, shipped_checkpoint
from alexnet_deploy.model.export import export_onnx
from alexnet_deploy.runtime.select import open_runner

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
    checkpoint = load_checkpoint(shipped_checkpoint())
    pixels_NHWC = parity_pixels(DATA / "photos", checkpoint.contract.preprocessing)
    export_onnx(checkpoint, folder / "alexnet.onnx", pixels_NHWC=pixels_NHWC)
    calibration = choose_images(DATA / "imagenette/train", count=128)
    build_engine(folder / "alexnet.onnx", folder / "fp32", EngineOptions("fp32", targets=("sm89",)))
    build_engine(
        folder / "alexnet.onnx", folder / "int8", EngineOptions("int8", targets=("sm89",), calibration=calibration)
    )
    return folder


def top1(bundle: Path) -> float:
    with closing(open_runner(open_bundle(bundle)).runner) as runner:
        data = list_labelled(DATA / "imagenette/val", runner.contract)
        return accuracy(answers_of([runner], data), 0, runner.contract).top1_percent


def test_the_engine_reaches_what_the_checkpoint_says(store: Path) -> None:
    """The recorded accuracy is torch's on the same files: at most a tie or two may fall to the other side."""
    recorded = load_checkpoint(shipped_checkpoint()).recipe["evaluation"]["top1_percent"]
    assert abs(top1(store / "fp32") - recorded) <= 0.1


def test_int8_costs_less_than_a_point(store: Path) -> None:
    """The goal is 0.3; on 2,925 images the difference itself is known to about 0.5."""
    assert top1(store / "fp32") - top1(store / "int8") <= 1.0


def test_every_photo_gets_an_answer(store: Path) -> None:
    with closing(open_runner(open_bundle(store / "int8")).runner) as runner:
        predictions = list(predict(runner, find_images([DATA / "photos"])))
    assert len(predictions) == 300
    assert [p.error for p in predictions if p.error] == []
    assert all(len(p.top) == 5 and 0 < p.top[0].probability <= 1 for p in predictions)
