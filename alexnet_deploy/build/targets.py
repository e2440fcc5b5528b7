"""The GPUs that a build makes plans for, and the TensorRT that makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alexnet_deploy.errors import UnavailableError, UsageError
from alexnet_deploy.runtime.cuda.device import current_capability
from alexnet_deploy.runtime.tensorrt.library import FULL, RTX, TensorRT, installed
from alexnet_deploy.runtime.tensorrt.support import (
    RTX_TARGETS,
    is_limit,
    package_for,
    require_capability,
    why_not_built,
    why_unsupported,
)

PORTABLE = "portable"
"""One plan for every RTX GPU since Ampere (sm80): what TensorRT-RTX builds if no capability is set."""

TARGETS = (*RTX_TARGETS, PORTABLE, "all", "current")
"""Values of ``BuildSettings.targets``, besides names of GPUs (``tensorrt_support.GPUS``) and other capabilities."""


def choose_builder(targets: Sequence[str] = ()) -> tuple[TensorRT, tuple[str, ...]]:
    """The TensorRT that builds for ``targets``, and what they stand for: compute capabilities and ``portable``.

    If the full TensorRT is installed and the only target is the GPU of this machine, it is preferred: it tunes on the
    device. Not where the documents say that it does not support this GPU, and that TensorRT-RTX does. Raises UsageError
    for a target that is unknown or that no installed TensorRT builds for, UnavailableError without TensorRT, for
    ``current`` without a GPU, and without targets where nothing can be built for this machine.
    """
    asked = [target if target in TARGETS else require_capability(target, TARGETS) for target in targets]
    given = {
        target: name if name == target else f"{name} ({target})" for target, name in zip(asked, targets, strict=True)
    }
    libraries = installed()
    if not targets and libraries and (reason := why_no_plan_here()) is not None:
        raise UnavailableError(reason)
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
    if FULL in libraries and here is not None and [*chosen] == [here] and not _rather_rtx(libraries, here):
        return libraries[FULL], tuple(chosen)
    for target in chosen:
        if RTX not in libraries:
            raise UnavailableError(
                f"`targets` {given.get(target, target)}: {libraries[FULL]} builds only for its own GPU "
                f"({here or 'none installed'}); pip install 'alexnet-deploy[rtx]' builds ahead of time"
            )
        if target not in (*RTX_TARGETS, PORTABLE):
            error = UnavailableError if target == here else UsageError
            raise error(
                f"`targets` {given.get(target, target)}: {libraries[RTX]} builds for {', '.join(RTX_TARGETS)}; "
                f"{package_for(target)}"
            )
    return libraries[RTX], tuple(chosen)


def _rather_rtx(libraries: Mapping[str, TensorRT], here: str) -> bool:
    """Whether of both, by the documents, TensorRT-RTX alone supports the GPU at hand."""
    if RTX not in libraries or why_not_built(RTX, libraries[RTX].version, here) is not None:
        return False
    return why_unsupported(FULL, libraries[FULL].version, here) is not None


def why_no_plan_here() -> str | None:
    """Why a build that names no target has no plan for this machine; None if it may have one.

    The full TensorRT judges its own GPU, so for that nothing is said before it has tried.
    """
    libraries = installed()
    if not libraries:
        return "TensorRT is not installed; pip install 'alexnet-deploy[rtx]' builds plans on any machine"
    here = current_capability()
    if here is None and RTX not in libraries:
        return (
            f"{libraries[FULL]} builds only for the GPU of its machine, and CUDA opens none here; "
            "pip install 'alexnet-deploy[rtx]' builds ahead of time"
        )
    if here is None or FULL in libraries:
        return None
    return why_not_built(RTX, libraries[RTX].version, here)


def is_limit_here(precision: str) -> bool:
    """Whether the TensorRT that builds here promises no plan of ``precision`` for the GPU at hand.

    A build that names no target and fails is then no fault.
    """
    here = current_capability()
    if here is None:
        return False
    library, _ = choose_builder()
    return is_limit(library.name, library.version, here, precision)
