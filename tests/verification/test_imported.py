"""A foreign model answers in our form as in its own, or is refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.adoption.image_input import ImageInput
from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.contract import Channels, Preprocessing
from alexnet_deploy.errors import InputError, ProofError
from alexnet_deploy.inference.engine import open_engine
from alexnet_deploy.verification.imported import adopt_verified
from alexnet_deploy.verification.original import original_input
from alexnet_deploy.verification.photos import photo_pixels
from tests.helpers.models.foreign_models import CLASSES, FOREIGN, W, foreign_classifier, graph_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone."""
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("batch", ["N", 1, 5])
@pytest.mark.parametrize("softmax", [False, True])
def test_a_sound_model_is_compared_and_accepted(batch: int | str, softmax: bool, tmp_path: Path) -> None:
    source = foreign_classifier(tmp_path / "net.onnx", batch=batch, softmax=softmax)
    contract, notes = adopt_verified(source, tmp_path / "ours.onnx", FOREIGN)
    assert (len(contract.labels), notes) == (CLASSES, ())


NORM = {
    "g": np.full(3, 1.3, np.float32),
    "b": np.full(3, 0.2, np.float32),
    "m": np.zeros(3, np.float32),
    "v": np.ones(3, np.float32),
}
MIXES = {
    "batch norm in training mode": (
        "n, rm, rv = BatchNormalization <training_mode = 1> (x, g, b, m, v); flat = Flatten (n); "
        "y = Gemm <transB = 1> (flat, w)",
        NORM,
        "BatchNormalization in training mode",
    ),
    "mean over the batch": (
        "m0 = ReduceMean <keepdims = 1> (x, axis); n = Sub (x, m0); flat = Flatten (n); "
        "y = Gemm <transB = 1> (flat, w)",
        {"axis": np.array([0])},
        "depends on the other images",
    ),
}


@pytest.mark.parametrize("kind", MIXES)
def test_answers_that_depend_on_the_batch_are_refused(kind: str, tmp_path: Path) -> None:
    body, weights, reason = MIXES[kind]
    source = graph_of(tmp_path / "net.onnx", body, W | weights)
    with pytest.raises(ProofError, match=r"net.onnx: its answer for an image depends on the other images .*"):
        adopt_verified(source, tmp_path / "ours.onnx", FOREIGN)
    with pytest.raises(ProofError, match=reason):
        open_engine(source, import_options=FOREIGN)
    with open_engine(source, import_options=FOREIGN, verify=False) as opened:
        assert len(opened.contract.labels) == 5, "as the user insists"


def test_dynamic_quantisation_runs_one_image_at_a_time(tmp_path: Path) -> None:
    source = graph_of(
        tmp_path / "net.onnx",
        "q, s, z = DynamicQuantizeLinear (x); d = DequantizeLinear (q, s, z); flat = Flatten (d); "
        "y = Gemm <transB = 1> (flat, w)",
    )
    with open_engine(source, import_options=FOREIGN) as opened:
        photos_NHWC = photo_pixels(opened.contract.preprocessing)[:4]
        together_NK = opened(photos_NHWC)
        alone_NK = np.concatenate([opened(photo[None]) for photo in photos_NHWC])
    np.testing.assert_array_equal(together_NK, alone_NK)
    notes = adopt_verified(source, tmp_path / "ours.onnx", FOREIGN)[1]
    assert any("runs one image at a time: node q (DynamicQuantizeLinear)" in note for note in notes)


def test_scores_that_do_not_depend_on_the_image_are_refused(tmp_path: Path) -> None:
    source = graph_of(tmp_path / "net.onnx", "a = Flatten (x); y = Identity (v)", {"v": np.zeros((1, 5), np.float32)})
    with pytest.raises(InputError, match="do not depend on the image"):
        adopt_verified(source, tmp_path / "ours.onnx", FOREIGN)


@pytest.mark.parametrize("op", ["RandomNormalLike", "Dropout"])
def test_answers_that_change_from_call_to_call_are_refused(op: str, tmp_path: Path) -> None:
    bodies: dict[str, tuple[str, dict[str, NDArray[Any]]]] = {
        "RandomNormalLike": (
            "r = RandomNormalLike (x); n = Add (x, r); flat = Flatten (n); y = Gemm <transB = 1> (flat, w)",
            {},
        ),
        "Dropout": (
            "n, k = Dropout (x, ratio, on); flat = Flatten (n); y = Gemm <transB = 1> (flat, w)",
            {"ratio": np.array(0.5, np.float32), "on": np.array(True)},
        ),
    }
    body, weights = bodies[op]
    source = graph_of(tmp_path / "net.onnx", body, W | weights)
    # The import may have left out the chance, and then differs from the original.
    with pytest.raises(ProofError, match=r"its answers change from call to call|does not answer as the original"):
        adopt_verified(source, tmp_path / "ours.onnx", FOREIGN)


