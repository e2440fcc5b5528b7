"""pack --calibration: the fit of a bundle goes into the checkpoint, and from there into its exports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_deploy.bundle.manifest import CONFIDENCE, load_manifest, save_manifest
from alexnet_deploy.calibration import Calibration, Rejection
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError
from alexnet_deploy.evaluation.confidence.record import ConfidenceRecord, Quality
from alexnet_deploy.model.architecture import get_architecture
from alexnet_deploy.model.checkpoint import Checkpoint
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
    with pytest.raises(InputError, match="has another contract than the checkpoint"):
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
