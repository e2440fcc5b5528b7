"""Tensor ranges kept between runs: the same images need not run through the same weights again.

An entry holds a ``TensorRange`` per tensor, from which every method chooses its thresholds. An entry is used only where
weights, preprocessing, images in their order, batch size, tensors, bins and tool versions are all the same: they are
its key. The entry holds the key, and its file name is the SHA-256 of the key. A damaged entry counts as missing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.files import atomic_file, cache_folder, open_regular
from alexnet_deploy.precision.calibration.thresholds import BINS, TensorRange

SCHEMA = 1
MAX_ENTRY_BYTES = 64 << 20
"""About 10 KiB per tensor; networks have some hundred at most."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CalibrationCache:
    """A folder of entries, and the part of the key that is known before the model is read."""

    folder: Path
    run: Mapping[str, Any]
    """Preprocessing, images, batch size and tool versions, as JSON values."""

    def load(self, weights_sha256: str, tensors: tuple[str, ...], *, histograms: bool) -> dict[str, TensorRange] | None:
        """The ranges of ``tensors``; None without a valid entry of this key, or if it has no ``histograms``."""
        key = self._key(weights_sha256, tensors)
        path = self._path(key)
        try:
            with open_regular(path) as stream:
                text = stream.read(MAX_ENTRY_BYTES + 1)
            if len(text) > MAX_ENTRY_BYTES:
                raise ValueError("too large")
            digest, _, content = text.partition(b"\n")
            if hashlib.sha256(content).hexdigest().encode() != digest:
                raise ValueError("its checksum differs")
            entry = json.loads(content)
            if entry["key"] != key:
                raise ValueError("it has another key")
            ranges = {name: _checked_range(*entry["values"][name]) for name in tensors}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as exc:
            _log.info("calibration cache: %s is ignored (%s)", path, exc)
            return None
        return ranges if not histograms or all(r.histogram is not None for r in ranges.values()) else None

    def save(self, weights_sha256: str, ranges: Mapping[str, TensorRange]) -> None:
        """Write an entry, whole or not at all; a folder that cannot be written is ignored."""
        key = self._key(weights_sha256, tuple(ranges))
        rows = {
            name: (r.lowest, r.highest, None if r.histogram is None else r.histogram.tolist())
            for name, r in ranges.items()
        }
        content = json.dumps({"key": key, "values": rows}, allow_nan=False).encode()
        try:
            with atomic_file(self._path(key)) as temporary:
                temporary.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        except (UnavailableError, OSError) as exc:  # OSError: another container took our workspace for its own
            _log.info("calibration cache: not written (%s)", exc)

    def _key(self, weights_sha256: str, tensors: tuple[str, ...]) -> dict[str, Any]:
        # Through JSON, so it equals a key that was read.
        key = {"schema": SCHEMA, "bins": BINS, "weights": weights_sha256, "tensors": tensors, "run": dict(self.run)}
        found: dict[str, Any] = json.loads(json.dumps(key))
        return found

    def _path(self, key: dict[str, Any]) -> Path:
        return self.folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()}.json"


def default_folder() -> Path | None:
    """The user's folder for entries; None if the user has no home directory."""
    try:
        return cache_folder() / "calibration"
    except UnavailableError:
        return None


def _checked_range(lowest: float, highest: float, counts: list[int] | None) -> TensorRange:
    """The range; ValueError or TypeError for numbers that no run can measure."""
    if not (math.isfinite(lowest) and math.isfinite(highest) and lowest <= highest):
        raise ValueError("a range is not valid")
    if counts is None:
        return TensorRange(lowest, highest, None)
    histogram = np.array(counts)
    if histogram.shape != (BINS,) or histogram.dtype != np.int64 or histogram.min() < 0 or not histogram.any():
        raise ValueError("a histogram is not valid")
    return TensorRange(float(lowest), float(highest), histogram)
