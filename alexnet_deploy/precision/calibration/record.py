"""``calibration.json``: the calibration of a bundle, with which anyone can check and repeat it bit for bit."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated

from msgspec import Meta

from alexnet_deploy.contract import ADDED_FIELDS, Precision, Preprocessing
from alexnet_deploy.errors import InputError
from alexnet_deploy.files import is_text, sha256_of
from alexnet_deploy.images.choose import CalibrationSet, images_digest
from alexnet_deploy.json_format import JsonFormat
from alexnet_deploy.precision.types import Method

FORMAT = JsonFormat("calibration record", 2, "build the bundle again", added=ADDED_FIELDS)
"""About 130 bytes per image: 64 MiB hold half a million."""

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Magnitude = Annotated[float, Meta(gt=0)]


@dataclass(frozen=True, slots=True)
class CalibrationImage:
    """One image: its path below the calibration folder, and the hash of its content."""

    file: str
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """Everything that the scales of a quantised bundle depend on, and the measured ranges (none for weights alone)."""

    precision: Precision
    method: Method
    exclude: str | None
    seed: int
    preprocessing: Preprocessing
    weights_sha256: Sha256
    """Of the float ONNX's graph with its weights (``onnx_file.weights_sha256``)."""
    files: tuple[CalibrationImage, ...]
    """In the order in which they calibrated."""
    largest_by_tensor: dict[str, Magnitude]
    """The largest magnitude over all images."""
    threshold_by_tensor: dict[str, Magnitude]
    """The magnitude of the largest quantised number: the method's choice for the range."""
    tools: dict[str, str]

    def __post_init__(self) -> None:
        for image in self.files:
            if not _lies_below(image.file):
                raise ValueError(f"file {image.file!r} does not lie below the folder")
        if self.largest_by_tensor.keys() != self.threshold_by_tensor.keys():
            raise ValueError("ranges and thresholds belong to different tensors")

    @property
    def image_hashes(self) -> frozenset[str]:
        """SHA-256 of the images: an evaluation on any of them is too good."""
        return frozenset(image.sha256 for image in self.files)

    def digest(self) -> str:
        """``images_digest`` of the images."""
        return images_digest(image.sha256 for image in self.files)

    def to_json(self) -> str:
        """The record as JSON, with the number and the digest of the images."""
        head = {"schema": FORMAT.schema, "images": len(self.files), "digest": self.digest()}
        return json.dumps(head | dataclasses.asdict(self), indent=1, allow_nan=False) + "\n"

    def calibration_set(self, root: Path) -> CalibrationSet:
        """The recorded images below ``root``, in their order; InputError where one is missing or has changed."""
        for image in self.files:
            path = root / image.file
            try:
                found = sha256_of(path)
            except OSError as exc:
                raise InputError(
                    f"{path}: is in the record, but cannot be read ({exc.strerror}); name the folder that calibrated "
                    "with `calibration_data`"
                ) from exc
            if found != image.sha256:
                raise InputError(f"{path}: is not the recorded calibration image; restore the recorded one")
        hashes = tuple(image.sha256 for image in self.files)
        return CalibrationSet(root, tuple(root / image.file for image in self.files), hashes, self.seed)


def require_names(chosen: CalibrationSet) -> None:
    """InputError for an image whose name no record can hold; before the work, as the record comes at its end."""
    for image in recorded_files(chosen):
        if not is_text(Path(image.file)):
            raise InputError(
                f"{chosen.root / image.file}: its name is not valid Unicode, which the calibration record cannot hold; "
                "rename it"
            )
        if not _lies_below(image.file):
            raise InputError(
                f"{chosen.root / image.file}: on another system its name is a path out of the folder; rename it"
            )


def recorded_files(chosen: CalibrationSet) -> tuple[CalibrationImage, ...]:
    """``files`` of a record, relative to the folder: the layout of the machine is not published."""
    names = (file.relative_to(chosen.root).as_posix() for file in chosen.files)
    return tuple(map(CalibrationImage, names, chosen.sha256))


def read_record(path: Path) -> CalibrationRecord:
    """Read and check a ``calibration.json``; InputError if it is missing, ArtifactError if it is not valid."""
    computed = {"images": lambda record: len(record.files), "digest": CalibrationRecord.digest}
    try:
        return FORMAT.read(path, CalibrationRecord, computed=computed)
    except FileNotFoundError as exc:
        raise InputError(f"{path}: no such calibration record; name the one of a calibrated bundle") from exc


def _lies_below(name: str) -> bool:
    paths = PurePosixPath(name), PureWindowsPath(name)
    return all(path.name and not path.is_absolute() and ".." not in path.parts for path in paths) and "\0" not in name
