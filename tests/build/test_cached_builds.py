"""Builds with a calibration cache: what they reuse, and what makes them measure again.

Through ``build_engine``, so that the parts of the key are those that feed the run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.build import typed_onnx
from alexnet_deploy.bundle.manifest import CALIBRATION, MODEL
from alexnet_deploy.contract import Precision
from alexnet_deploy.images.choose import CalibrationSet, choose_images
from alexnet_deploy.precision import float_model
from alexnet_deploy.precision.calibration import cache as calibration_cache
from alexnet_deploy.precision.calibration.record import read_record
from alexnet_deploy.precision.types import METHODS, Method
from alexnet_deploy.verification.imported import adopt_verified
from tests.helpers.models.bundles import build_bundle
from tests.helpers.models.foreign_models import FOREIGN, SIDE, foreign_classifier, random_pixels

Build = Callable[..., tuple[bytes, str]]


@pytest.fixture
def images(tmp_path: Path) -> CalibrationSet:
    for i, pixels_HWC in enumerate(random_pixels(6, 20)):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels_HWC).save(path)
    return choose_images(tmp_path / "images", count=4)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each pass that decodes any."""
    counted: list[int] = []
    genuine = CalibrationSet.batches

    def batches(self: CalibrationSet, *args: Any, **kwargs: Any) -> Iterator[NDArray[np.uint8]]:
        counted.append(len(self.files))
        yield from genuine(self, *args, **kwargs)

    monkeypatch.setattr(CalibrationSet, "batches", batches)
    return counted


@pytest.fixture
def build(tmp_path: Path, images: CalibrationSet, monkeypatch: pytest.MonkeyPatch) -> Build:
    source = foreign_classifier(tmp_path / "net.onnx")
    # No plan: what calibrates is the same with and without.
    monkeypatch.setattr("alexnet_deploy.build.engine.why_no_plan_here", lambda: "not in this test")

    def run(
        method: Method = "mse",
        chosen: CalibrationSet = images,
        source: Path = source,
        precision: Precision = "int8",
        **settings: Any,
    ) -> tuple[bytes, str]:
        """The typed ONNX and the manifest's notes."""
        settings = {"calibration_cache": str(tmp_path / "cache"), "import_options": FOREIGN, "targets": ()} | settings
        made = build_bundle(source, tmp_path / "out", precision, chosen, calibration_method=method, **settings)
        return (tmp_path / "out" / MODEL).read_bytes(), " ".join(made.notes)

    return run


def test_the_second_run_reads_no_image_and_says_so(build: Build, passes: list[int], tmp_path: Path) -> None:
    first, notes = build()
    assert passes == [4, 4]
    assert "cache" not in notes
    record = read_record(tmp_path / "out" / CALIBRATION)
    second, notes = build()
    assert passes == [4, 4]
    assert "the value ranges of the 4 images come from the cache" in notes
    assert second == first
    assert read_record(tmp_path / "out" / CALIBRATION) == record


def test_without_a_folder_nothing_is_kept(build: Build, passes: list[int], tmp_path: Path) -> None:
    for _ in range(2):
        build(calibration_cache=None)
    assert len(passes) == 4
    assert not (tmp_path / "cache").exists()


def test_one_run_serves_every_method_type_and_exclusion(build: Build, passes: list[int]) -> None:
    build("entropy")
    done = len(passes)
    variants: list[dict[str, Any]] = [{"exclude": "Conv_0"}, {"precision": "int8+fp16"}]
    for options in (*variants, *({"method": method} for method in METHODS)):
        cached, _ = build(**options)
        assert len(passes) == done
        measured, _ = build(**options, calibration_cache=None)
        assert cached == measured
        del passes[done:]
    # The 99.99th percentile of so few numbers is their maximum.
    assert len({build(method)[0] for method in ("max", "entropy", "mse")}) == 3, "a method still decides"


def test_max_looks_once_and_so_serves_no_other_method(build: Build, passes: list[int], tmp_path: Path) -> None:
    for method, expected in (("max", 1), ("max", 1), ("entropy", 3), ("max", 3)):
        build(method)
        assert len(passes) == expected
    assert len(list((tmp_path / "cache").iterdir())) == 1


def adopt_by_another_rule(*arguments: Any, **options: Any) -> Any:
    contract, notes = adopt_verified(*arguments, **options)
    preprocessing = dataclasses.replace(contract.preprocessing, resize_to=SIDE)
    return dataclasses.replace(contract, preprocessing=preprocessing), notes


@pytest.mark.parametrize(
    "part", ["weight", "pixel rule", "image", "order", "number", "own version", "onnxruntime", "bins"]
)
def test_whatever_changes_is_measured_anew(
    part: str,
    build: Build,
    passes: list[int],
    images: CalibrationSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build()
    replaced = {
        "order": {"files": images.files[::-1], "sha256": images.sha256[::-1]},
        "number": {"files": images.files[:3], "sha256": images.sha256[:3]},
    }
    version = metadata.version
    patches: dict[str, tuple[Any, str, Any]] = {
        "pixel rule": (float_model, "adopt_verified", adopt_by_another_rule),
        "own version": (typed_onnx, "__version__", "99"),
        "onnxruntime": (metadata, "version", lambda name: version(name) + name[4:]),
        "bins": (calibration_cache, "BINS", 1024),
    }
    changed: dict[str, Any] = {}
    if part == "weight":
        model = onnx.load(tmp_path / "net.onnx")
        tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
        tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]  # the last bit of one number
        changed["source"] = tmp_path / "changed.onnx"
        onnx.save(model, changed["source"])
    elif part == "image":
        Image.new("RGB", (9, 9), "red").save(images.files[2])
        changed["chosen"] = choose_images(images.root, count=4)
        assert changed["chosen"].files == images.files
    elif part in replaced:
        changed["chosen"] = dataclasses.replace(images, **replaced[part])
    else:
        monkeypatch.setattr(*patches[part])
    before = len(passes)
    _, notes = build(**changed)
    assert len(passes) == before + 2
    assert "cache" not in notes
    assert len(list((tmp_path / "cache").iterdir())) == 2
