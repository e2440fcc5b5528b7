"""Which float32 model a quantised bundle was made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_deploy.bundle.manifest import open_bundle
from alexnet_deploy.onnx_graph.import_options import ImportOptions
from alexnet_deploy.precision.float_source import find_float_source
from tests.helpers.bundles import build_bundle
from tests.helpers.command import Command
from tests.helpers.foreign_models import MEAN, STD, foreign_classifier


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    """A working folder: ``engines/`` with one model in fp32, fp16 and int8, ``other/`` with another in fp32."""
    folder = tmp_path_factory.mktemp("float_source")
    net, other = foreign_classifier(folder / "net.onnx"), foreign_classifier(folder / "other.onnx", channels_last=True)
    ours = ImportOptions(MEAN, STD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alexnet_deploy.build.engine.installed", dict)  # no plans
        build_bundle(net, folder / "engines/plain", targets=(), import_options=ours)
        build_bundle(net, folder / "engines/half", "fp16", targets=(), import_options=ours)
        calibrated = {"calibration_images": 4, "calibration_method": "max"}
        quantised = folder / "engines/quantised"
        build_bundle(net, quantised, "int8", photo_folder / "train", targets=(), import_options=ours, **calibrated)
        build_bundle(other, folder / "other/plain", targets=(), import_options=ours)
    return folder


def test_it_is_found_by_its_weights(folder: Path) -> None:
    quantised = open_bundle(folder / "engines/quantised")
    assert find_float_source(quantised, folder / "engines") == "plain"
    assert find_float_source(quantised, folder / "other") is None  # of other weights
    assert find_float_source(open_bundle(folder / "engines/plain"), folder / "engines") is None  # not quantised


@pytest.mark.parametrize(
    ("name", "precision", "instead"),
    [
        ("plain", "fp32", "engines/plain/model.onnx"),
        ("engines/plain", "fp32", "engines/plain/model.onnx"),
        ("quantised", "int8", "engines/plain/model.onnx"),
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
    expected = f"error: {name}: is an engine bundle ({precision}), this takes a float32 ONNX: give {instead}\n"
    assert (ran.code, ran.err) == (1, expected)
