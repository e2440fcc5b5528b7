"""The original ONNX of another tool beside what ``adopt`` made of it, on photos."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from alexnet_deploy.adoption.adopt import adopt_with_notes
from alexnet_deploy.adoption.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError, ProofError, one_line
from alexnet_deploy.files import sha256_of
from alexnet_deploy.machine.packages import onnxruntime_version
from alexnet_deploy.onnx_graph.onnx_file import contract_in, fixed_batch, load_onnx
from alexnet_deploy.verification.photos import photo_pixels
from alexnet_deploy.verification.scores import against_scores
from alexnet_deploy.verification.verdicts import Verdict, remembered

# Legend: N image, H height, W width, C channel, K class

_EXACT = 1e-3
"""Share of the range of the logits, or of probability 1: the same float32 products in another order differ by 1e-6."""
_ROUNDED = 2e-2
"""The same where the original computes in float16 or on quantised values, which round apart (float16: 5e-3)."""
_NOT_EXACT = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.UINT8)


def adopt_verified(
    onnx_path: Path,
    out: Path,
    import_options: ImportOptions = NO_IMPORT_OPTIONS,
    *,
    verify: bool = True,
    images: Path | None = None,
) -> tuple[ModelContract, tuple[str, ...]]:
    """``adopt``, then run the original and ``out`` on photos (``images``; None: the sample photos) and compare.

    Returns the contract, and notes for people. The original gets its input from an implementation of its own, so an
    error in the nodes that ``adopt`` adds is found as well. Both are run by ONNX Runtime, once per content and version.

    Raises the errors of ``adopt``, InputError for a model whose answers depend on the other images of the batch or
    change from call to call, and ProofError where the answers of the two differ.
    """
    contract, notes = adopt_with_notes(onnx_path, out, import_options)
    if not verify:
        return contract, notes
    version = onnxruntime_version()
    if version is None:
        return contract, (*notes, "not verified on photos: ONNX Runtime is not installed")
    # The sample photos belong to the version of this package; decoding them would cost time in every later run.
    photos = (
        "" if images is None else hashlib.sha256(photo_pixels(contract.preprocessing, images).tobytes()).hexdigest()
    )
    key = {
        "compares": "an import with its original",
        "original": sha256_of(onnx_path),
        "imported": sha256_of(out),
        "options": repr(import_options),
        "photos": photos,
        "runtime": version,
    }
    verdict = remembered(key, lambda: _compare(onnx_path, out, contract, import_options, images))
    if verdict.reason is not None:
        raise ProofError(f"{onnx_path}: {verdict.reason}")
    return contract, (*notes, *verdict.notes)


def _compare(
    onnx_path: Path, out: Path, contract: ModelContract, options: ImportOptions, images: Path | None
) -> Verdict:
    # Late, as they import ONNX Runtime
    from alexnet_deploy.onnx_graph.taps import TensorSession
    from alexnet_deploy.verification.original import original_scores
    from alexnet_deploy.verification.rows import against_rows

    pixels_NHWC = photo_pixels(contract.preprocessing, images)
    ours = load_onnx(out)
    session = TensorSession(ours, [contract.output_name], source=str(onnx_path))
    logits_NK = session(pixels_NHWC)[contract.output_name]
    if logits_NK.shape != (len(pixels_NHWC), len(contract.labels)):
        return Verdict(
            f"returns {list(logits_NK.shape)} for {len(pixels_NHWC)} images, but its contract has "
            f"{len(contract.labels)} classes; export it again"
        )
    lost = int((~np.isfinite(logits_NK).all(axis=1)).sum())
    if lost == len(logits_NK):
        return Verdict(
            f"its scores are not finite for any of {lost} photos; export it from a sound checkpoint, and mask classes "
            "with a large negative number instead of infinity"
        )
    notes = (f"its scores are not finite for {lost} of {len(logits_NK)} photos: such images will fail",) if lost else ()
    original = load_onnx(onnx_path)
    limit = _ROUNDED if _rounds(ours) or _rounds(original) else _EXACT
    if (reason := against_rows(ours, session, contract, pixels_NHWC, logits_NK, limit)) is not None:
        return Verdict(reason)
    if contract_in(original, source=str(onnx_path)) is not None:
        return Verdict(None, notes)
    try:
        scores_NK = original_scores(
            original, onnx_path, options, contract.preprocessing, pixels_NHWC, batch=fixed_batch(ours)
        )
    except InputError as exc:
        return Verdict(None, (*notes, f"not compared with the original: {one_line(exc)}"), may_change=True)
    finite_N = np.isfinite(logits_NK).all(axis=1) & np.isfinite(scores_NK).all(axis=1)
    reason = against_scores(scores_NK[finite_N], logits_NK[finite_N], contract, options.activation, limit)
    return Verdict(reason, notes)


def _rounds(model: onnx.ModelProto) -> bool:
    return any(tensor.data_type in _NOT_EXACT for tensor in model.graph.initializer) or any(
        node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear")
        or any(attribute.name == "to" and attribute.i in _NOT_EXACT for attribute in node.attribute)
        for node in model.graph.node
    )
