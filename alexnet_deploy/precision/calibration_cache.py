"""Calibration values kept between runs: a run over the same images through the same weights need not be repeated.

An entry holds what the tensors held (``thresholds.Values``); from that, every method picks its thresholds anew. The
name is the SHA-256 of the key, and the key stands inside: an entry is used only where weights, preprocessing, images
in their order, batch size, tensors, bins and tool versions are all the same. What is damaged counts as not there.
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
from alexnet_deploy.files import atomic_file, cache_folder
from alexnet_deploy.precision.thresholds import BINS, Values

SCHEMA = 1
MAX_ENTRY_BYTES = 64 << 20
"""A tensor takes some 10 KiB; networks have hundreds at most."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CalibrationCache:
    """A folder of entries, and the part of the key that is known before the model is read."""

    folder: Path
    run: Mapping[str, Any]
    """JSON of what feeds the model and computes it: preprocessing, images, batch, tools."""

    def load(self, weights_sha256: str, tensors: tuple[str, ...], *, histograms: bool) -> dict[str, Values] | None:
        """The values of ``tensors``; None without a sound entry of exactly this key, that has histograms if asked."""
        key = self._key(weights_sha256, tensors)
        path = self._path(key)
        try:
            with path.open("rb") as stream:
                text = stream.read(MAX_ENTRY_BYTES + 1)
            if len(text) > MAX_ENTRY_BYTES:
                raise ValueError("too large")
            digest, _, content = text.partition(b"\n")
            if hashlib.sha256(content).hexdigest().encode() != digest:
                raise ValueError("its checksum differs")
            entry = json.loads(content)
            if entry["key"] != key:
                raise ValueError("it has another key")
            values = {name: _values(*entry["values"][name]) for name in tensors}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as exc:
            _log.info("calibration cache: %s is passed over (%s)", path, exc)
            return None
        return values if not histograms or all(v.histogram is not None for v in values.values()) else None

    def save(self, weights_sha256: str, values: Mapping[str, Values]) -> None:
        """Write an entry, whole or not at all; a cache that cannot be written costs time later and nothing else."""
        key = self._key(weights_sha256, tuple(values))
        rows = {
            name: (v.lowest, v.highest, None if v.histogram is None else v.histogram.tolist())
            for name, v in values.items()
        }
        content = json.dumps({"key": key, "values": rows}, allow_nan=False).encode()
        try:
            with atomic_file(self._path(key)) as temporary:
                temporary.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        except (UnavailableError, OSError) as exc:  # OSError: another container took our workspace for its own
            _log.info("calibration cache: not written (%s)", exc)

    def _key(self, weights_sha256: str, tensors: tuple[str, ...]) -> dict[str, Any]:
        # Through JSON, so that it compares equal to one that was read.
        key = {"schema": SCHEMA, "bins": BINS, "weights": weights_sha256, "tensors": tensors, "run": dict(self.run)}
        found: dict[str, Any] = json.loads(json.dumps(key))
        return found

    def _path(self, key: dict[str, Any]) -> Path:
        return self.folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()}.json"


def default_folder() -> Path | None:
    """Where the command line keeps entries; None for a user without a home, who does without."""
    try:
        return cache_folder() / "calibration"
    except UnavailableError:
        return None


def _values(lowest: float, highest: float, counts: list[int] | None) -> Values:
    """Checked ``Values``; ValueError or TypeError for what no run can have given."""
    if not (math.isfinite(lowest) and math.isfinite(highest) and lowest <= highest):
        raise ValueError("its range is none")
    if counts is None:
        return Values(lowest, highest, None)
    histogram = np.array(counts)
    if histogram.shape != (BINS,) or histogram.dtype != np.int64 or histogram.min() < 0 or not histogram.any():
        raise ValueError("its histogram is none")
    return Values(float(lowest), float(highest), histogram)
