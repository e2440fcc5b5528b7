"""The GPUs that a build makes plans for, and the TensorRT that makes them."""

from __future__ import annotations

from collections.abc import Sequence

from alexnet_deploy.errors import UnavailableError, UsageError
from alexnet_deploy.runtime.cuda.device import current_capability
from alexnet_deploy.runtime.tensorrt.library import FULL, RTX, TensorRT, installed
from alexnet_deploy.runtime.tensorrt.support import (
    RTX_TARGETS,
    is_limit,
    package_for,
    require_capability,
    why_unsupported,
)

PORTABLE = "portable"
"""One plan for every RTX GPU since Ampere (sm80): what TensorRT-RTX builds if no capability is set."""

TARGETS = (*RTX_TARGETS, PORTABLE, "all", "current")
"""Values of ``BuildSettings.targets``, besides names of GPUs (``tensorrt_support.GPUS``) and other capabilities."""


def choose_builder(targets: Sequence[str] = ()) -> tuple[TensorRT, tuple[str, ...]]:
    """The TensorRT that builds for ``targets``, and what they stand for: compute capabilities and ``portable``.

    If the full TensorRT is installed and the only target is the GPU of this machine, it is preferred: it tunes on the
    device. Raises UsageError for a target that is unknown or that no installed TensorRT builds for, UnavailableError
    without TensorRT and for ``current`` without a GPU.
    """
    asked = [target if target in TARGETS else require_capability(target, TARGETS) for target in targets]
    libraries = installed()
    if not libraries:
        raise UnavailableError(
            "no TensorRT is installed: pip install 'alexnet-deploy[rtx]' builds plans on any machine, "
            "'alexnet-deploy[gpu]' for the GPU of this one"
        )
    here = current_capability()
    chosen: dict[str, None] = {}
    for target in asked or ["current" if here else PORTABLE]:
        if target == "current" and here is None:
            raise UnavailableError(
                "`targets` current: this machine has no usable CUDA GPU; name a GPU, such as rtx4090 or sm89"
            )
        chosen |= dict.fromkeys(RTX_TARGETS if target == "all" else [here or ""] if target == "current" else [target])
    if FULL in libraries and [*chosen] == [here]:
        return libraries[FULL], tuple(chosen)
    for target in chosen:
        if RTX not in libraries:
            raise UnavailableError(
                f"`targets` {target}: {libraries[FULL]} builds only for its own GPU ({here or 'none installed'}); "
                "pip install 'alexnet-deploy[rtx]' builds ahead of time"
            )
        if target not in (*RTX_TARGETS, PORTABLE):
            error = UnavailableError if target == here else UsageError
            raise error(
                f"`targets` {target}: {libraries[RTX]} builds for {', '.join(RTX_TARGETS)}; {package_for(target)}"
            )
    return libraries[RTX], tuple(chosen)


def why_no_plan_here() -> str | None:
    """Why a build that names no target has no plan for this machine; None if it can have one."""
    libraries = installed()
    if not libraries:
        return "TensorRT is not installed; pip install 'alexnet-deploy[rtx]' builds plans on any machine"
    here = current_capability()
    if here is None or FULL in libraries or here in RTX_TARGETS:
        return None
    reason = why_unsupported(RTX, libraries[RTX].version, here)
    return reason or f"{libraries[RTX]} does not know {here}; {package_for(here)}"


def is_limit_here(precision: str) -> bool:
    """Whether TensorRT-RTX promises no plan of ``precision`` for the GPU at hand, so that a failure is no fault."""
    libraries, here = installed(), current_capability()
    if here is None or FULL in libraries or RTX not in libraries:
        return False
    return is_limit(RTX, libraries[RTX].version, here, precision)
