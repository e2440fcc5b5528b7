"""Settings of ``measure_report`` and ``recommend``; the command line reads its defaults here without SciPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from alexnet_deploy.bundle.store import STORE
from alexnet_deploy.errors import UsageError
from alexnet_deploy.evaluation.max_drop import check_max_drop
from alexnet_deploy.profiling.settings import ProfileSettings

OptionalPart = Literal["latency", "stages", "layers", "environment"]
OPTIONAL_PARTS: tuple[OptionalPart, ...] = get_args(OptionalPart)
"""Parts that ``without`` can leave out."""
PROFILE = ProfileSettings(batch_sizes=(1, 8, 32))
Statistic = Literal["median", "p90", "p95", "p99"]
GALLERY_IMAGES = 24


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """The parts to measure, and the images."""

    data: Path
    """A folder with one subfolder of images per class."""
    photos: Path | None = None
    """Images that the stages are timed on; None: those of ``data``."""
    engines: tuple[str, ...] | None = None
    """Bundles; None: all of the store. In any order: the others are compared with the most precise one."""
    store: Path = STORE
    profile: ProfileSettings = PROFILE
    """Its runtime and threads apply to every part."""
    without: frozenset[OptionalPart] = frozenset()
    allow_calibration_images: bool = False
    command: tuple[str, ...] = ()
    """The command of this request; the report shows it, with absolute paths made relative."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds that a bundle must meet; None: no bound. ``confident``: all of the drop's 95 % interval must."""

    max_ms: float | None = None
    max_drop: float | None = None
    """Points of top-1 below the first engine of the report, the most precise one."""
    max_bytes: float | None = None
    batch: int = 1
    statistic: Statistic = "median"
    confident: bool = False

    def __post_init__(self) -> None:
        for name in ("max_ms", "max_bytes"):
            bound = getattr(self, name)
            if bound is not None and not 0 < bound < math.inf:  # false for NaN
                raise UsageError(f"`{name}` {bound:g}: must be above 0")
        if self.max_drop is not None:
            check_max_drop(self.max_drop)
        if self.confident and self.max_drop is None:
            raise UsageError("`confident` needs `max_drop`; add it")
