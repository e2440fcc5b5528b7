"""Whether a runtime computes what the graph says: its answers for photos, beside those of a reference.

The reference is ONNX Runtime on the CPU with basic optimisations alone, which computes each node as the ONNX standard
defines it, Q/DQ and float16 casts in float32. A runtime that fuses wrongly answers at once and looks right; it is
compared once per engine, runtime version and processor, or model of GPU and driver.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import Engine, Plan
from alexnet_deploy.bundle.plan_options import profile_for
from alexnet_deploy.bundle.verified import held
from alexnet_deploy.contract import BatchProfile, ModelContract
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.machine.cpu import cpu_flags, cpu_model
from alexnet_deploy.machine.gpu import driver_version
from alexnet_deploy.machine.packages import onnxruntime_version
from alexnet_deploy.precision.types import is_weights_only
from alexnet_deploy.runtime.cuda.captures import is_alone
from alexnet_deploy.runtime.runner import Runner, batch_sizes_of
from alexnet_deploy.runtime.tensorrt.library import RTX
from alexnet_deploy.verification.difference import difference
from alexnet_deploy.verification.photos import photo_pixels
from alexnet_deploy.verification.verdicts import Verdict, remembered

# Legend: N image, H height, W width, C channel (RGB), K class

_FLOAT32 = 1e-3
"""Sums in another order differ by 5e-7 of the range of the logits; 1e-3 is a tenth of what one weight changes."""
_FLOAT16 = 3e-2
"""A runtime may keep float32 between layers (OpenVINO: 3e-3), or round sums to float16."""
_QUANTISED = 0.1
"""Of the median image: where a runtime rounds elsewhere, values fall on neighbouring steps (int8 9e-3, fp8 2e-2)."""
_QUANTISED_WORST = 0.4
"""Of the worst image (fp8 9e-2)."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """``reason`` is why the answers of a runner cannot be trusted; None where they are the reference's."""

    reason: str | None
    compared: bool = False
    """Whether the runner was called for it, and has buffers, graphs and kernels from that; else an earlier one was."""


def judge(
    runner: Runner, engine: Engine, *, tf32: bool = False, mode: str = "", settled: Callable[[], Runner] | None = None
) -> Judgement:
    """Compare the answers of ``runner`` for ``engine`` with those of the reference, unless it is known how they differ.

    ``tf32``: float32 products may have the mantissa of float16. ``mode`` names what else decides which code computes.
    ``settled`` opens a runner that computes from its first call on with the kernels that ``runner`` may change to while
    it runs; the comparison of it closes ``runner``. A GPU is asked for several batch sizes, each more than once (see
    ``_calls``).

    No reason as well where there is no reference: without ONNX Runtime, and where ONNX Runtime refuses the model.
    Raises the errors of ``runner``, and ArtifactError if the ONNX file itself has another contract than the engine.
    """
    reference = onnxruntime_version()
    if reference is None:
        return Judgement(None)
    plan = _plan_of(runner, engine)
    tf32 = tf32 or (plan is not None and _allows_tf32(plan))
    on_gpu = runner.device != "cpu"
    key = {
        "compares": "a runtime with the reference",
        "engine": engine.content_sha256(),
        "precision": engine.precision,
        "contract": engine.contract.to_json(),
        "runtime": runner.description,
        "plan": "" if plan is None else plan.file,
        "tf32": str(tf32),
        "mode": mode,
        "device": runner.device,
        "card": getattr(runner, "card", ""),
        "driver": driver_version() if on_gpu else "",
        "reference": reference,
        "cpu": cpu_model(),
        "instructions": " ".join(sorted(cpu_flags())),  # a virtual machine names its processor vaguely
    }
    compared = False

    def compare() -> Verdict:
        nonlocal compared
        compared = True
        calls = _calls(runner, plan, engine) if on_gpu else None
        with held(engine):  # a verdict on two engines would be remembered
            verdict = _compare(runner, engine, tf32, calls)
            if verdict.reason is not None or settled is None or plan is None or plan.builder != RTX:
                return verdict
            runner.close()
            with closing(settled()) as later:
                return _compare(later, engine, tf32, calls)

    return Judgement(remembered(key, compare).reason, compared)


def judged(
    runner: Runner, engine: Engine, reopen: Callable[[bool], Runner], *, tf32: bool, eager: bool, graphs: bool
) -> tuple[Runner, str | None]:
    """``runner``, and why its answers cannot be trusted (see ``judge``); it is closed if that raises.

    ``reopen(eager)`` opens another one like it, with the ``tf32``, and with the CUDA ``graphs``, that were asked for.
    After a comparison on a GPU it is such a one that is returned, with nothing of the comparison in it: buffers of its
    batch sizes, and graphs that belong to its thread.
    """
    on_gpu, settled, mode = runner.device != "cpu", None, ""
    if runner.runtime == "tensorrt":
        mode = f"eager {eager}"
        settled = None if eager else partial(reopen, True)
    elif on_gpu:
        mode = f"graphs {graphs and is_alone()}"
    try:
        found = judge(runner, engine, tf32=tf32 and runner.runtime == "onnxruntime-cuda", mode=mode, settled=settled)
    except BaseException:
        runner.close()
        raise
    if found.compared and on_gpu:
        runner.close()
        runner = reopen(eager)
    return runner, found.reason


def why_no_tf32(runner: Runner, engine: Engine) -> str | None:
    """Why a wish for TF32 has no effect on ``runner``; None if it has, or if its plan allows TF32 by itself."""
    if runner.runtime == "onnxruntime-cuda":
        return None
    if runner.runtime != "tensorrt":
        return "it runs on the CPU, which computes in full float32"
    plan = _plan_of(runner, engine)
    if plan is None or _allows_tf32(plan):
        return None
    return "its plan was built without; build it with `tf32`"


