"""The finished engine beside its float model, on photos, in the runtime that this machine will use."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import Engine, FeatureVerification, Verification
from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import DeployError, ProofError
from alexnet_deploy.images.choose import CalibrationSet
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.samples import PARITY_IMAGES
from alexnet_deploy.probabilities import activate
from alexnet_deploy.runtime.select import open_runner
from alexnet_deploy.verification.photos import photo_pixels, tried_pixels

# Legend: N image, K class, F feature


@dataclass(frozen=True, slots=True)
class Verified:
    """What ``verify_bundle`` found: about answers, or about features; neither where no runtime can run the engine."""

    answers: Verification | None = None
    features: FeatureVerification | None = None
    notes: tuple[str, ...] = ()
    """For people."""


def trial_pixels(
    pre: Preprocessing, folder: str | Path | None, calibration: CalibrationSet | None
) -> NDArray[np.uint8]:
    """Pixels ``[N, H, W, 3]`` on which an engine is tried: of the user's ``folder``, else of calibration images.

    The latter show what the model is for. The sample photos, which are left, may show nothing that it knows.
    """
    if folder is None and calibration is not None:
        return tried_pixels(np.stack([load_pixels(file, pre) for file in calibration.files[:PARITY_IMAGES]]))
    return photo_pixels(pre, None if folder is None else Path(folder))


def verify_bundle(engine: Engine, float_onnx: Path, pixels_NHWC: NDArray[np.uint8]) -> Verified:
    """Run photos through ``engine`` and through the float model.

    Where no runtime here can run the engine, a note has the
    reason, as it has for a runtime that is passed over because it does not compute what the graph says. ProofError
    where answers are not finite that the float model has.
    """
    try:
        expected_NK, _, _ = _answer(
            Engine(f"{engine.name} (float model)", float_onnx, engine.contract, "fp32", None), pixels_NHWC
        )
        found_NK, runtime, notes = _answer(engine, pixels_NHWC)
    except DeployError as exc:
        return Verified(notes=(f"not verified on photos: {exc}",))
    finite_N, expected_N = np.isfinite(found_NK).all(axis=1), np.isfinite(expected_NK).all(axis=1)
    if (lost := int((expected_N & ~finite_N).sum())) > 0:
        raise ProofError(
            f"{engine.name}: not written: its answers for {lost} of {len(pixels_NHWC)} photos are not finite, those of "
            "the float model are: numbers inside exceed the range of float16; build without `fp16`"
        )
    both_N = finite_N & expected_N
    if not both_N.any():
        return Verified(notes=("not verified on photos: the float model's own answers are not finite",))
    found_NK, expected_NK = found_NK[both_N], expected_NK[both_N]
    if engine.contract.features is not None:
        return Verified(features=_compare_features(found_NK, expected_NK, runtime), notes=tuple(notes))
    return Verified(_compare_answers(found_NK, expected_NK, engine.contract, runtime), notes=tuple(notes))


def _compare_answers(
    found_NK: NDArray[np.float32], expected_NK: NDArray[np.float32], contract: ModelContract, runtime: str
) -> Verification:
    p_NK, q_NK = activate(found_NK, contract.activation), activate(expected_NK, contract.activation)
    return Verification(
        runtime=runtime,
        images=len(p_NK),
        same_answers=int((p_NK.argmax(axis=1) == q_NK.argmax(axis=1)).sum()),
        largest_difference_points=round(100 * float(np.abs(p_NK - q_NK).max()), 4),
    )


def _compare_features(
    found_NF: NDArray[np.float32], expected_NF: NDArray[np.float32], runtime: str
) -> FeatureVerification:
    a_NF, b_NF = found_NF.astype(np.float64), expected_NF.astype(np.float64)
    lengths_N = np.linalg.norm(a_NF, axis=1) * np.linalg.norm(b_NF, axis=1)
    cosine_N: NDArray[np.float64] = np.where(np.logical_or(a_NF, b_NF).any(axis=1), 0.0, 1.0)
    np.divide(np.einsum("nf,nf->n", a_NF, b_NF), lengths_N, out=cosine_N, where=lengths_N > 0)
    return FeatureVerification(
        runtime, len(cosine_N), round(float(np.median(cosine_N)), 6), round(float(cosine_N.min()), 6)
    )


def _answer(engine: Engine, pixels_NHWC: NDArray[np.uint8]) -> tuple[NDArray[np.float32], str, list[str]]:
    """Logits, the runtime, and what speaks against the runtimes before it that could open the engine."""
    selected = open_runner(engine)
    with closing(selected.runner) as runner:
        logits_NK = runner(pixels_NHWC)
    doubts = [f"{passed.runtime} is not used: {passed.reason}" for passed in selected.passed_over if passed.doubted]
    return logits_NK, selected.runner.description, doubts
