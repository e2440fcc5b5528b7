"""Engines that end at a layer: what they give, which commands refuse them and which pass them over."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import alexnet_deploy as ad
from alexnet_deploy.build.settings import BuildSettings
from alexnet_deploy.bundle.manifest import load_manifest
from tests.helpers.command import Command

NAME = "alexnet-int8-features"


@pytest.fixture(scope="module")
def bundle(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first layers of ``alexnet-int8``, built as that one was."""
    settings = BuildSettings(calibration_images=6, targets=("sm89",), until="classifier.5")
    return ad.build_engine(
        workplace / "engines/alexnet.onnx",
        tmp_path_factory.mktemp("store") / NAME,
        precision="int8",
        calibration_data=workplace / "photos/train",
        settings=settings,
    )


@pytest.fixture
def built(here: Path, bundle: Path) -> Path:
    """``here`` with ``bundle`` in its store."""
    shutil.copytree(bundle, here / "engines" / NAME)
    return here


class TestFeatureEngine:
    def test_it_computes_what_the_whole_engine_computes_there(self, command: Command, built: Path) -> None:
        """So its index is that of the whole engine."""
        manifest = load_manifest(built / "engines/alexnet-int8-features")[0]
        assert [plan.target for plan in manifest.plans] == ["sm89"]
        assert all(layer.got == "int8" for layer in manifest.achieved["sm89.plan"])
        assert (manifest.verification, manifest.contract.labels) == (None, ())
        seen = manifest.feature_verification
        assert seen is not None
        assert 0.9 < seen.least_cosine <= seen.median_cosine <= 1  # int8 rounds each value to 1 of 256 steps
        assert command("features", "photos", "--engine", "alexnet-int8-features", "-o", "v.npz").code == 0
        assert command("neighbours", "photos/val", "--index", "v.npz", "--engine", "alexnet-int8").code == 0
        assert "up to classifier.5" in command("engines").out
        assert "32 features" in command("inspect", "alexnet-int8-features").out

    def test_what_needs_classes_refuses_it(self, command: Command, built: Path) -> None:
        name = NAME
        for arguments in (
            ("infer", "photos/val", "--engine", name),
            ("evaluate", "photos/val", "--engine", name),
            ("compare", name, "alexnet-int8", "--data", "photos/val"),
            ("calibrate-confidence", name, "--data", "photos/val"),
            ("preprocessing-parity", name, "--data", "photos/val"),
            ("profile-layers", name),
            ("profile-stages", name, "--data", "photos/val"),
            ("report", name, "--data", "photos/val"),
            ("explain", "photos/val", "--engine", name, "-o", "page.html"),
            ("mlperf", name, "--data", "photos/val"),
        ):
            done = command(*arguments)
            assert done.code == 1, arguments
            assert f"{name}: is a feature engine: it ends at layer classifier.5" in done.error, arguments

    def test_defaults_pass_it_over(self, command: Command, built: Path) -> None:
        assert "running alexnet-int8 (int8) with" in command("infer", "photos/val").err
        assert "alexnet-int8-features" not in command("evaluate", "photos/val", "--no-latency").out

    def test_its_layer_is_its_layer(self, command: Command, built: Path) -> None:
        done = command(
            "features", "photos", "--engine", "alexnet-int8-features", "--layer", "features.0", "-o", "v.npz"
        )
        assert (done.code, "ends at layer classifier.5" in done.error) == (2, True)

    def test_builds_that_contradict_themselves(self, command: Command, built: Path) -> None:
        done = command("build-engine", "--until", "none", "-o", "engines/none")
        assert (done.code, "--until none: engines/alexnet.onnx has no such layer" in done.error) == (2, True)
        assert "up to layer features.5" in command("build-engine", "--until", "features.5", "--target", "sm89").out
        assert Path("engines/alexnet-fp32-features").is_dir()
        done = command("build-engine", "--until", "classifier.5", "--max-drop", "1", "--validation-data", "photos/val")
        assert (done.code, "--max-drop is about classes" in done.error) == (2, True)
        onnx = "engines/alexnet-int8-features/model.onnx"
        for until in ((), ("--until", "features.0")):
            assert "is a feature engine: it ends at layer classifier.5" in command("build-engine", onnx, *until).error

    def test_the_layer_of_a_feature_engine_is_not_that_of_the_index(self, command: Command, built: Path) -> None:
        done = command("features", "photos/val", "--engine", "alexnet-int8", "--layer", "features.5", "-o", "v.npz")
        assert done.code == 0
        done = command("neighbours", "photos/val", "--index", "v.npz", "--engine", NAME)
        assert (done.code, "--layer" in done.error) == (2, False)
        assert "it ends at layer classifier.5 and cannot give the output of layer features.5" in done.error

    def test_the_last_hidden_layer_is_not_compared(self, command: Command, built: Path) -> None:
        """There the pictures of a class are alike; the newest bundle may be one that ends there."""
        assert "running alexnet-int8 (int8) up to layer features" in command("duplicates", "photos/val").err
        done = command("duplicates", "photos/val", "--engine", NAME)
        assert (done.code, "ends at layer classifier.5 [32], whose output has no places" in done.error) == (2, True)
