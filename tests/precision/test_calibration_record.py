"""calibration.json says all that a bundle's scales depend on, is trusted by nobody, and brings the bundle back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.options import EngineOptions
from alexnet_deploy.bundle.manifest import CALIBRATION, MODEL
from alexnet_deploy.contract import BatchProfile, Preprocessing
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.images.choose import choose_images
from alexnet_deploy.images.samples import parity_pixels
from alexnet_deploy.model.checkpoint import Checkpoint
from alexnet_deploy.model.export import export_onnx
from alexnet_deploy.onnx_graph.onnx_file import load_onnx
from alexnet_deploy.precision import calibration_record
from alexnet_deploy.precision.calibration_record import CalibrationRecord, read_record
from alexnet_deploy.precision.convert import weights_sha256

RECORD = CalibrationRecord(
    precision="int8+fp16",
    method="mse",
    exclude=None,
    seed=3,
    preprocessing=Preprocessing(mean=(0.5, 0.25, 0.125)),
    weights_sha256="ab" * 32,
    files=(("ant/1.png", "01" * 32), ("bee/é 2.png", "23" * 32)),
    largest_by_tensor={"pixels/nchw": 2.5, "relu": 1 / 3},
    threshold_by_tensor={"pixels/nchw": 2.25, "relu": 0.1},
    tools={"alexnet-deploy": "1.0"},
)


def saved(path: Path, record: CalibrationRecord = RECORD) -> Path:
    path.write_text(record.to_json(), encoding="utf-8")
    return path


class TestReader:
    def test_it_reads_what_was_written(self, tmp_path: Path) -> None:
        assert read_record(saved(tmp_path / "a.json")) == RECORD
        assert RECORD.image_hashes == {"01" * 32, "23" * 32}
        without = dataclasses.replace(RECORD, files=(), exclude="classifier")
        assert read_record(saved(tmp_path / "b.json", without)) == without

    @pytest.mark.parametrize(
        ("reason", "change"),
        [
            ("schema 1, this version reads 2", lambda raw: raw.update(schema=1)),
            ("schema None", lambda raw: raw.update(schema=None)),
            ("seed", lambda raw: raw.pop("seed")),
            ("unexpected keyword", lambda raw: raw.update(more=1)),
            ("'int4' by 'mse' is unknown", lambda raw: raw.update(precision="int4")),
            ("by 'luck' is unknown", lambda raw: raw.update(method="luck")),
            ("seed or exclude", lambda raw: raw.update(seed=True)),
            ("seed or exclude", lambda raw: raw.update(exclude=7)),
            ("is no SHA-256", lambda raw: raw.update(weights_sha256="AB" * 32)),
            ("is no SHA-256", lambda raw: raw["files"][0].update(sha256="01")),
            ("does not lie below", lambda raw: raw["files"][0].update(file="../1.png")),
            ("does not lie below", lambda raw: raw["files"][0].update(file="/etc/passwd")),
            ("does not lie below", lambda raw: raw["files"][0].update(file="a\\..\\b.png")),
            ("does not lie below", lambda raw: raw["files"][0].update(file="")),
            ("not the one that its digest is of", lambda raw: raw["files"].reverse()),
            ("not the one that its digest is of", lambda raw: raw.update(images=3)),
            ("no magnitude", lambda raw: raw["threshold_by_tensor"].update(relu=0)),
            ("no magnitude", lambda raw: raw["threshold_by_tensor"].update(relu=float("nan"))),
            ("no magnitude", lambda raw: raw["threshold_by_tensor"].update(relu="1")),
            ("no magnitude", lambda raw: raw["largest_by_tensor"].update(relu=True)),
            ("other tensors", lambda raw: raw["largest_by_tensor"].pop("relu")),
            ("whole number within", lambda raw: raw["preprocessing"].update(height=0)),
            ("not a valid", lambda raw: raw.update(tools={"onnx": 1})),
            ("not a valid", lambda raw: raw.update(files=7)),
            ("not a valid", lambda raw: raw.update(largest_by_tensor=[1])),
        ],
    )
    def test_what_is_not_valid(self, reason: str, change: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
        raw = json.loads(RECORD.to_json())
        change(raw)
        path = tmp_path / "calibration.json"
        path.write_text(json.dumps(raw))
        with pytest.raises(ArtifactError, match=rf"calibration.json: .*{reason}.*; build the bundle again") as caught:
            read_record(path)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("text", [b"", b"{", b"[]", b"7", b"\xff\xfe", b"[" * 100_000])
    def test_what_is_no_record(self, text: bytes, tmp_path: Path) -> None:
        path = tmp_path / "calibration.json"
        path.write_bytes(text)
        with pytest.raises(ArtifactError, match="is not a calibration record"):
            read_record(path)

    @given(
        field=st.sampled_from(sorted(json.loads(RECORD.to_json()))),
        value=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
            max_leaves=5,
        ),
    )
    def test_any_field_may_hold_anything(
        self, field: str, value: object, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        path = tmp_path_factory.mktemp("any") / "calibration.json"
        path.write_text(json.dumps(json.loads(RECORD.to_json()) | {field: value}))
        try:
            record = read_record(path)
        except ArtifactError:
            return
        assert read_record(saved(path, record)) == record

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"none.json: no calibration record can be read there"):
            read_record(tmp_path / "none.json")

    def test_a_large_one_is_not_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = saved(tmp_path / "calibration.json")
        monkeypatch.setattr(calibration_record, "MAX_RECORD_BYTES", path.stat().st_size)
        read_record(path)
        monkeypatch.setattr(calibration_record, "MAX_RECORD_BYTES", path.stat().st_size - 1)
        with pytest.raises(ArtifactError, match="too large for a calibration record"):
            read_record(path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint) -> Path:
    path = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    export_onnx(tiny_checkpoint, path, pixels_NHWC=parity_pixels(None, tiny_checkpoint.contract.preprocessing))
    return path


class TestOfABundle:
    def test_it_is_complete_and_brings_the_bundle_back(
        self, exported: Path, tmp_path: Path, photo_folder: Path
    ) -> None:
        root = tmp_path / "photos"
        shutil.copytree(photo_folder / "train", root)
        chosen = choose_images(root, count=5, seed=7)
        options = EngineOptions(
            "int8", BatchProfile(1, 1, 1), ("sm89",), calibration=chosen, method="mse", exclude="classifier"
        )
        made = build_engine(exported, tmp_path / "first", options)
        path = tmp_path / "first" / CALIBRATION
        assert str(tmp_path) not in path.read_text()

        record = read_record(path)
        assert (record.precision, record.method, record.exclude, record.seed) == ("int8", "mse", "classifier", 7)
        assert record.preprocessing == made.contract.preprocessing
        assert record.weights_sha256 == weights_sha256(load_onnx(exported))
        assert [root / name for name, _ in record.files] == list(chosen.files)
        for name, sha256 in record.files:
            assert sha256 == hashlib.sha256((root / name).read_bytes()).hexdigest()
        assert len(record.threshold_by_tensor) == 5  # the convolutions alone
        for name, threshold in record.threshold_by_tensor.items():
            assert 0 < threshold <= record.largest_by_tensor[name]
        assert {"alexnet-deploy", "onnx", "onnxruntime", "numpy", "pillow"} <= record.tools.keys()

        again = EngineOptions(
            record.precision,
            BatchProfile(1, 1, 1),
            ("sm89",),
            calibration=record.calibration_set(root),
            method=record.method,
            exclude=record.exclude,
        )
        build_engine(exported, tmp_path / "second", again)
        assert (tmp_path / "second" / MODEL).read_bytes() == (tmp_path / "first" / MODEL).read_bytes()
        assert (tmp_path / "second" / CALIBRATION).read_bytes() == path.read_bytes()

        with pytest.raises(InputError, match=rf"^{tmp_path}/first/model.onnx: is quantised already"):
            build_engine(tmp_path / "first" / MODEL, tmp_path / "third", options)

        (root / record.files[1][0]).unlink()
        with pytest.raises(InputError, match=rf"{record.files[1][0]}: is in the record and cannot be read"):
            record.calibration_set(root)
        shutil.copy(root / record.files[0][0], root / record.files[1][0])
        with pytest.raises(InputError, match=rf"{record.files[1][0]}: is not the image that calibrated"):
            record.calibration_set(root)