_REPEATS = 3
"""Calls of one batch size on a GPU: kernel by kernel, as a CUDA graph while it is captured, and replayed."""
_MOST_BYTES = 256 << 20
"""Pixels of one call."""


def _calls(runner: Runner, plan: Plan | None, engine: Engine) -> tuple[int, ...]:
    """The batch sizes to compare on a GPU, ascending: 1, and for each optimisation profile its ``opt`` and ``max``.

    Other sizes have kernels of their own in some runtimes; these are the ones that an engine is tuned for.
    """
    accepted = batch_sizes_of(runner) or engine.batch or BatchProfile()
    profiles = () if plan is None or plan.options is None else plan.options.profiles
    most = _MOST_BYTES // (3 * engine.contract.preprocessing.height * engine.contract.preprocessing.width)
    sizes = {accepted.min}
    for index, profile in enumerate(profiles or (accepted,)):
        own = (size for size in range(profile.min, profile.max + 1) if profile_for(profiles, size) == index)
        wanted = [size for size in (profile.opt, profile.max) if profile_for(profiles, size) == index and size <= most]
        sizes |= set(wanted) or set(itertools.islice(own, 1))
    return tuple(sorted(sizes))


@dataclass(frozen=True, slots=True)
class _Answers:
    """Logits of photos ``which_N``; ``how`` they were asked for, for people."""

    how: str
    which_N: NDArray[np.intp]
    logits_NK: NDArray[np.float32]


def _compare(runner: Runner, engine: Engine, tf32: bool, batch_sizes: tuple[int, ...] | None) -> Verdict:
    """Compare answers for the photos, in one call or in calls of ``batch_sizes``."""
    from alexnet_deploy.runtime.onnxruntime.runner import OnnxRuntimeRunner
    from alexnet_deploy.runtime.runner import AnyBatch

    pixels_NHWC = photo_pixels(engine.contract.preprocessing)
    if batch_sizes is None:
        found = [_Answers("", np.arange(len(pixels_NHWC)), runner(pixels_NHWC))]
    else:
        found = [each for size in batch_sizes for each in _answers(runner, pixels_NHWC, size)]
    try:
        reference = OnnxRuntimeRunner(engine.onnx_path, engine.contract, precision=engine.precision, exact=True)
        reference_NK = AnyBatch(reference, engine.name)(pixels_NHWC)
    except InputError:  # it refuses the model, or has too little memory
        return Verdict(None, may_change=True)
    _refuse_other_contract(reference.recorded_contract(), engine)
    for each in found:
        reason = _differs(each.logits_NK, reference_NK[each.which_N], engine, tf32)
        if reason is not None:
            return Verdict(each.how + reason)
    return Verdict(None)


def _answers(runner: Runner, pixels_NHWC: NDArray[np.uint8], size: int) -> list[_Answers]:
    """The answers in batches of ``size``, in groups of at least all photos.

    No call has the photos of the one before it, whose answers could still stand in its memory.
    """
    photos, how = len(pixels_NHWC), f"in batches of {size}, "
    if size >= photos:
        shifted = [(np.arange(size) + repeat) % photos for repeat in range(_REPEATS)]
        return [_Answers(how, which_N, runner(pixels_NHWC[which_N])) for which_N in shifted]
    which_N = np.arange(max(_REPEATS, -(-photos // size)) * size) % photos
    parts = [runner(pixels_NHWC[which_N[start : start + size]]) for start in range(0, len(which_N), size)]
    return [_Answers(how, which_N, np.concatenate(parts))]


def _differs(
    found_NK: NDArray[np.float32], reference_NK: NDArray[np.float32], engine: Engine, tf32: bool
) -> str | None:
    contract = engine.contract
    has_classes = contract.features is None
    differs = difference(found_NK, reference_NK, centre=has_classes and contract.activation == "softmax")
    if engine.precision == "fp32" and not tf32:
        agrees = differs.largest <= _FLOAT32
    elif engine.precision in ("fp32", "fp16") or is_weights_only(engine.precision):
        agrees = differs.largest <= _FLOAT16
    else:
        few_changed = not has_classes or 2 * differs.changed <= len(found_NK)
        agrees = differs.median <= _QUANTISED and differs.largest <= _QUANTISED_WORST and few_changed
    if agrees:
        return None
    what = "logits" if has_classes else "features"
    if not np.isfinite(differs.largest):
        if (np.isfinite(found_NK).all(axis=1) == np.isfinite(reference_NK).all(axis=1)).all():
            return f"its {what} differ for photos for which the ONNX's have no range"
        return f"its {what} are finite for other photos than the ONNX's"
    others = f", and {differs.changed} first classes are others" if has_classes else ""
    return (
        f"its {what} for {len(found_NK)} photos differ by up to {differs.largest:.1%} of their range from what the "
        f"ONNX says{others}"
    )


def _refuse_other_contract(recorded: str | None, engine: Engine) -> None:
    """ArtifactError for a bundle whose contract is not that of its model; what was fitted to answers may differ."""
    if recorded is None:
        return
    contract = ModelContract.from_json(recorded, source=str(engine.onnx_path))
    if contract.uncalibrated() != engine.contract.uncalibrated():
        raise ArtifactError(
            f"{engine.onnx_path}: has another contract than its bundle: one of them was exchanged; build the bundle "
            "again"
        )


def _allows_tf32(plan: Plan) -> bool:
    """A plan without a record has TensorRT's default, which does."""
    return plan.options is None or plan.options.tf32


def _plan_of(runner: Runner, engine: Engine) -> Plan | None:
    """The TensorRT plan that ``runner`` runs."""
    loaded = getattr(runner, "plan", None)
    return next((plan for plan, _ in engine.plans if plan.file == loaded), None)
