"""Read LoadGen's files: its summary, strictly, and the answers in its accuracy log."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import ArtifactError
from alexnet_deploy.probabilities import predicted_classes

# Legend: N image, K class

_T = TypeVar("_T")

SUMMARY, DETAIL, ACCURACY = "mlperf_log_summary.txt", "mlperf_log_detail.txt", "mlperf_log_accuracy.json"
LOGS = (SUMMARY, DETAIL, ACCURACY)

_ANSWER = np.dtype(np.int32)  # MLPerf's own accuracy-imagenet.py reads it as well, with --dtype int32
_CHECK = re.compile(r"  (\w[\w ]* satisfied) ?: (Yes|NO|Skipped)")
_NUMBER = re.compile(r"(\S.*?)\s*: (-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
_COUNT = re.compile(r"(No|\d+) (warning|error)s? encountered(?: during test\.|\. See detailed log\.)", re.IGNORECASE)
_HEADINGS = ("Per-query latency:",)  # above statistics that are the only ones of their kind
_METRICS = {
    "SingleStream": r"90\.0th percentile latency \(ns\)",
    "MultiStream": r"99\.0th percentile latency \(ns\)",
    "Server": r"(Completed|Scheduled) samples per second",  # which of the two leads differs between versions
    "Offline": r"Samples per second",
}


@dataclass(frozen=True, slots=True)
class Summary:
    """``mlperf_log_summary.txt`` of a performance run; all names are LoadGen's own."""

    scenario: str
    mode: str
    valid: bool
    metric: str
    """Name of the main number of the scenario, such as ``Samples per second``."""
    value: float
    checks: Mapping[str, bool | None]
    """``Min duration satisfied`` and so on; None: skipped."""
    recommendations: tuple[str, ...]
    early_stopping: tuple[str, ...]
    """Sentences of the verdict on the number of queries, and estimates of percentiles in ns."""
    stats: Mapping[str, float]
    parameters: Mapping[str, float]
    warnings: int
    errors: int
    unknown: tuple[str, ...]
    """Lines that could not be read."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons that the result is INVALID: failed checks and LoadGen's recommendations; empty if it is VALID."""
        if self.valid:
            return ()
        failed = tuple(f"{name}: NO" for name, passed in self.checks.items() if passed is False)
        stopped = self.early_stopping if self.checks.get("Early stopping satisfied") is False else ()
        return failed + self.recommendations + stopped


def read_summary(folder: Path) -> Summary:
    """Read the summary of a performance run; ArtifactError if a required entry is missing, or present twice."""
    path = folder / SUMMARY
    headers: dict[str, str] = {}
    checks: dict[str, bool | None] = {}
    paragraphs: dict[str, list[str]] = {"Recommendations": [], "Early Stopping Result": []}
    stats: dict[str, float] = {}
    parameters: dict[str, float] = {}
    counts: dict[str, int] = {}
    unknown: list[str] = []
    section, paragraph = "", ""
    for line in _read(path).splitlines():
        if not line.strip("=") or line.strip() in _HEADINGS:
            continue
        if line in ("MLPerf Results Summary", "Additional Stats", "Test Parameters Used"):
            section, paragraph = line, ""
        elif line.rstrip(":") in paragraphs:
            paragraph = line.rstrip(":")
        elif paragraph and line.startswith(" * "):
            paragraphs[paragraph].append(line[3:])
        elif paragraph and line.startswith(" ") and paragraphs[paragraph]:
            paragraphs[paragraph][-1] += " " + line.strip()
        elif match := _COUNT.fullmatch(line):
            counts[match[2].lower()] = 0 if match[1] == "No" else int(match[1])
        elif section == "MLPerf Results Summary" and (match := _CHECK.fullmatch(line)):
            _once(checks, match[1], {"Yes": True, "NO": False}.get(match[2]), path)
        elif section == "MLPerf Results Summary" and " : " in line and not _NUMBER.fullmatch(line):
            name, _, value = line.partition(" : ")
            _once(headers, name.strip(), value, path)
        elif (match := _NUMBER.fullmatch(line)) and section:
            _once(parameters if section == "Test Parameters Used" else stats, match[1], float(match[2]), path)
        else:
            unknown.append(line)
    try:
        scenario, mode, result = headers.pop("Scenario"), headers.pop("Mode"), headers.pop("Result is")
        metric = next(name for name in stats if re.fullmatch(_METRICS[scenario], name))
        if result not in ("VALID", "INVALID") or not checks:
            raise KeyError("Result is")
        warnings, errors = counts["warning"], counts["error"]
    except (KeyError, StopIteration) as exc:
        missing = exc.args[0] if exc.args else "metric of its scenario"
        raise ArtifactError(f"{path}: LoadGen's summary has no {missing!r}; see {DETAIL} beside it") from exc
    headers.pop("SUT name", None)
    unknown += [f"{name} : {value}" for name, value in headers.items()]
    return Summary(
        scenario=scenario,
        mode=mode,
        valid=result == "VALID",
        metric=metric,
        value=stats.pop(metric),
        checks=checks,
        recommendations=tuple(paragraphs["Recommendations"]),
        early_stopping=tuple(paragraphs["Early Stopping Result"]),
        stats=stats,
        parameters=parameters,
        warnings=warnings,
        errors=errors,
        unknown=tuple(unknown),
    )


def encode_answers(logits_NK: NDArray[np.float32]) -> NDArray[np.int32]:
    """The answers that LoadGen logs: the class number of each image, or -1 where the logits are not finite."""
    return predicted_classes(logits_NK).astype(_ANSWER)


def read_answers(folder: Path, images: int) -> NDArray[np.int32]:
    """Class numbers ``[N]`` from the accuracy log of ``images`` images; -2 for an image without an answer.

    MultiStream fills up its last query with earlier images: the first answer counts, as in MLPerf's own
    accuracy-imagenet.py. Raises ArtifactError if the log is not a JSON list with an answer for each image.
    """
    path = folder / ACCURACY
    answer_N = np.full(images, -2, _ANSWER)
    seen: set[int] = set()
    try:
        for row in json.loads(_read(path)):
            index, data = row["qsl_idx"], bytes.fromhex(row["data"])
            if not (isinstance(index, int) and 0 <= index < images and len(data) in (0, _ANSWER.itemsize)):
                raise ValueError(f"not an answer of this program: {row}")
            if data and index not in seen:
                answer_N[index] = np.frombuffer(data, _ANSWER)[0]
            seen.add(index)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ArtifactError(f"{path}: is not LoadGen's accuracy log ({exc}); run it again") from exc
    if len(seen) != images:
        raise ArtifactError(f"{path}: has answers for {len(seen)} of {images} images; run it again")
    return answer_N


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        raise ArtifactError(f"{path}: LoadGen did not write this log ({exc.strerror}); run it again") from exc


def _once(found: dict[str, _T], name: str, value: _T, path: Path) -> None:
    if name in found:
        raise ArtifactError(f"{path}: LoadGen's summary contains {name!r} twice; see {DETAIL} beside it")
    found[name] = value
