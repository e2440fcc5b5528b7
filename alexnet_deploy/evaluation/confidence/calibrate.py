"""The stage that fits a bundle's calibration and its rule for unknown answers, and stores both in its contract."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy import __version__
from alexnet_deploy.bundle.manifest import CALIBRATION, MANIFEST, MODEL
from alexnet_deploy.bundle.verified import verify
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import ArtifactError, InputError, ReplacedError
from alexnet_deploy.evaluation.accuracy import confidence, reliability
from alexnet_deploy.evaluation.answers import collect_answers
from alexnet_deploy.evaluation.confidence.choose import choose_method
from alexnet_deploy.evaluation.confidence.images import (
    distinct,
    refuse_calibrated_by,
    refuse_multi_label,
    refuse_shared,
    require_enough,
)
from alexnet_deploy.evaluation.confidence.methods import fit_temperature, temperature_range
from alexnet_deploy.evaluation.confidence.record import ConfidenceRecord, Quality
from alexnet_deploy.evaluation.confidence.rejection import check_targets, fit_rejection
from alexnet_deploy.evaluation.confidence.store import store_fit
from alexnet_deploy.files import sha256_of
from alexnet_deploy.images.labelled import list_labelled, list_unlabelled
from alexnet_deploy.inference.engine import OpenEngine
from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx
from alexnet_deploy.precision.calibration.record import read_record
from alexnet_deploy.probabilities import finite_rows
from alexnet_deploy.progress import Progress, no_progress
from alexnet_deploy.runtime.runner import Runner

# Legend: N image, O outlier, K class


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What was fitted, and the files that had no part in it."""

    record: ConfidenceRecord
    unreadable: tuple[str, ...]
    """One line per file, of the images and of the outliers, that cannot be read."""
    copies: int
    """Images and outliers that are left out because another one has the same content."""


