"""The bound ``max_drop`` on the drop of top-1 in points. This module does not load SciPy."""

from __future__ import annotations

from alexnet_deploy.errors import UsageError

_EPSILON = 1e-9
"""Points. 3 of 1000 images are 0.3 points, even if their binary fractions differ."""


def check_max_drop(max_drop: float) -> None:
    """Raise UsageError unless ``max_drop`` is a number of points within 0..100."""
    if not 0 <= max_drop <= 100:  # false for NaN
        raise UsageError(f"`max_drop` {max_drop:g}: must be points of top-1 accuracy within 0..100, such as 0.3")


def holds_max_drop(drop: float, max_drop: float) -> bool:
    """Whether a drop of top-1 by ``drop`` points is within ``max_drop``."""
    return drop <= max_drop + _EPSILON
