"""calibration.json holds all that a bundle's scales depend on, and leads to its float32 model; nobody trusts it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.bundle.manifest import CALIBRATION, MODEL
from alexnet_deploy.bundle.verified import open_bundle
from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.images.choose import choose_images
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, weights_sha256
from alexnet_deploy.precision.calibration.record import CalibrationImage, CalibrationRecord, read_record
from alexnet_deploy.precision.float_source import find_float_source
from tests.helpers.command import Command
from tests.helpers.json_values import json_values
from tests.helpers.models.bundles import build_bundle
from tests.helpers.models.foreign_models import FOREIGN, foreign_classifier

RECORD = CalibrationRecord(
    precision="int8+fp16",
    method="mse",
    exclude=None,
    seed=3,
    preprocessing=Preprocessing(mean=(0.5, 0.25, 0.125)),
    weights_sha256="ab" * 32,
    files=(CalibrationImage("ant/1.png", "01" * 32), CalibrationImage("bee/é 2.png", "23" * 32)),
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
        odd = dataclasses.replace(RECORD, files=(CalibrationImage("ant/a\\b.png", "01" * 32),))  # a name, not a folder
        assert read_record(saved(tmp_path / "c.json", odd)) == odd

    @pytest.mark.parametrize(
        ("reason", "change"),
        [
            ("schema 1, but this version reads schema 2", lambda raw: raw.update(schema=1)),
            ("Invalid enum value 'int2'", lambda raw: raw.update(precision="int2")),
            ("Invalid enum value 'luck'", lambda raw: raw.update(method="luck")),
            ("matching regex", lambda raw: raw.update(weights_sha256="AB" * 32)),
            ("matching regex", lambda raw: raw["files"][0].update(sha256="01")),
            ("does not lie below", lambda raw: raw["files"][0].update(file="../1.png")),
            ("does not lie below", lambda raw: raw["files"][0].update(file="/etc/passwd")),
            ("does not lie below", lambda raw: raw["files"][0].update(file="a\\..\\b.png")),
            ("does not lie below", lambda raw: raw["files"][0].update(file="")),
            ("digest does not fit", lambda raw: raw["files"].reverse()),
            ("images does not fit", lambda raw: raw.update(images=3)),
            ("Expected 'float' > 0.0", lambda raw: raw["threshold_by_tensor"].update(relu=0)),
            ("different tensors", lambda raw: raw["largest_by_tensor"].pop("relu")),
            ("whole number within", lambda raw: raw["preprocessing"].update(height=0)),
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

    @given(
        field=st.sampled_from(sorted(json.loads(RECORD.to_json()))),
        value=json_values,
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
        with pytest.raises(InputError, match=r"none.json: no such calibration record"):
            read_record(tmp_path / "none.json")


class TestOfABundle:
    @pytest.mark.parametrize(
        ("name", "cause"),
        [
            (b"caf\xe9.jpg", "is not valid Unicode, which the calibration record cannot hold; rename it"),
            (b"C:\\photos\\a.jpg", "on another system its name is a path out of the folder; rename it"),
            (b"a\\..\\b.jpg", "on another system its name is a path out of the folder; rename it"),
        ],
    )
    @pytest.mark.parametrize("precision", ["int8", "int4"])
    def test_a_name_that_it_cannot_hold_is_refused_before_the_work(
        self, name: bytes, cause: str, precision: str, tiny_onnx: Path, tmp_path: Path, photo_folder: Path
    ) -> None:
        """An archive of another system unpacks to such names."""
        root = tmp_path / "photos"
        root.mkdir()
        photo = next((photo_folder / "train").rglob("*.jpg"))
        shutil.copy(photo, root / os.fsdecode(name))
        with pytest.raises(InputError, match=re.escape(cause)):
            build_bundle(tiny_onnx, tmp_path / "bundle", precision, root, calibration_images=1)
        assert not (tmp_path / "bundle").exists()

    def test_it_is_complete_and_brings_the_bundle_back(
        self, tiny_onnx: Path, tmp_path: Path, photo_folder: Path
    ) -> None:
        root = tmp_path / "photos"
        shutil.copytree(photo_folder / "train", root)
        settings = {"calibration_method": "mse", "exclude": "classifier"}
        made = build_bundle(tiny_onnx, tmp_path / "first", "int8", root, calibration_images=5, seed=7, **settings)
        path = tmp_path / "first" / CALIBRATION
        assert str(tmp_path) not in path.read_text()

        record = read_record(path)
        assert (record.precision, record.method, record.exclude, record.seed) == ("int8", "mse", "classifier", 7)
        assert record.preprocessing == made.contract.preprocessing
        assert record.weights_sha256 == weights_sha256(load_onnx(tiny_onnx))
        assert [root / image.file for image in record.files] == list(choose_images(root, count=5, seed=7).files)
        for image in record.files:
            assert image.sha256 == hashlib.sha256((root / image.file).read_bytes()).hexdigest()
        assert len(record.threshold_by_tensor) == 5  # the convolutions alone
        for name, threshold in record.threshold_by_tensor.items():
            assert 0 < threshold <= record.largest_by_tensor[name]
        assert {"alexnet-deploy", "onnx", "onnxruntime", "numpy", "pillow"} <= record.tools.keys()

        again = {"calibration_method": record.method, "exclude": record.exclude}
        build_bundle(tiny_onnx, tmp_path / "second", record.precision, record.calibration_set(root), **again)
        assert (tmp_path / "second" / MODEL).read_bytes() == (tmp_path / "first" / MODEL).read_bytes()
        assert (tmp_path / "second" / CALIBRATION).read_bytes() == path.read_bytes()

        with pytest.raises(InputError, match=rf"^{tmp_path}/first/model.onnx: is already quantised"):
            build_bundle(tmp_path / "first" / MODEL, tmp_path / "third", "int8", root, calibration_images=5)

        (root / record.files[1].file).unlink()
        with pytest.raises(InputError, match=rf"{record.files[1].file}: is in the record, but cannot be read"):
            record.calibration_set(root)
        shutil.copy(root / record.files[0].file, root / record.files[1].file)
        with pytest.raises(InputError, match=rf"{record.files[1].file}: is not the recorded calibration image"):
            record.calibration_set(root)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    """A working folder: ``engines/`` with one model in fp32, fp16 and int8, ``other/`` with another in fp32."""
    folder = tmp_path_factory.mktemp("float_source")
    net, other = foreign_classifier(folder / "net.onnx"), foreign_classifier(folder / "other.onnx", channels_last=True)
    settings = {"targets": (), "import_options": FOREIGN}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alexnet_deploy.build.engine.why_no_plan_here", lambda: "not in this test")
        build_bundle(net, folder / "engines/plain", **settings)
        build_bundle(net, folder / "engines/half", "fp16", **settings)
        build_bundle(other, folder / "other/plain", **settings)
        build_bundle(net, folder / "engines/int4", "int4", **settings)
        build_bundle(net, folder / "engines/weights", "int8-weights", **settings)
        third = foreign_classifier(folder / "third.onnx", head="convolution")
        build_bundle(third, folder / "third/plain", **settings)
        settings |= {"calibration_images": 4, "calibration_method": "max"}
        build_bundle(net, folder / "engines/quantised", "int8", photo_folder / "train", **settings)
    return folder


def test_it_is_found_by_its_weights(folder: Path) -> None:
    quantised = open_bundle(folder / "engines/quantised")
    assert find_float_source(quantised, folder / "engines") == "plain"
    assert find_float_source(quantised, folder / "other") is None  # of other weights
    assert find_float_source(open_bundle(folder / "engines/plain"), folder / "engines") is None  # not quantised


@pytest.mark.parametrize("name", ["int4", "weights"])
def test_without_a_record_it_is_found_by_what_stayed_float16(folder: Path, name: str) -> None:
    assert not (folder / "engines" / name / CALIBRATION).exists()
    assert find_float_source(open_bundle(folder / "engines" / name), folder / "engines") == "plain"
    assert find_float_source(open_bundle(folder / "engines" / name), folder / "third") is None  # of other weights


@pytest.mark.parametrize(
    ("name", "precision", "instead"),
    [
        ("plain", "fp32", "engines/plain/model.onnx"),
        ("engines/plain", "fp32", "engines/plain/model.onnx"),
        ("quantised", "int8", "engines/plain/model.onnx"),
        ("int4", "int4", "engines/plain/model.onnx"),
        ("half", "fp16", "the one that it was built from"),
    ],
)
@pytest.mark.parametrize("given", [("diagnose", "--data"), ("calibration-stability", "--calibration-data")])
def test_a_bundle_for_a_float_onnx_is_answered_with_the_file(
    folder: Path,
    photo_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
    name: str,
    precision: str,
    instead: str,
    given: tuple[str, str],
) -> None:
    monkeypatch.chdir(folder)
    ran = command(given[0], name, given[1], photo_folder / "train")
    expected = f"error: {name}: is an engine bundle ({precision}), but a float32 ONNX is needed: give {instead}\n"
    assert (ran.code, ran.err) == (1, expected)
