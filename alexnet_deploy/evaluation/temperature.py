"""Calibrated probabilities: one temperature, fitted to the logits of a bundle and stored in its contract.

Guo et al., On calibration of modern neural networks, ICML 2017 (arXiv:1706.04599): softmax(logits / T), with the T that
makes the true classes of held-out images most likely. It changes only the probabilities, and no answer.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from alexnet_deploy import __version__
from alexnet_deploy.bundle.manifest import (
    CALIBRATION,
    CONFIDENCE,
    MANIFEST,
    MODEL,
    Manifest,
    load_manifest,
    save_manifest,
    verify,
    write_bundle,
)
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.evaluation.accuracy import confidence, reliability
from alexnet_deploy.evaluation.answers import collect_answers
from alexnet_deploy.evaluation.temperature_record import ConfidenceRecord, Quality
from alexnet_deploy.files import sha256_of
from alexnet_deploy.images.find import find_images
from alexnet_deploy.images.labelled import list_labelled
from alexnet_deploy.images.shared import image_hashes, refuse_shared_images, shared_images
from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, save_onnx, set_contract
from alexnet_deploy.precision.calibration.record import read_record
from alexnet_deploy.probabilities import finite_rows
from alexnet_deploy.progress import Progress, no_progress
from alexnet_deploy.runtime.runner import Runner

# Legend: N image, K class

LOWEST, HIGHEST = 0.02, 50.0
"""Range of the search. Published networks lie within 0.5..5; at these ends the logits carry no information."""
MIN_IMAGES = 100
"""100 images determine a temperature to about 9 % (one standard deviation), 1000 to 2 % (docs/confidence.md)."""


def calibrate(
    bundle: Path,
    runner: Runner,
    data: Path,
    *,
    evaluation_data: Path | None = None,
    training_data: Path | None = None,
    on_progress: Progress = no_progress,
) -> ConfidenceRecord:
    """Fit the temperature of ``bundle``, which ``runner`` runs, on labelled images, and write it into the bundle.

    The fit starts from the logits, so it replaces an earlier temperature. The bundle is swapped as a whole: its
    manifest, the contract inside ``model.onnx`` and ``confidence.json`` change together. Plans hold no contract and
    stay byte for byte. If anything is raised, the bundle is as it was.

    Raises InputError if ``data`` shares an image with ``evaluation_data``, ``training_data`` or the images that
    calibrated the bundle, if the model is multi-label, or if no temperature fits it; ArtifactError for a damaged
    bundle.
    """
    manifest = verify(bundle)
    if contract_in(load_onnx(bundle / MODEL), source=str(bundle / MODEL)) != manifest.contract:
        raise ArtifactError(f"{bundle}: {MANIFEST} and {MODEL} carry different contracts; build the bundle again")
    if manifest.contract.activation == "sigmoid":
        raise InputError(
            f"{bundle}: is multi-label (sigmoid), and a folder names one class per image, not which others it shows: "
            "no temperature can be fitted; use its scores as they are"
        )
    labelled = list_labelled(data, manifest.contract)
    hash_of = image_hashes(labelled.files)
    remedy = "a temperature must come from images used for nothing else: give"
    if (bundle / CALIBRATION).is_file():
        shared = shared_images(hash_of, read_record(bundle / CALIBRATION).image_hashes)
        refuse_shared_images(shared, f"calibrated {bundle}", f"{remedy} other images")
    sizes = {file.stat().st_size for file in hash_of}
    for parameter, folder in (("evaluation_data", evaluation_data), ("training_data", training_data)):
        if folder is None:
            continue
        shared = shared_images(hash_of, image_hashes(find_images([folder]), sizes=sizes).values())
        use = f"also lies in `{parameter}` {folder}"
        refuse_shared_images(shared, use, f"{remedy} folders that share no image")

    answers = collect_answers([runner], labelled, on_progress=on_progress)
    (logits_NK,) = answers.logits_NK
    temperature = fit_temperature(logits_NK, answers.target_N, source=str(data))
    record = ConfidenceRecord(
        temperature=temperature,
        classes=len(np.unique(answers.target_N)),
        sha256=tuple(hash_of.get(file) or sha256_of(file) for file in answers.files),
        before=quality(logits_NK, answers.target_N, 1.0),
        after=quality(logits_NK, answers.target_N, temperature),
        runtime=runner.description,
        tools={"alexnet-deploy": __version__}
        | {name: importlib.metadata.version(name) for name in ("numpy", "pillow", "scipy")},
    )
    _store(bundle, manifest, record)
    return record


def fit_temperature(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], *, source: str) -> float:
    """Return the temperature at which the true classes are most likely; ``source`` names the images in an InputError.

    The mean negative log likelihood is convex in 1 / T. It has one minimum over log T, which a bounded search finds.
    """
    images = len(target_N)
    if images < MIN_IMAGES:
        raise InputError(f"{source}: {images} usable images are too few for a temperature; give {MIN_IMAGES} or more")
    if len(np.unique(target_N)) < 2:
        raise InputError(
            f"{source}: all images are of one class, which is not enough to fit a temperature; give several classes"
        )
    if not finite_rows(logits_NK).all():
        raise InputError(
            f"{source}: the model's output on some images is not finite; try an engine of higher precision"
        )
    centred_NK = logits_NK - logits_NK.mean(axis=1, keepdims=True, dtype=np.float64)
    # float32 kernels may differ in the last bits from image to image
    if np.ptp(centred_NK, axis=0).max() <= 1e-5 * np.abs(logits_NK).max():
        raise InputError(
            f"{source}: the model answers every image alike, which no temperature can correct; check the model"
        )
    if (logits_NK.argmax(axis=1) == target_N).all():
        raise InputError(
            f"{source}: all {images} answers are right, so the best temperature would be 0; "
            "give more images, or harder ones"
        )
    found = minimize_scalar(
        lambda log_t: confidence(logits_NK, target_N, math.exp(log_t), "softmax").nll_nats,
        bounds=(math.log(LOWEST), math.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-7},
    )
    temperature = math.exp(found.x)
    if not LOWEST * 1.01 < temperature < HIGHEST / 1.01:  # the search stops just before an end
        raise InputError(
            f"{source}: no temperature within {LOWEST:g}..{HIGHEST:g} fits ({temperature:.3g} is at the end): the "
            "answers hardly depend on the images; check the labels and the engine: alexnet-deploy evaluate"
        )
    return temperature


def quality(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], temperature: float) -> Quality:
    """Measure softmax(logits / ``temperature``) against the true classes; all logits must be finite."""
    found = confidence(logits_NK, target_N, temperature, "softmax")
    return Quality(found.nll_nats, found.ece_percent, reliability(logits_NK, target_N, temperature, "softmax"))


def _store(bundle: Path, measured: Manifest, record: ConfidenceRecord) -> None:
    """Swap ``bundle`` for one with the temperature of ``record`` in every copy of its contract."""
    with write_bundle(bundle) as new:
        manifest, files = load_manifest(bundle)
        if manifest != measured:
            raise ArtifactError(f"{bundle}: was replaced while its images ran; run the command again")
        for name in files:
            _link_or_copy(bundle / name, new / name)
        shutil.copyfile(bundle / MANIFEST, new / MANIFEST)
        verify(new)  # proves that a whole bundle was copied, even if somebody wrote to ``bundle`` meanwhile
        contract = dataclasses.replace(manifest.contract, temperature=record.temperature)
        model = load_onnx(new / MODEL)
        set_contract(model, contract)
        save_onnx(model, new / MODEL)
        # A link must be replaced, never written to: the old bundle would change.
        (new / CONFIDENCE).unlink(missing_ok=True)
        (new / CONFIDENCE).write_text(record.to_json(), encoding="utf-8")
        save_manifest(dataclasses.replace(manifest, contract=contract), new)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system has hard links
        shutil.copyfile(source, target)
