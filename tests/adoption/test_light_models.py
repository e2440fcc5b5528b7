"""The nine networks of onnx's own test data through int8: groups, LRN, residual adds, concats, shuffled channels.

Their files hold one number per weight; random weights stand in, so that activations are like those of a real network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from alexnet_deploy.adoption.adopt import adopt
from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.bundle.manifest import MODEL
from alexnet_deploy.bundle.verified import open_bundle
from alexnet_deploy.contract import IMAGENET_MEAN, IMAGENET_STD
from alexnet_deploy.images.choose import choose_images
from alexnet_deploy.images.samples import sample_photos
from alexnet_deploy.onnx_graph.taps import TensorSession
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.models.bundles import build_bundle
from tests.helpers.models.foreign_models import LIGHT, with_random_weights
from tests.helpers.models.graphs import graph_model, run_graph

IMAGENET = ImportOptions(IMAGENET_MEAN, IMAGENET_STD)
LAYERS = {
    "squeezenet": 26,
    "shufflenet": 50,
    "bvlc_alexnet": 8,
    "densenet121": 121,
    "inception_v1": 58,
    "inception_v2": 70,
    "resnet50": 54,
    "vgg19": 19,
    "zfnet512": 8,
}
"""Convolutions and dense layers of each network."""
QUICK = "shufflenet"
"""Groups, residual adds, concats and channel shuffles in five seconds."""


class LRN(OpRun):
    """Local response normalisation as ONNX defines it; onnx's own evaluator (1.23.2) stops at channel number N."""

    op_domain = ""

    def _run(self, x: NDArray[Any], alpha: float, beta: float, bias: float, size: int) -> tuple[NDArray[Any]]:
        before, after = (size - 1) // 2, size // 2
        squares = np.stack(
            [np.sum(x[:, max(0, c - before) : c + after + 1] ** 2, axis=1) for c in range(x.shape[1])], 1
        )
        return ((x / (bias + alpha / size * squares) ** beta).astype(x.dtype),)


def by_reference(path: Path, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    (logits_NK,) = ReferenceEvaluator(onnx.load(path), new_ops=[LRN]).run(None, {"pixels": pixels_NHWC})
    return np.asarray(logits_NK)


def by_onnxruntime(path: Path) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Without the optimisations that fuse Q/DQ."""
    session = TensorSession(onnx.load(path), ["logits"], source=path.name)
    return lambda pixels_NHWC: session(pixels_NHWC)["logits"]


def test_the_stand_in_for_lrn_is_what_onnxruntime_computes() -> None:
    x = np.random.default_rng(0).normal(size=(2, 7, 3, 3)).astype(np.float32)
    for size in (3, 5):
        model = graph_model("(float[2,7,3,3] x) => (float[2,7,3,3] y)", f"y = LRN <size = {size}, alpha = 1.0> (x)")
        (mine,) = ReferenceEvaluator(model, new_ops=[LRN]).run(None, {"x": x})
        np.testing.assert_allclose(np.asarray(mine), run_graph(model, x=x)[0], rtol=1e-5)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == QUICK else [pytest.mark.slow]) for name in LAYERS]
)
def test_int8_is_proved_and_answers_alike_everywhere(name: str, tmp_path: Path) -> None:
    source = with_random_weights(LIGHT / f"light_{name}.onnx", tmp_path / "random.onnx")
    calibration = choose_images(sample_photos()[0].parent, count=12)
    # A layer that falls back fails the build.
    made = build_bundle(
        source, tmp_path / "bundle", "int8", calibration, calibration_method="max", import_options=IMAGENET
    )
    achieved = made.achieved["sm89.plan"]
    assert len(achieved) == LAYERS[name]
    assert {(layer.asked, layer.got) for layer in achieved} == {("int8", "int8")}

    typed = tmp_path / "bundle" / MODEL
    onnx.checker.check_model(onnx.load(typed), full_check=True)
    adopted = tmp_path / "adopted.onnx"
    adopt(source, adopted, IMAGENET)
    exact = by_onnxruntime(adopted)
    photos_NHWC = np.concatenate(list(calibration.batches(made.contract.preprocessing, 1)))
    exact_NK = np.concatenate([exact(photo_NHWC[None]) for photo_NHWC in photos_NHWC])
    # Of a thousand random classes two are often nearly the same: the answer whose lead over the second is the largest
    # share of its largest logit must not change.
    second_N, first_N = np.sort(exact_NK, axis=1)[:, -2:].T
    clearest = int(np.argmax((first_N - second_N) / np.abs(exact_NK).max(axis=1)))
    photo_NHWC, exact_NK = photos_NHWC[clearest, None], exact_NK[clearest, None]

    reference_NK = by_reference(typed, photo_NHWC)
    largest = np.abs(reference_NK).max()
    cost = np.abs(reference_NK - exact_NK).max() / largest
    assert 0 < cost < 0.25
    opened = open_runner(open_bundle(tmp_path / "bundle"), "openvino").runner
    answers = {"ONNX Runtime": by_onnxruntime(typed)(photo_NHWC), "OpenVINO": opened(photo_NHWC)}
    opened.close()
    for runtime, logits_NK in answers.items():
        # A float sum in another order tips a rounding to the next int8 number, and every layer after it sees that.
        difference = np.abs(logits_NK - reference_NK).max() / largest
        assert difference < 0.15, runtime
        assert logits_NK.argmax() == reference_NK.argmax() == exact_NK.argmax(), runtime
