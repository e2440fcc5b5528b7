"""The options of a plan as NVIDIA's trtexec writes them, which people know."""

from __future__ import annotations

from alexnet_deploy.bundle.plan_options import PlanOptions


def as_trtexec(options: PlanOptions) -> tuple[str, ...]:
    """The options that differ from trtexec's defaults, as its flags."""
    flags = []
    if options.hardware_compatible != "none":
        flags.append(f"--hardwareCompatibilityLevel={options.hardware_compatible}")
    if options.version_compatible:
        flags.append("--versionCompatible")
    if options.optimization_level is not None:
        flags.append(f"--builderOptimizationLevel={options.optimization_level}")
    if options.workspace_mib is not None:
        flags.append(f"--memPoolSize=workspace:{options.workspace_mib}")
    if not options.tf32:
        flags.append("--noTF32")
    if len(options.profiles) > 1:
        flags.extend(f"--profile={index}" for index in range(len(options.profiles)))
    return tuple(flags)
