"""What exporters leave in a file or beside it is used, said, overridden by options, and never trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from alexnet_deploy.adoption.adopt import adopt, adopt_with_notes
from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.adoption.recorded import numbered_names
from alexnet_deploy.errors import InputError, UsageError
from tests.helpers.models.graphs import graph_model

NAMES = {0: "cat", 1: "a 'dog'", 2: "ant", 3: "é", 4: "fly"}
VIT: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 8, "width": 8},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
CROPPED = VIT | {"size": {"shortest_edge": 10}, "do_center_crop": True, "crop_size": {"height": 8, "width": 8}}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A classifier of 8 x 8 pixels with five classes."""
    weights = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    body = "p = GlobalAveragePool (x); flat = Flatten (p); y = Gemm <transB = 1> (flat, w)"
    onnx.save(graph_model("(float[N,3,8,8] x) => (float[N,5] y)", body, w=weights), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def with_metadata(source: Path, **props: str) -> Path:
    model = onnx.load(source)
    onnx.helper.set_model_props(model, props)
    onnx.save(model, source)
    return source


class TestUltralytics:
    def test_rules_and_names(self, source: Path, tmp_path: Path) -> None:
        with_metadata(source, task="classify", imgsz="[8, 8]", names=repr(NAMES), stride="1")
        contract, notes = adopt_with_notes(source, tmp_path / "out.onnx")
        pre = contract.preprocessing
        assert (pre.resize, pre.resize_to, pre.interpolation, pre.mean, pre.std) == (
            "shorter-side", 8, "bilinear", (0.0,) * 3, (1.0,) * 3,
        )  # fmt: skip
        assert contract.labels == tuple(NAMES.values())
        assert any("from the file's metadata (ultralytics): shorter side to 8" in note for note in notes)
        assert "labels from the file's metadata" in notes

    def test_options_override_them(self, source: Path, tmp_path: Path) -> None:
        with_metadata(source, task="classify", imgsz="[8, 8]", names=repr(NAMES))
        (tmp_path / "l.txt").write_text("a\nb\nc\nd\ne\n")
        options = ImportOptions((0.5,), labels=tmp_path / "l.txt", resize="stretch")
        contract, notes = adopt_with_notes(source, tmp_path / "out.onnx", options)
        pre = contract.preprocessing
        assert (pre.resize, pre.resize_to, pre.mean, pre.std) == ("stretch", None, (0.5,) * 3, (1.0,) * 3)
        assert contract.labels == tuple("abcde")
        assert len(notes) == 1
        assert notes[0].startswith("std, crop, interpolation from the file's metadata")

    def test_another_task(self, source: Path, tmp_path: Path) -> None:
        with_metadata(source, task="detect\x1b[2J", imgsz="[8, 8]")
        with pytest.raises(InputError, match=r"is an ultralytics model for the task .*, not a classifier"):
            adopt(source, tmp_path / "out.onnx")

    @pytest.mark.parametrize("names", ["{0: 'a', 1: 'b'}", "{0: 'a', 2: 'b'}", "__import__('os')", "{" * 10**6, ""])
    def test_names_that_do_not_fit_are_left(self, names: str, source: Path, tmp_path: Path) -> None:
        with_metadata(source, task="classify", imgsz="[8, 8]", names=names)
        assert adopt(source, tmp_path / "out.onnx").labels == ("0", "1", "2", "3", "4")

    @pytest.mark.parametrize("names", [tuple(NAMES.values()), ("it's", 'say "so"', "back\\slash", "tab\t")])
    def test_names_as_python_writes_them(self, names: tuple[str, ...]) -> None:
        assert numbered_names(repr(dict(enumerate(names)))) == names


class TestHuggingFace:
    @pytest.mark.parametrize(
        ("raw", "expected"),
        [
            (VIT, ("stretch", None, "bilinear", 0.5, 0.5, "rgb")),
            (VIT | {"size": 8, "resample": 3}, ("stretch", None, "bicubic", 0.5, 0.5, "rgb")),
            (CROPPED, ("shorter-side", 10, "bilinear", 0.5, 0.5, "rgb")),
            (CROPPED | {"size": {"height": 10, "width": 10}}, ("stretch", 10, "bilinear", 0.5, 0.5, "rgb")),
            (VIT | {"do_normalize": False}, ("stretch", None, "bilinear", 0.0, 1.0, "rgb")),
            # (x / 127.5 - 0.5) / 0.5 = (x / 255 - 0.25) / 0.25
            (VIT | {"rescale_factor": 1 / 127.5}, ("stretch", None, "bilinear", 0.25, 0.25, "rgb")),
            (VIT | {"do_rescale": False, "do_normalize": False}, ("stretch", None, "bilinear", 0.0, 1 / 255, "rgb")),
            (
                CROPPED | {"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True}
                | {"do_normalize": None},
                ("shorter-side", 10, "bilinear", 0.0, 1.0, "bgr"),
            ),
            # int(8 / 0.875) = 9
            (
                VIT | {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 8}},
                ("shorter-side", 9, "bilinear", 0.5, 0.5, "rgb"),
            ),
            (
                VIT | {"image_processor_type": "EfficientNetImageProcessor", "include_top": True},
                ("stretch", None, "bilinear", 0.5, 0.25, "rgb"),
            ),
        ],
    )  # fmt: skip
    def test_processors(self, raw: dict[str, Any], expected: tuple[Any, ...], source: Path, tmp_path: Path) -> None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(raw))
        pre = adopt(source, tmp_path / "out.onnx").preprocessing
        assert (pre.resize, pre.resize_to, pre.interpolation) == expected[:3]
        np.testing.assert_allclose([pre.mean[0], pre.std[0]], expected[3:5], rtol=1e-12)  # float64
        assert pre.channels == expected[5]

    def test_it_may_lie_above_a_folder_onnx_with_the_labels(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(VIT))
        id2label = {str(k): name for k, name in NAMES.items()}
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "id2label": id2label}))
        (tmp_path / "onnx").mkdir()
        inside = source.rename(tmp_path / "onnx" / "model.onnx")
        contract, notes = adopt_with_notes(inside, tmp_path / "out.onnx")
        assert contract.labels == tuple(NAMES.values())
        assert f"labels from {tmp_path / 'config.json'}" in notes

    @pytest.mark.parametrize(
        ("raw", "cause"),
        [
            (VIT | {"image_processor_type": "DonutImageProcessor"}, "'DonutImageProcessor' is not known here"),
            (VIT | {"do_pad": True}, "do_pad cannot be stated"),
            (VIT | {"resample": 9}, "preprocessor_config.json"),
            ({k: v for k, v in VIT.items() if k != "size"}, "'size'"),
            (VIT | {"do_resize": False}, "do_resize is false"),
            (VIT | {"image_mean": ["0.5", 0.5, 0.5]}, "is not a list of numbers"),
            (VIT | {"image_mean": [1e400, 0.5, 0.5]}, "preprocessor_config.json"),
            (VIT | {"image_std": [0.5]*4}, "must be one finite number, or three"),
            (VIT | {"size": {"height": -8, "width": 8}}, "-8 is not a size"),
            (VIT | {"size": {"shortest_edge": 8}}, "it has no centre crop"),
            ([1], "preprocessor_config.json"),
            ("[" * 100_000, "preprocessor_config.json"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_used_is_named_where_it_is_needed(
        self, raw: Any, cause: str, source: Path, tmp_path: Path
    ) -> None:
        text = raw if isinstance(raw, str) else json.dumps(raw)
        (tmp_path / "preprocessor_config.json").write_text(text)
        with pytest.raises(UsageError, match=f"does not record how its pixels are normalised.*{cause}"):
            adopt(source, tmp_path / "out.onnx")
        adopt(source, tmp_path / "out.onnx", ImportOptions(preprocessing="timm"))

    def test_a_size_of_another_model(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(VIT | {"size": 224}))
        with pytest.raises(UsageError, match="224x224 does not fit the input of 8 x 8"):
            adopt(source, tmp_path / "out.onnx")

    def test_labels_of_another_model_are_left_and_said(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "a", "1": "b"}}))
        contract, notes = adopt_with_notes(source, tmp_path / "out.onnx", ImportOptions((0.5,), (0.5,)))
        assert contract.labels == ("0", "1", "2", "3", "4")
        assert any("holds 2 labels, the model has 5 classes" in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("shorter-side", 9, "bicubic")),  # floor(8 / 0.875)
        ({"crop_mode": "squash", "crop_pct": 1.0, "interpolation": "bilinear"}, ("stretch", None, "bilinear")),
    ],
)
def test_timm_on_the_hub(changes: dict[str, Any], expected: tuple[Any, ...], source: Path, tmp_path: Path) -> None:
    cfg = {"input_size": [3, 8, 8], "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center",
           "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]} | changes  # fmt: skip
    raw = {"architecture": "vit_tiny", "pretrained_cfg": cfg, "label_names": list(NAMES.values())}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    contract = adopt(source, tmp_path / "out.onnx")
    pre = contract.preprocessing
    assert (pre.resize, pre.resize_to, pre.interpolation) == expected
    assert pre.std == (0.25,) * 3
    assert contract.labels == tuple(NAMES.values())


def test_labels_in_the_metadata_of_rapidocr(source: Path, tmp_path: Path) -> None:
    with_metadata(source, character="0\n90\n180\n270\n360")
    assert adopt(source, tmp_path / "out.onnx", ImportOptions((0.5,), (0.5,))).labels == (
        "0",
        "90",
        "180",
        "270",
        "360",
    )
