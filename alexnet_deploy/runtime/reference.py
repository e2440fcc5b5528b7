"""Whether a runtime computes what the graph says: its answers for photos, beside those of a reference.

The reference is ONNX Runtime on the CPU with basic optimisations alone, which computes each node as the ONNX standard
defines it, Q/DQ and float16 casts in float32. A runtime that fuses wrongly answers at once and looks right; it is
compared once per engine, runtime version and processor.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.machine.cpu import cpu_model
from alexnet_deploy.machine.packages import onnxruntime_version
from alexnet_deploy.precision.types import is_weights_only
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.verification.difference import difference
from alexnet_deploy.verification.photos import photo_pixels
from alexnet_deploy.verification.verdicts import Verdict, remembered

_FLOAT32 = 1e-3
"""Sums in another order differ by 5e-7 of the range of the logits; 1e-3 is a tenth of what one weight changes."""
_FLOAT16 = 3e-2
"""A runtime may keep float32 between layers (OpenVINO: 3e-3), or round sums to float16."""
_QUANTISED = 0.1
"""Of the median image: where a runtime rounds elsewhere, values fall on neighbouring steps (int8 9e-3, fp8 2e-2)."""
_QUANTISED_WORST = 0.4
"""Of the worst image (fp8 9e-2)."""


def reason_against(runner: Runner, engine: Engine, *, tf32: bool = False) -> str | None:
    """Why the answers of ``runner`` for ``engine`` cannot be trusted; None where they are the reference's.

    ``tf32``: float32 products may have the mantissa of float16. None as well where there is no reference: without ONNX
    Runtime, and where ONNX Runtime refuses the model. Raises the
    errors of ``runner``, and ArtifactError if the ONNX file itself has another contract than the engine.
    """
    reference = onnxruntime_version()
    if reference is None:
        return None
    tf32 = tf32 or _plan_allows_tf32(runner, engine)
    key = {
        "compares": "a runtime with the reference",
        "engine": engine.content_sha256(),
        "precision": engine.precision,
        "contract": engine.contract.to_json(),
        "runtime": runner.description,
        "plan": getattr(runner, "plan", None) or "",
        "tf32": str(tf32),
        "device": runner.device,
        "reference": reference,
        "cpu": cpu_model(),
    }
    return remembered(key, lambda: _compare(runner, engine, tf32)).reason


def _compare(runner: Runner, engine: Engine, tf32: bool) -> Verdict:
    from alexnet_deploy.runtime.onnxruntime.runner import OnnxRuntimeRunner
    from alexnet_deploy.runtime.runner import AnyBatch

    pixels_NHWC = photo_pixels(engine.contract.preprocessing)
    found_NK = runner(pixels_NHWC)
    try:
        reference = OnnxRuntimeRunner(engine.onnx_path, engine.contract, precision=engine.precision, exact=True)
        reference_NK = AnyBatch(reference, engine.name)(pixels_NHWC)
    except InputError:
        return Verdict(None)
    _refuse_other_contract(reference.recorded_contract(), engine)
    differs = difference(found_NK, reference_NK, centre=engine.contract.activation == "softmax")
    if engine.precision == "fp32" and not tf32:
        agrees = differs.largest <= _FLOAT32
    elif engine.precision in ("fp32", "fp16") or is_weights_only(engine.precision):
        agrees = differs.largest <= _FLOAT16
    else:
        few_changed = 2 * differs.changed <= len(pixels_NHWC)
        agrees = differs.median <= _QUANTISED and differs.largest <= _QUANTISED_WORST and few_changed
    if agrees:
        return Verdict(None)
    if not np.isfinite(differs.largest):
        return Verdict("its logits are finite for other photos than the ONNX's")
    return Verdict(
        f"its logits for {len(pixels_NHWC)} photos differ by up to {differs.largest:.1%} of their range from what the "
        f"ONNX says, and {differs.changed} first classes are others"
    )


def _refuse_other_contract(recorded: str | None, engine: Engine) -> None:
    """ArtifactError for a bundle whose labels or preprocessing are not those of its model, temperature apart."""
    if recorded is None:
        return
    contract = ModelContract.from_json(recorded, source=str(engine.onnx_path))
    if replace(contract, temperature=engine.contract.temperature) != engine.contract:
        raise ArtifactError(
            f"{engine.onnx_path}: has another contract than its bundle: one of them was exchanged; build the bundle "
            "again"
        )


def _plan_allows_tf32(runner: Runner, engine: Engine) -> bool:
    """Whether a TensorRT plan runs that may round so. One without a record has TensorRT's default, which does."""
    loaded = getattr(runner, "plan", None)
    return any(plan.file == loaded and (plan.options is None or plan.options.tf32) for plan, _ in engine.plans)
