"""pack --calibration: the fit of a bundle goes into the checkpoint, and from there into its exports."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.bundle.manifest import CONFIDENCE, load_manifest, save_manifest
from alexnet_deploy.bundle.verified import open_bundle
from alexnet_deploy.calibration import Calibration, Rejection
from alexnet_deploy.cli import main
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError
from alexnet_deploy.evaluation.confidence.record import ConfidenceRecord, Quality
from alexnet_deploy.model.architecture import get_architecture
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.command import Command
from tests.helpers.models.bundles import build_bundle
from training.packing.calibration import calibrated_as

QUALITY = Quality(0.5, 5.0, ())


@pytest.fixture
def bundle(tiny_onnx: Path, tmp_path: Path) -> Path:
    build_bundle(tiny_onnx, tmp_path / "bundle")
    return tmp_path / "bundle"


def checkpoint_of(contract: ModelContract) -> Checkpoint:
    return Checkpoint(get_architecture("alexnet", num_classes=len(contract.labels)), contract, {}, {"seed": 1})


def test_the_calibration_is_copied_and_the_rule_is_not(bundle: Path) -> None:
    manifest = load_manifest(bundle)[0]
    bare, calibration = manifest.contract, Calibration(mixture=(0.1, 0.2))
    fitted = replace(bare, temperature=0.7, calibration=calibration, rejection=Rejection("energy", 1.0))
    record = ConfidenceRecord(
        0.7, 2, ("0" * 64,), QUALITY, QUALITY, "any", {}, method="ensemble of temperatures", calibration=calibration
    )
    (bundle / CONFIDENCE).write_text(record.to_json())
    save_manifest(replace(manifest, contract=replace(fitted, rejection=None)), bundle)
    found = calibrated_as(checkpoint_of(bare), bundle)
    assert found.contract == replace(fitted, rejection=None)
    assert found.recipe["seed"] == 1
    assert found.recipe["confidence"]["images_digest"] == record.digest()
    other = replace(bare, labels=tuple(f"other {label}" for label in bare.labels))
    with pytest.raises(InputError, match=r"has another contract \(labels\) than the checkpoint"):
        calibrated_as(checkpoint_of(other), bundle)


def test_a_bundle_without_a_fit_or_of_another_precision_is_refused(
    bundle: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    contract = load_manifest(bundle)[0].contract
    with pytest.raises(InputError, match="nothing was fitted to it"):
        calibrated_as(checkpoint_of(contract), bundle)
    build_bundle(tiny_onnx, tmp_path / "half", "fp16")
    with pytest.raises(InputError, match="is fp16; give a float32 bundle"):
        calibrated_as(checkpoint_of(contract), tmp_path / "half")
    assert calibrated_as(checkpoint_of(contract), None).contract == contract


def exit_code(*arguments: object) -> int:
    """Of ``alexnet-deploy``, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["alexnet-deploy", *map(str, arguments)])
        try:
            main()
        except SystemExit as exc:
            return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    return 0


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint) -> Path:
    """``own.safetensors``, exported, built and calibrated on ``data`` by the documented commands."""
    root = tmp_path_factory.mktemp("fitted")
    own = save_checkpoint(tiny_checkpoint, root / "own.safetensors")
    onnx, bundle = root / "own.onnx", root / "engines/own-fp32"
    assert exit_code("export", "--weights", own, "-o", onnx) == 0
    assert exit_code("build-engine", onnx, "--target", "sm89", "-o", bundle) == 0
    rng = np.random.default_rng(0)
    class_ids = tiny_checkpoint.contract.class_ids
    with closing(open_runner(open_bundle(bundle), "onnxruntime").runner) as runner:
        for i in range(150):
            pixels_HWC = rng.integers(0, 256, (224, 224, 3), dtype=np.uint8) // np.uint8(1 + i % 7)
            answer = int(runner(pixels_HWC[None]).argmax()) if i % 3 else i // 3 % 3  # two thirds are right
            file = root / "data" / class_ids[answer] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels_HWC).save(file)
    assert exit_code("calibrate-confidence", bundle, "--data", root / "data", "--runtime", "onnxruntime") == 0
    return root


def test_the_documented_commands_end_in_a_calibrated_checkpoint(fitted: Path, cli: Command, tmp_path: Path) -> None:
    """``export`` makes another rule of decoding than the checkpoint has; the logits of the same pixels are the same."""
    bundle, small = fitted / "engines/own-fp32", tmp_path / "small.safetensors"
    data = ("--data", fitted / "data", "--workers", "0")
    ran = cli("pack", fitted / "own.safetensors", small, *data, "--calibration", bundle)
    assert ran.code == 0, ran.err
    packed, contract = load_checkpoint(small), load_manifest(bundle)[0].contract
    assert packed.contract == replace(contract.decoded("full"), rejection=None)
    assert packed.contract.is_calibrated
    assert json.loads(ran.out)["calibration_images"] == packed.recipe["evaluation"]["calibration_images"] == 150
    assert "the calibration was fitted on 150 of these images" in " ".join(ran.err.split())
    # The packed checkpoint has the same weights in float16, and takes the calibration again.
    again = cli("pack", small, tmp_path / "again.safetensors", *data, "--calibration", bundle)
    assert again.code == 0, again.err


@pytest.mark.parametrize("key", ["features.0.weight", "classifier.6.bias"])
def test_a_bundle_of_other_weights_is_refused(fitted: Path, tiny_checkpoint: Checkpoint, key: str) -> None:
    """The same classes and preprocessing: only the weights tell another training from this one."""
    bundle = fitted / "engines/own-fp32"
    other = replace(tiny_checkpoint, weights=tiny_checkpoint.weights | {key: tiny_checkpoint.weights[key] + 0.01})
    with pytest.raises(InputError, match=rf"has other weights \({key}\) than the checkpoint"):
        calibrated_as(other, bundle)
    assert calibrated_as(tiny_checkpoint, bundle).contract.is_calibrated