def test_a_model_of_ours_that_gives_other_outputs_than_it_declares_is_refused(tmp_path: Path) -> None:
    source = foreign_classifier(tmp_path / "net.onnx")
    ours = tmp_path / "ours.onnx"
    adopt_verified(source, ours, FOREIGN)
    model = onnx.load(ours)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = CLASSES + 1
    for entry in model.metadata_props:
        raw = json.loads(entry.value)
        for name in ("labels", "class_ids"):
            raw[name].append("one more")
        entry.value = json.dumps(raw)
    del model.graph.value_info[:]
    onnx.save(model, ours)
    with pytest.raises((ProofError, InputError), match=r"is not a valid ONNX model|its contract"):
        adopt_verified(ours, tmp_path / "again.onnx")


def test_the_verdict_is_remembered_by_content_and_options(tmp_path: Path, cache: Path) -> None:
    source = foreign_classifier(tmp_path / "net.onnx")
    adopt_verified(source, tmp_path / "ours.onnx", FOREIGN)
    (verdict,) = (cache / "verdicts").iterdir()
    verdict.write_text(json.dumps(json.loads(verdict.read_text()) | {"reason": "remembered"}))
    with pytest.raises(ProofError, match="remembered"):
        adopt_verified(source, tmp_path / "ours.onnx", FOREIGN)
    adopt_verified(source, tmp_path / "ours.onnx", ImportOptions((0.5,) * 3, (0.5,) * 3))
    adopt_verified(foreign_classifier(tmp_path / "net.onnx", softmax=True), tmp_path / "ours.onnx", FOREIGN)


def test_photos_of_the_user(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "red.png")
    pre = Preprocessing(8, 8, "stretch", None)
    pixels_NHWC = photo_pixels(pre, tmp_path)
    assert pixels_NHWC.shape == (2, 8, 8, 3), "a batch needs two images"
    assert (pixels_NHWC == (200, 30, 30)).all()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        adopt_verified(foreign_classifier(tmp_path / "n.onnx"), tmp_path / "o.onnx", FOREIGN, images=tmp_path / "empty")


FLOAT, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        # (value / 255 - mean) / std of red 255, green 51, blue 0 with mean 0.2, 0.4, 0.6 and std 0.5, 0.25, 1
        ("rgb", [1.6, -0.8, -0.6]),
        ("bgr", [-0.6, -0.8, 1.6]),
        # luma: (19595 * 255 + 38470 * 51 + 32768) >> 16 = 106
        ("grey", [(106 / 255 - 0.2) / 0.5]),
        ("rgba", [1.6, -0.8, -0.6, 1.6]),
    ],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_input_of_the_original_by_hand(channels: Channels, expected: list[float], channels_last: bool) -> None:
    pre = Preprocessing(2, 3, "stretch", None, mean=(0.2, 0.4, 0.6), std=(0.5, 0.25, 1.0), channels=channels)
    image = ImageInput("x", FLOAT, True, channels_last, len(expected), 2, 3)
    pixels_NHWC = np.broadcast_to(np.array([255, 51, 0], np.uint8), (1, 2, 3, 3))
    values = original_input(image, pre, pixels_NHWC)
    assert values.dtype == np.float32
    assert values.shape == ((1, 2, 3, len(expected)) if channels_last else (1, len(expected), 2, 3))
    np.testing.assert_allclose(values[0, 0, 0] if channels_last else values[0, :, 0, 0], expected, rtol=1e-6)
    grey = Image.new("RGB", (1, 1), (255, 51, 0)).convert("L").getpixel((0, 0))
    assert grey == 106, "Pillow's own luma"


def test_the_input_of_a_model_that_takes_raw_pixels() -> None:
    pre = Preprocessing(2, 2, "stretch", None, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    pixels_NHWC = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    values = original_input(ImageInput("x", UINT8, True, True, 3, 2, 2), pre, pixels_NHWC)
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values, pixels_NHWC)
