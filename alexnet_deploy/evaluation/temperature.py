"""Probabilities one can believe: one temperature, fitted to a bundle's own logits and stored in its contract.

Guo et al., On calibration of modern neural networks, ICML 2017 (arXiv:1706.04599): softmax(logits / T), with the T that
makes the true classes of held-out images likeliest. It changes no answer, only how sure the answers are.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import os
import shutil
from collections.abc import Callable, Mapping
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
from alexnet_deploy.evaluation.accuracy import confidence, log_softmax
from alexnet_deploy.evaluation.answers import answers_of
from alexnet_deploy.evaluation.reliability import reliability
from alexnet_deploy.evaluation.temperature_record import ConfidenceRecord, Quality
from alexnet_deploy.files import sha256_of, sha256_or_none
from alexnet_deploy.images.find import find_images
from alexnet_deploy.images.labelled import list_labelled
from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, save_onnx, set_contract
from alexnet_deploy.precision.calibration_record import read_record
from alexnet_deploy.runtime.runner import Runner

# Legend: N image, K class

LOWEST, HIGHEST = 0.02, 50.0
"""Temperatures that are tried. Published networks lie within 0.5..5; at these ends the logits hold no probability."""
MIN_IMAGES = 100
"""With 100 a temperature is known to some 8 % (one standard deviation), with 1000 to 2 % (docs/confidence.md)."""


def calibrate(
    bundle: Path,
    runner: Runner,
    data: Path,
    *,
    disjoint: Mapping[str, Path] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ConfidenceRecord:
    """Fit the temperature of ``bundle``, which ``runner`` runs, on labelled images, and write it into the bundle.

    The fit starts from the logits, so it replaces a temperature that is there. The bundle is swapped as a whole: its
    manifest, the contract inside ``model.onnx`` and ``confidence.json`` change together; plans hold no contract and
    stay byte for byte. Whatever is raised, the bundle is as it was.

    ``disjoint`` names further folders, by the flags that gave them, which must not share an image with ``data``; those
    that calibrated the bundle never may. Raises InputError where they do, or where ``data`` tells no temperature;
    ArtifactError for a damaged bundle.
    """
    manifest = verify(bundle)
    if contract_in(load_onnx(bundle / MODEL), source=str(bundle / MODEL)) != manifest.contract:
        raise ArtifactError(f"{bundle}: {MANIFEST} and {MODEL} carry different contracts; build the bundle again")
    labelled = list_labelled(data, manifest.contract)
    file_of = {sha256: file for file in labelled.files if (sha256 := sha256_or_none(file)) is not None}
    if (bundle / CALIBRATION).is_file():
        both = read_record(bundle / CALIBRATION).image_hashes & file_of.keys()
        _refuse([file_of[sha256] for sha256 in both], f"calibrated {bundle}", "other images")
    for flag, folder in (disjoint or {}).items():
        _refuse(_shared(folder, file_of), f"also lies in {flag} {folder}", "folders that share no image")

    answers = answers_of([runner], labelled, on_progress=on_progress)
    (logits_NK,) = answers.logits_NK
    temperature = fit_temperature(logits_NK, answers.target_N, source=str(data))
    hash_of = {file: sha256 for sha256, file in file_of.items()}
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
    """The temperature at which the true classes are likeliest; ``source`` names the images in an InputError.

    The mean negative log likelihood is convex in 1 / T, so over log T it has one minimum and a bounded search finds it.
    """
    images = len(target_N)
    if images < MIN_IMAGES:
        raise InputError(f"{source}: {images} usable images are too few for a temperature; give {MIN_IMAGES} or more")
    if len(np.unique(target_N)) < 2:
        raise InputError(f"{source}: all images are of one class, so they cannot tell right from wrong; give several")
    if not np.isfinite(logits_NK).all():
        raise InputError(
            f"{source}: the model's output on some images is not finite; try an engine of higher precision"
        )
    centred_NK = logits_NK - logits_NK.mean(axis=1, keepdims=True, dtype=np.float64)
    # float32 kernels may differ in the last bits from image to image
    if np.ptp(centred_NK, axis=0).max() <= 1e-5 * np.abs(logits_NK).max():
        raise InputError(f"{source}: the model gives every image the same answer, which no temperature mends; check it")
    if (logits_NK.argmax(axis=1) == target_N).all():
        raise InputError(
            f"{source}: all {images} answers are right, so the likeliest model would claim to be never wrong; "
            "give more images, or harder ones"
        )
    found = minimize_scalar(
        lambda log_t: confidence(logits_NK, target_N, math.exp(log_t)).nll_nats,
        bounds=(math.log(LOWEST), math.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-7},
    )
    temperature = math.exp(found.x)
    if not LOWEST * 1.01 < temperature < HIGHEST / 1.01:  # the search stops just before an end
        raise InputError(
            f"{source}: no temperature within {LOWEST:g}..{HIGHEST:g} fits ({temperature:.3g} is at the end), the "
            "answers hardly depend on the images; check the labels and the engine: alexnet-deploy evaluate"
        )
    return temperature


def quality(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], temperature: float) -> Quality:
    """How far softmax(logits / ``temperature``) can be believed; all logits must be finite."""
    found = confidence(logits_NK, target_N, temperature)
    first_N = np.exp(log_softmax(logits_NK, temperature).max(axis=1))
    bins = reliability(first_N, logits_NK.argmax(axis=1) == target_N)
    return Quality(found.nll_nats, found.ece_percent, bins)


def _store(bundle: Path, measured: Manifest, record: ConfidenceRecord) -> None:
    """Swap ``bundle`` for one with the temperature of ``record`` wherever its contract stands."""
    with write_bundle(bundle) as new:
        manifest, files = load_manifest(bundle)
        if manifest != measured:
            raise ArtifactError(f"{bundle}: was replaced while its images ran; run the command again")
        for name in files:
            _carry(bundle / name, new / name)
        shutil.copyfile(bundle / MANIFEST, new / MANIFEST)
        verify(new)  # what was carried is one whole bundle, whoever writes to ``bundle`` meanwhile
        contract = dataclasses.replace(manifest.contract, temperature=record.temperature)
        model = load_onnx(new / MODEL)
        set_contract(model, contract)
        save_onnx(model, new / MODEL)
        # A file that is a link must be replaced, never written into: the old bundle would change.
        (new / CONFIDENCE).unlink(missing_ok=True)
        (new / CONFIDENCE).write_text(record.to_json(), encoding="utf-8")
        save_manifest(dataclasses.replace(manifest, contract=contract), new)


def _carry(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system has hard links
        shutil.copyfile(source, target)


def _shared(folder: Path, file_of: Mapping[str, Path]) -> list[Path]:
    """The known files whose content also lies below ``folder``; only files of a known size are read."""
    sizes = {file.stat().st_size for file in file_of.values()}
    found: set[Path] = set()
    for file in find_images([folder]):
        sha256 = sha256_or_none(file) if _size_or_none(file) in sizes else None
        if sha256 is not None and sha256 in file_of:
            found.add(file_of[sha256])
    return sorted(found)


def _refuse(shared: list[Path], what: str, instead: str) -> None:
    if shared:
        more = f", as do {len(shared) - 1} more" if len(shared) > 1 else ""
        raise InputError(
            f"{min(shared)}: {what}{more}; a temperature must come from images that nothing else saw: give {instead}"
        )


def _size_or_none(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None
