"""The finished engine beside its float model, on photos, in the runtime that this machine will use."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import Engine, Verification
from alexnet_deploy.errors import DeployError, ProofError
from alexnet_deploy.probabilities import activate
from alexnet_deploy.runtime.select import open_runner
from alexnet_deploy.verification.photos import photo_pixels

# Legend: N image, K class


def verify_bundle(engine: Engine, float_onnx: Path, images: Path | None) -> tuple[Verification | None, list[str]]:
    """Answer photos with ``engine`` and with the float model; also return notes for people.

    ``images`` is a folder of photos (None: the sample photos). None where no runtime here can run the engine; a note
    then has the reason, as it has for a runtime that is passed over because it does not compute what the graph says.
    ProofError where answers are not finite that the float model has.
    """
    pixels_NHWC = photo_pixels(engine.contract.preprocessing, images)
    try:
        expected_NK, _, _ = _answer(
            Engine(f"{engine.name} (float model)", float_onnx, engine.contract, "fp32", None), pixels_NHWC
        )
        found_NK, runtime, notes = _answer(engine, pixels_NHWC)
    except DeployError as exc:
        return None, [f"not verified on photos: {exc}"]
    finite_N, expected_N = np.isfinite(found_NK).all(axis=1), np.isfinite(expected_NK).all(axis=1)
    if (lost := int((expected_N & ~finite_N).sum())) > 0:
        raise ProofError(
            f"{engine.name}: not written: its answers for {lost} of {len(pixels_NHWC)} photos are not finite, those of "
            "the float model are: numbers inside exceed the range of float16; build without `fp16`"
        )
    both_N = finite_N & expected_N
    if not both_N.any():
        return None, ["not verified on photos: the float model's own answers are not finite"]
    activation = engine.contract.activation
    p_NK, q_NK = activate(found_NK[both_N], activation), activate(expected_NK[both_N], activation)
    return (
        Verification(
            runtime=runtime,
            images=len(p_NK),
            same_answers=int((p_NK.argmax(axis=1) == q_NK.argmax(axis=1)).sum()),
            largest_difference_points=round(100 * float(np.abs(p_NK - q_NK).max()), 4),
        ),
        notes,
    )


def _answer(engine: Engine, pixels_NHWC: NDArray[np.uint8]) -> tuple[NDArray[np.float32], str, list[str]]:
    """Logits, the runtime, and what speaks against the runtimes before it that could open the engine."""
    selected = open_runner(engine)
    with closing(selected.runner) as runner:
        logits_NK = runner(pixels_NHWC)
    doubts = [f"{passed.runtime} is not used: {passed.reason}" for passed in selected.passed_over if passed.doubted]
    return logits_NK, selected.runner.description, doubts
