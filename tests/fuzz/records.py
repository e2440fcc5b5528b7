"""JSON that this package wrote: a changed record is refused, or is read as what it says."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alexnet_deploy.bundle.manifest import CONFIDENCE
from alexnet_deploy.contract import ADDED_FIELDS, METADATA_KEY, ModelContract, Preprocessing
from alexnet_deploy.evaluation.calibration_error import reliability_bins
from alexnet_deploy.evaluation.confidence.record import ConfidenceRecord, Quality, read_confidence
from alexnet_deploy.precision.calibration.record import CalibrationImage, CalibrationRecord, read_record
from alexnet_deploy.report.file import read_report, to_json
from alexnet_deploy.report.page import render_page
from tests.fuzz.kind import Case, WrongError
from tests.fuzz.mutate import damaged_json, json_text, same_json
from tests.helpers.report_sample import sample_report

CONTRACT = ModelContract("alexnet", ("cat", "dog", "a cow"), ("n1", "n2", "n3"), temperature=1.5)


class RecordKind:
    """One kind of record."""

    share = 2.0

    def __init__(self, name: str, file: str, text: Callable[[], str], read: Callable[[Path], str]) -> None:
        """``read`` reads the file of that name in a folder, and returns the JSON of what it read."""
        self.name = f"records/{name}"
        self._file = file
        self._text = text
        self._read = read

    def prepare(self, folder: Path) -> None:
        self._sound = json.loads(self._text())

    def make(self, rng: random.Random, folder: Path) -> Case:
        changed, what = damaged_json(self._sound, rng)
        if rng.random() < 0.05:
            changed, what = self._sound, "nothing"
        text, how = json_text(changed, rng)
        (folder / self._file).write_bytes(text)

        def read() -> None:
            found = json.loads(self._read(folder))
            try:
                says = json.loads(text.removeprefix(b"\xef\xbb\xbf"))
            except ValueError as exc:
                raise WrongError(f"accepted, and is no JSON: {exc}") from exc
            if (where := _contradiction(says, found)) is not None:
                raise WrongError(where)

        return Case(f"{what} {how}", read)


def _contradiction(says: Any, found: Any, where: str = "") -> str | None:
    """Where what was read is not what the file says; a field that the file lacks must have a default."""
    if isinstance(says, dict) and isinstance(found, dict):
        for key in says.keys() | found.keys():
            if key not in found:
                return f"{where}.{key} was ignored"
            if key not in says and key not in ADDED_FIELDS and found[key] not in (None, [], {}):
                return f"{where}.{key} is {found[key]!r}, and the file has none"
            if key in says and (inner := _contradiction(says[key], found[key], f"{where}.{key}")) is not None:
                return inner
        return None
    if isinstance(says, list) and isinstance(found, list) and len(says) == len(found):
        return next(
            (at for s, f in zip(says, found, strict=True) if (at := _contradiction(s, f, where)) is not None), None
        )
    return None if same_json(says, found) else f"{where}: {str(says)[:60]!r} was read as {str(found)[:60]!r}"


def _calibration() -> str:
    return CalibrationRecord(
        precision="int8", method="entropy", exclude=None, seed=3, preprocessing=Preprocessing(),
        weights_sha256="ab" * 32, files=tuple(CalibrationImage(f"ant/{i}.png", f"{i:064x}") for i in range(4)),
        largest_by_tensor={"pixels/nchw": 2.5, "relu": 1 / 3}, threshold_by_tensor={"pixels/nchw": 2.25, "relu": 0.1},
        tools={"alexnet-deploy": "1.0"},
    ).to_json()  # fmt: skip


def _confidence() -> str:
    import numpy as np

    rng = np.random.default_rng(0)
    bins = reliability_bins(rng.uniform(0.3, 1, 40), rng.random(40) < 0.7)
    quality = Quality(0.5, 3.0, bins)
    hashes = tuple(f"{i:064x}" for i in range(3))
    return ConfidenceRecord(CONTRACT.temperature, 3, hashes, quality, quality, "any", {"onnx": "1"}).to_json()


def _read_confidence(folder: Path) -> str:
    record = read_confidence(folder, CONTRACT)
    assert record is not None
    return record.to_json()


def _read_report(folder: Path) -> str:
    report = read_report(folder / "report.json")
    page = render_page(report)
    if "<script>alert" in page:
        raise WrongError("a name in the report runs as a script")
    return to_json(report)


def _read_contract(folder: Path) -> str:
    return ModelContract.from_json((folder / METADATA_KEY).read_bytes(), source="contract").to_json()


def record_kinds() -> list[RecordKind]:
    """One per file that this package writes as JSON, besides the manifest of a bundle."""
    return [
        RecordKind(
            "calibration", "calibration.json", _calibration, lambda f: read_record(f / "calibration.json").to_json()
        ),
        RecordKind("confidence", CONFIDENCE, _confidence, _read_confidence),
        RecordKind("report", "report.json", lambda: to_json(sample_report()), _read_report),
        RecordKind("contract", METADATA_KEY, CONTRACT.to_json, _read_contract),
    ]
