"""Options of a TensorRT plan besides its target and precision, as a bundle records them.

Each has the meaning of a flag of trtexec, NVIDIA's own command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import UsageError, require_one_of, require_positive

HardwareCompatibility = Literal["none", "ampere+", "sameComputeCapability"]
"""GPUs besides the one that builds: every one since Ampere, or all models of its compute capability."""

MAX_OPTIMIZATION_LEVEL = 5
MAX_PROFILES = 8
"""Each profile costs a build of the network and, when it runs, an execution context with its own memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """Options of one plan. Raises UsageError for a value out of range, and for profiles with a gap between them."""

    hardware_compatible: HardwareCompatibility = "none"
    """``"ampere+"`` and ``"sameComputeCapability"`` cost speed; full TensorRT only."""
    version_compatible: bool = False
    """The plan runs in later versions as well. It then contains code of TensorRT; full TensorRT only."""
    optimization_level: int | None = None
    """0 builds fastest, 5 searches longest; None: the library's own, 3."""
    workspace_mib: int | None = None
    """Most memory for a layer's intermediate results, in MiB; None: no limit but the GPU's."""
    tf32: bool = False
    """Round the operands of float32 products to 10 bits of mantissa (TF32), which is faster."""
    profiles: tuple[BatchProfile, ...] = ()
    """Batch sizes with kernels of their own each; empty: one profile, the bundle's batch."""

    def __post_init__(self) -> None:
        require_one_of(("none", "ampere+", "sameComputeCapability"), hardware_compatible=self.hardware_compatible)
        if self.optimization_level is not None and not 0 <= self.optimization_level <= MAX_OPTIMIZATION_LEVEL:
            raise UsageError(
                f"`optimization_level` {self.optimization_level}: choose from 0 (fast build) to "
                f"{MAX_OPTIMIZATION_LEVEL} (longest search)"
            )
        require_positive(workspace=self.workspace_mib)
        if len(self.profiles) > MAX_PROFILES:
            raise UsageError(f"`profiles`: {len(self.profiles)} are more than {MAX_PROFILES}; give fewer")
        span(self.profiles)


def span(profiles: Sequence[BatchProfile]) -> BatchProfile | None:
    """Every batch size of ``profiles``, with the ``opt`` of the widest; None without any; UsageError for a gap."""
    if not profiles:
        return None
    reached = 0
    for profile in sorted(profiles, key=lambda each: (each.min, each.max)):
        if reached and profile.min > reached + 1:
            raise UsageError(
                f"`profiles`: no profile has batches of {reached + 1}..{profile.min - 1}; "
                "let the profiles meet or overlap"
            )
        reached = max(reached, profile.max)
    widest = max(profiles, key=lambda each: each.max - each.min)
    return BatchProfile(min(each.min for each in profiles), widest.opt, reached)


def profile_for(profiles: Sequence[BatchProfile], count: int) -> int:
    """Index of the narrowest profile with batches of ``count``, the first of equals; 0 without profiles."""
    fitting = [(each.max - each.min, index) for index, each in enumerate(profiles) if each.min <= count <= each.max]
    return min(fitting)[1] if fitting else 0


DEFAULT_OPTIONS = PlanOptions()