def calibrate(
    bundle: Path,
    runner: Runner,
    data: Path,
    *,
    outliers: Path | None = None,
    max_risk: float | None = None,
    coverage: float | None = None,
    evaluation_data: Path | None = None,
    training_data: Path | None = None,
    on_progress: Progress = no_progress,
) -> Calibrated:
    """Fit the calibration and the rejection of ``bundle``, which ``runner`` runs, on labelled images; store them in it.

    ``outliers`` is a folder of images that show none of the classes. ``max_risk`` and ``coverage``, shares within 0..1,
    are those of ``rejection.fit_rejection``. Of images with the same content one counts: copies say nothing new, and a
    bound that takes them for other images would be wrong.

    The fit starts from the logits, so it replaces an earlier one. The bundle is swapped as a whole: its manifest, the
    contract inside ``model.onnx`` and ``confidence.json`` change together. Plans hold no contract and stay byte for
    byte. If anything is raised, the bundle is as it was.

    Raises UsageError for a risk or a coverage out of range; InputError if ``data`` shares an image with ``outliers``,
    ``evaluation_data``, ``training_data`` or the images that calibrated the bundle, if the model is multi-label, if no
    temperature fits it, no outlier can be read or no threshold meets ``max_risk``; ArtifactError for a damaged bundle.
    """
    check_targets(max_risk, coverage)
    manifest, files = verify(bundle)
    if isinstance(runner, OpenEngine) and runner.model_sha256() != files[MODEL].sha256:
        raise ReplacedError(f"{bundle}: was replaced after it was opened; run the command again")
    if contract_in(load_onnx(bundle / MODEL), source=str(bundle / MODEL)) != manifest.contract:
        raise ArtifactError(f"{bundle}: {MANIFEST} and {MODEL} carry different contracts; build the bundle again")
    refuse_multi_label(manifest.contract, str(bundle))
    used_for = {"outliers": outliers, "evaluation_data": evaluation_data, "training_data": training_data}
    labelled, hash_of, copies = distinct(list_labelled(data, manifest.contract))
    if (bundle / CALIBRATION).is_file():
        refuse_calibrated_by(hash_of, read_record(bundle / CALIBRATION).image_hashes, str(bundle))
    refuse_shared(hash_of, used_for)

    answers = collect_answers([runner], labelled, on_progress=on_progress)
    unreadable = answers.unreadable
    (logits_NK,) = answers.logits_NK
    require_fittable(logits_NK, answers.target_N, source=str(data))
    outlier_logits_OK = None
    outlier_sha256: tuple[str, ...] = ()
    if outliers is not None:
        unlabelled, hash_of_outlier, more_copies = distinct(list_unlabelled(outliers))
        found = collect_answers([runner], unlabelled, on_progress=on_progress)
        (outlier_logits_OK,) = found.logits_NK
        _require_finite(outlier_logits_OK, str(outliers))
        outlier_sha256 = tuple(hash_of_outlier.get(file) or sha256_of(file) for file in found.files)
        unreadable, copies = unreadable + found.unreadable, copies + more_copies
    choice = choose_method(logits_NK, answers.target_N, manifest.contract)
    rejection = fit_rejection(
        logits_NK,
        answers.target_N,
        outlier_logits_OK,
        choice.contract,
        max_risk=max_risk,
        coverage=coverage,
        source=str(data),
    )
    record = ConfidenceRecord(
        temperature=choice.contract.temperature,
        classes=len(np.unique(answers.target_N)),
        sha256=tuple(hash_of.get(file) or sha256_of(file) for file in answers.files),
        before=quality(logits_NK, answers.target_N, manifest.contract.uncalibrated()),
        after=quality(logits_NK, answers.target_N, choice.contract),
        runtime=runner.description,
        tools={"alexnet-deploy": __version__}
        | {name: importlib.metadata.version(name) for name in ("numpy", "pillow", "scipy")},
        method=choice.chosen,
        calibration=choice.contract.calibration,
        methods=choice.rows,
        rejection=rejection,
        outlier_sha256=outlier_sha256 if rejection is not None else (),
    )
    store_fit(bundle, manifest, record)
    return Calibrated(record, unreadable, copies)


def require_fittable(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], *, source: str) -> None:
    """InputError, which names ``source``, if these answers determine no temperature."""
    require_enough(target_N.tolist(), source)
    _require_finite(logits_NK, source)
    centred_NK = logits_NK - logits_NK.mean(axis=1, keepdims=True, dtype=np.float64)
    # float32 kernels may differ in the last bits from image to image
    if np.ptp(centred_NK, axis=0).max() <= 1e-5 * np.abs(logits_NK).max():
        raise InputError(
            f"{source}: the model answers every image alike, which no temperature can correct; check the model"
        )
    if (logits_NK.argmax(axis=1) == target_N).all():
        raise InputError(
            f"{source}: all {len(target_N)} answers are right, so the best temperature would be 0; "
            "give more images, or harder ones"
        )
    temperature, (lowest, highest) = fit_temperature(logits_NK, target_N), temperature_range(logits_NK)
    if not lowest * 1.01 < temperature < highest / 1.01:  # the search stops just before an end
        raise InputError(
            f"{source}: no temperature within {lowest:.3g}..{highest:.3g} fits ({temperature:.3g} is at the end): the "
            "answers hardly depend on the images; check the labels and the engine: alexnet-deploy evaluate"
        )


def quality(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], contract: ModelContract) -> Quality:
    """Measure the probabilities of ``contract`` against the true classes; all logits must be finite."""
    found = confidence(logits_NK, target_N, contract)
    return Quality(found.nll_nats, found.ece_percent, reliability(logits_NK, target_N, contract))


def _require_finite(logits_NK: NDArray[np.float32], source: str) -> None:
    if not finite_rows(logits_NK).all():
        raise InputError(
            f"{source}: the model's output on some images is not finite; try an engine of higher precision"
        )
