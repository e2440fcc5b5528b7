"""The options of a plan, set on TensorRT's builder config; and the timing cache of the full TensorRT.

What TensorRT-RTX does with each was tried with its builder 1.7.1, which needs no GPU: it keeps to ``workspace_mib`` and
``profiles``, and its plans do not depend on the other two levels. Whether it obeys ``tf32`` is decided on the GPU.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alexnet_deploy.build.settings import BuildSettings
from alexnet_deploy.bundle.plan_options import PlanOptions, span
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import DeployError, UsageError
from alexnet_deploy.files import atomic_file
from alexnet_deploy.precision.float_model import FloatModel
from alexnet_deploy.runtime.tensorrt.library import RTX, TensorRT

_log = logging.getLogger(__name__)

_MOST_PIXELS = (1 << 31) - 1
"""Bytes. TensorRT-RTX 1.7.1 takes 4294967304 images for 8, and builds a plan for them."""
_LARGEST_CACHE = 256 << 20
"""Bytes. A timing cache of a network has some hundred KiB."""


def check_options(options: PlanOptions, library: TensorRT) -> None:
    """UsageError for an option that ``library`` does not have."""
    if library.name != RTX:
        return
    if options.hardware_compatible != "none":
        raise UsageError(
            f"`hardware_compatible` {options.hardware_compatible}: is for the full TensorRT; with {library}, "
            "`targets` portable runs on every RTX GPU since sm80"
        )
    if options.version_compatible:
        raise UsageError(
            f"`version_compatible`: is for the full TensorRT; a plan of {library} runs in its own version alone, so "
            "build the bundle again after an update"
        )


def choose_batch(model: FloatModel, settings: BuildSettings) -> BatchProfile:
    """The batch sizes of a bundle: those asked for, the one of a static ``model``, or the default.

    UsageError for some asked for twice, that TensorRT cannot count, or that the model does not take.
    """
    asked = _asked_batch(settings)
    fixed = model.fixed_batch
    if fixed is None:
        batch = asked or BatchProfile()
        require_batch(batch, 3 * model.contract.preprocessing.height * model.contract.preprocessing.width)
        return batch
    if asked is not None and (asked.min, asked.max) != (fixed, fixed):
        raise UsageError(
            f"{model.source}: accepts only batches of {fixed}; leave out `min_batch` and `max_batch`, "
            "or export it with a dynamic batch"
        )
    return BatchProfile(fixed, fixed, fixed)


def _asked_batch(settings: BuildSettings) -> BatchProfile | None:
    spanned = span(settings.plan_options.profiles)
    if spanned is not None and settings.batch is not None:
        raise UsageError(
            "`profiles` sets the batch sizes: leave out `min_batch`, `opt_batch` and `max_batch`, or give them as one "
            "profile"
        )
    return spanned or settings.batch


def require_batch(batch: BatchProfile, image_bytes: int) -> None:
    """UsageError for batches whose pixels, of ``image_bytes`` per image, TensorRT cannot count."""
    most = _MOST_PIXELS // image_bytes
    if batch.max > most:
        raise UsageError(
            f"`max_batch` {batch.max}: the pixels of a batch must fit in 2 GiB, which TensorRT counts in 32 bits; "
            f"choose {most} or less"
        )


def remarks(options: PlanOptions, library: TensorRT) -> tuple[str, ...]:
    """Notes for people: an option that ``library`` accepts and does not use, and what fp32 means with TF32."""
    notes = []
    if library.name == RTX and options.optimization_level is not None:
        notes.append(
            f"`optimization_level` {options.optimization_level} is not used: {library} has no levels, for it compiles "
            "its kernels on the GPU"
        )
    if options.tf32:
        notes.append("float32 layers of the plans may round their operands to 10 bits of mantissa (TF32)")
    return tuple(notes)


def set_options(options: PlanOptions, library: TensorRT, config: Any) -> None:
    """Set ``options``, which ``check_options`` accepts, on an IBuilderConfig; the profiles are set elsewhere."""
    api = library.api
    if not options.tf32:  # TensorRT's own default is TF32, with which fp32 would be called proved
        config.clear_flag(api.BuilderFlag.TF32)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if library.name == RTX:
        return
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.hardware_compatible == "ampere+":
        config.hardware_compatibility_level = api.HardwareCompatibilityLevel.AMPERE_PLUS
    elif options.hardware_compatible == "sameComputeCapability":
        config.hardware_compatibility_level = api.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    if options.version_compatible:
        config.set_flag(api.BuilderFlag.VERSION_COMPATIBLE)


@contextlib.contextmanager
def timing_cache(folder: Path | None, library: TensorRT, config: Any, card: str) -> Iterator[None]:
    """Let a build of the full TensorRT use the timings of earlier ones in ``folder``, and keep its own there.

    One file per version and ``card``. TensorRT itself refuses timings of another GPU, and the build then starts
    without. TensorRT-RTX has no timings: there the API does nothing, and asks for a GPU. A folder that cannot be read
    or written costs only time.
    """
    if folder is None or library.name == RTX:
        yield
        return
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{library.name}-{library.version}-{card}")
    file = folder / f"{name.strip('-')}.cache"
    timings = b""
    with contextlib.suppress(OSError):
        if file.stat().st_size <= _LARGEST_CACHE:
            timings = file.read_bytes()
    cache = config.create_timing_cache(timings)
    if cache is None or not config.set_timing_cache(cache, False):
        _log.debug("%s: %s does not accept it", file, library)
        timings = b""
        cache = config.create_timing_cache(timings)
        if cache is None or not config.set_timing_cache(cache, False):
            yield
            return
    yield
    kept = bytes(cache.serialize())
    if kept == timings:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as temporary:
            temporary.write_bytes(kept)
    except (DeployError, OSError) as exc:
        _log.debug("%s: not written: %s", file, exc)
