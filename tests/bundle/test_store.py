"""Which engine a command means."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_deploy.build import engine as assemble
from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.options import EngineOptions
from alexnet_deploy.bundle.manifest import MODEL, Manifest, open_bundle, save_manifest, write_bundle
from alexnet_deploy.bundle.store import bundle_names, find_bundle, float_twin, resolve_engine
from alexnet_deploy.contract import BatchProfile, ModelContract
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.images.choose import choose_images
from alexnet_deploy.onnx_graph.import_options import ImportOptions
from tests.helpers.command import Command
from tests.helpers.foreign_models import MEAN, STD, foreign_classifier


def make(store: Path, name: str, created: str) -> None:
    contract = ModelContract("alexnet", ("a", "b"), ("a", "b"))
    with write_bundle(store / name) as folder:
        (folder / MODEL).write_bytes(name.encode())
        save_manifest(Manifest("fp32", contract, BatchProfile(), {}, created=created), folder)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make(tmp_path, "old", "2026-01-01T00:00:00+00:00")
    make(tmp_path, "new", "2026-03-01T00:00:00+00:00")
    make(tmp_path, "middle", "2026-02-01T00:00:00+00:00")
    return tmp_path


def test_no_name_means_the_newest(store: Path) -> None:
    assert bundle_names(store) == ["new", "middle", "old"]
    with resolve_engine(None, store) as engine:
        assert engine.name == "new"


def test_a_name_in_the_store_or_a_path(store: Path) -> None:
    assert find_bundle("old", store) == store / "old"
    assert find_bundle(str(store / "old"), Path("elsewhere")) == store / "old"


def test_unknown_name_and_empty_store_say_what_to_do(store: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(InputError, match=r"nope: no such engine in .*; there is new, middle, old"):
        find_bundle("nope", store)
    with pytest.raises(InputError, match="holds no engine; build one"), resolve_engine(None, store / "nothing"):
        pass


def test_a_bundle_needs_no_description(store: Path) -> None:
    with (
        pytest.raises(UsageError, match="a bundle carries its own"),
        resolve_engine("old", store, ImportOptions((0.5,) * 3)),
    ):
        pass


def test_the_float_twin_is_known_by_its_weights(
    tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble, "installed", dict)  # no plans
    images = choose_images(photo_folder / "train", count=4)
    here, other = tmp_path / "here", tmp_path / "other"
    for number, folder in enumerate((here, other)):
        foreign_classifier(tmp_path / f"{number}.onnx", channels_last=bool(number))
        build_engine(
            tmp_path / f"{number}.onnx", folder / "plain", EngineOptions(import_options=ImportOptions(MEAN, STD))
        )
    options = EngineOptions("int8", calibration=images, method="max", import_options=ImportOptions(MEAN, STD))
    build_engine(tmp_path / "0.onnx", here / "quantised", options)
    quantised = open_bundle(here / "quantised")
    assert float_twin(quantised, here) == "plain"
    assert float_twin(quantised, other) is None  # of other weights
    assert float_twin(open_bundle(here / "plain"), here) is None  # is none that was quantised


def test_a_bundle_for_a_float_onnx_is_answered_with_the_file(
    tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setattr(assemble, "installed", dict)  # no plans
    monkeypatch.chdir(tmp_path)
    onnx, images = foreign_classifier(tmp_path / "net.onnx"), choose_images(photo_folder / "train", count=4)
    build_engine(onnx, Path("engines/plain"), EngineOptions(import_options=ImportOptions(MEAN, STD)))
    build_engine(onnx, Path("engines/half"), EngineOptions("fp16", import_options=ImportOptions(MEAN, STD)))
    options = EngineOptions("int8", calibration=images, method="max", import_options=ImportOptions(MEAN, STD))
    build_engine(onnx, Path("engines/quantised"), options)
    for name, precision, told in (
        ("plain", "fp32", "engines/plain/model.onnx"),
        ("engines/plain", "fp32", "engines/plain/model.onnx"),
        ("quantised", "int8", "engines/plain/model.onnx"),
        ("half", "fp16", "the one that it was built from"),
    ):
        for given in (("diagnose", name, "--data"), ("calibration-stability", name, "--calibration-data")):
            ran = command(*given, photo_folder / "train")
            assert ran.code == 1
            said = f"error: {name}: is an engine bundle ({precision}), this takes a float32 ONNX: give {told}\n"
            assert ran.err == said
