"""``calibration.json``: what calibrated a bundle, so that it can be checked, and made again bit by bit.

A record is read as an untrusted file: its size is bounded, every field is checked, its file names stay below the
folder that the caller names.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from alexnet_deploy.contract import Precision, Preprocessing
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.images.choose import CalibrationSet, images_digest
from alexnet_deploy.precision.thresholds import METHODS, Method

SCHEMA = 2
MAX_RECORD_BYTES = 64 << 20
"""Some 130 bytes an image: room for half a million."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """Everything that the scales of a quantised bundle depend on, and the ranges that came of it."""

    precision: Precision
    method: Method
    exclude: str | None
    seed: int
    preprocessing: Preprocessing
    weights_sha256: str
    """Of the float ONNX's graph with its weights (``precision.weights_sha256``)."""
    files: tuple[tuple[str, str], ...]
    """Path below the calibration folder and SHA-256 of each image, in the order in which they calibrated."""
    largest_by_tensor: dict[str, float]
    """The largest magnitude over all images."""
    threshold_by_tensor: dict[str, float]
    """The magnitude that the largest quantised number stands for: what the method made of the range."""
    tools: dict[str, str]

    @property
    def image_hashes(self) -> frozenset[str]:
        """SHA-256 of the images: an evaluation on any of them would praise itself."""
        return frozenset(sha256 for _, sha256 in self.files)

    def to_json(self) -> str:
        """The record as JSON, with the digest of the images in their order."""
        raw = dataclasses.asdict(self)
        raw["files"] = [{"file": file, "sha256": sha256} for file, sha256 in self.files]
        head = {"schema": SCHEMA, "images": len(self.files), "digest": self._digest()}
        return json.dumps(head | raw, indent=1, allow_nan=False) + "\n"

    def calibration_set(self, root: Path) -> CalibrationSet:
        """The recorded images below ``root``, in the recorded order; InputError where one is missing or another."""
        for name, sha256 in self.files:
            try:
                found = sha256_of(root / name)
            except OSError as exc:
                raise InputError(
                    f"{root / name}: is in the record and cannot be read ({exc.strerror}); name the folder that "
                    "calibrated with --calibration-data"
                ) from exc
            if found != sha256:
                raise InputError(f"{root / name}: is not the image that calibrated; get the recorded one back")
        return CalibrationSet(
            root, tuple(root / name for name, _ in self.files), tuple(sha256 for _, sha256 in self.files), self.seed
        )

    def _digest(self) -> str:
        return images_digest(sha256 for _, sha256 in self.files)


def recorded_files(chosen: CalibrationSet) -> tuple[tuple[str, str], ...]:
    """``files`` of a record: relative to the folder, so that no machine's layout is published."""
    names = (file.relative_to(chosen.root).as_posix() for file in chosen.files)
    return tuple(zip(names, chosen.sha256, strict=True))


def read_record(path: Path) -> CalibrationRecord:
    """Read and check a ``calibration.json``; InputError where there is none, ArtifactError where it is not valid."""
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_RECORD_BYTES + 1)
    except OSError as exc:
        raise InputError(f"{path}: no calibration record can be read there ({exc.strerror}); name a bundle's") from exc
    if len(text) > MAX_RECORD_BYTES:
        raise ArtifactError(f"{path}: too large for a calibration record; build the bundle again")
    try:
        raw: dict[str, Any] = json.loads(text)
        schema = raw.pop("schema")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ArtifactError(f"{path}: is not a calibration record ({exc}); build the bundle again") from exc
    if schema != SCHEMA:
        raise ArtifactError(
            f"{path}: calibration record of schema {schema}, this version reads {SCHEMA}; build the bundle again, "
            "or use the alexnet-deploy that wrote it"
        )
    try:
        return _checked(raw)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as exc:
        raise ArtifactError(f"{path}: is not a valid calibration record ({exc}); build the bundle again") from exc


def _checked(raw: dict[str, Any]) -> CalibrationRecord:
    """The record in ``raw``; ValueError, TypeError, KeyError or OverflowError where it is none."""
    count, digest = raw.pop("images"), raw.pop("digest")
    pre = raw.pop("preprocessing")
    record = CalibrationRecord(
        preprocessing=Preprocessing(**(pre | {key: tuple(map(float, pre[key])) for key in ("mean", "std")})),
        files=tuple((_inside(row["file"]), _hash(row["sha256"])) for row in raw.pop("files")),
        largest_by_tensor=_magnitudes(raw.pop("largest_by_tensor")),
        threshold_by_tensor=_magnitudes(raw.pop("threshold_by_tensor")),
        **raw,
    )
    if record.precision not in get_args(Precision) or record.method not in METHODS:
        raise ValueError(f"precision {record.precision!r} by {record.method!r} is unknown")
    _hash(record.weights_sha256)
    if type(record.seed) is not int or not isinstance(record.exclude, str | None):
        raise ValueError("seed or exclude is of another type")
    # TypeError for what is not text, UnicodeEncodeError (a ValueError) for text that no file can hold.
    "".join((record.exclude or "", *record.tools.keys(), *record.tools.values())).encode()
    if count != len(record.files) or digest != record._digest():
        raise ValueError("its list of images is not the one that its digest is of")
    if record.largest_by_tensor.keys() != record.threshold_by_tensor.keys():
        raise ValueError("ranges and thresholds are of other tensors")
    return record


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.name:
        raise ValueError(f"file {name!r} does not lie below the folder")
    return name


def _hash(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise ValueError(f"{text!r} is no SHA-256")
    return text


def _magnitudes(raw: dict[str, Any]) -> dict[str, float]:
    for name, value in raw.items():
        if type(value) not in (int, float) or not (math.isfinite(value) and value > 0):
            raise ValueError(f"{value!r} of tensor {name!r} is no magnitude")
    return {name: float(value) for name, value in raw.items()}
