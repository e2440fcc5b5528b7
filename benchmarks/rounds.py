"""Measure ours and the peers in rounds: readings per round, ratios with their spread, goals, JSON.

A shared machine is noisy and drifts, so an absolute number means little. Each round measures everything that is
compared, the ratio is taken within the round, and every other round runs in reverse order.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from alexnet_deploy.machine.cpu import describe_machine

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "benchmarks" / ".cache"
RESULTS = ROOT / "benchmarks" / "results"
T = TypeVar("T")

PACKAGES = (
    *("alexnet-deploy", "openvino", "onnxruntime", "onnxruntime-gpu", "torch", "torchvision", "ultralytics"),
    *("timm", "mlcommons-loadgen", "opencv-python", "Pillow", "numpy", "ray"),
)
"""The versions of these packages decide what a reading means."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, lowest and highest reading of all rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, readings: Sequence[float]) -> Spread:
        return cls(statistics.median(readings), min(readings), max(readings))


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison, with one reading per round on either side.

    ``goal`` is a bound like ``"≥ 3.0"`` or ``"≤ 1.05"`` on the ratio ours / peer; without a peer, on our reading in
    ``unit``. Empty: no goal.
    """

    case: str
    unit: str
    ours: list[float]
    peer: str = ""
    theirs: list[float] = field(default_factory=list)
    goal: str = ""

    def ratio(self) -> Spread | None:
        """Ours / peer within each round; None without a peer."""
        return Spread.of([a / b for a, b in zip(self.ours, self.theirs, strict=True)]) if self.peer else None

    def meets_goal(self) -> bool | None:
        """Whether the median, rounded to two decimals as in the table, meets the goal; None without a goal."""
        if not self.goal:
            return None
        sign, bound = self.goal.split()
        shown = round((self.ratio() or Spread.of(self.ours)).median, 2)
        return shown >= float(bound) if sign == "≥" else shown <= float(bound)


@dataclass(frozen=True, slots=True)
class Report:
    """The answer to one question: rows, notes that follow from the readings, and how each side was run, by its name.

    ``corrected`` says which readings were changed after they were measured: when, how and why. Empty: none.
    """

    question: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=lambda: environment())
    how: dict[str, str] = field(default_factory=dict)
    corrected: str = ""

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Report:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return cls(**(raw | {"rows": [Row(**row) for row in raw["rows"]]}))


def in_turn(ways: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Call every way once per round, every other round in reverse order, so drift affects all of them alike."""
    readings: dict[str, list[T]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            readings[name].append(ways[name]())
            print(f"round {number + 1}: {name}: {readings[name][-1]}", file=sys.stderr, flush=True)
    return readings


def in_process(command: Sequence[str | Path]) -> dict[str, Any]:
    """Run a pass in a process of its own; the last line that it prints is JSON."""
    result: dict[str, Any] = json.loads(stdout_of(command).splitlines()[-1])
    return result


def stdout_of(command: Sequence[str | Path], folder: Path = ROOT) -> str:
    """The output of ``command``, run in ``folder``; if it fails, the benchmark ends with its last words."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def environment() -> dict[str, str]:
    """What decides the readings. Nothing in it names the machine or its folders."""
    machine = describe_machine()
    here = {"date": datetime.now(UTC).date().isoformat(), "CPU": str(machine["cpu"]), "cores": str(machine["cores"])}
    installed = {package: version for package in PACKAGES if (version := _version(package))}
    return here | {"Python": str(machine["python"])} | installed


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def argument_parser(doc: str | None, name: str, *, photos: bool = True) -> argparse.ArgumentParser:
    """The flags that every benchmark has."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0], prog=f"python -m benchmarks.{name}")
    if photos:
        parser.add_argument("photos", type=Path, help="folder of photos; a few hundred of real size")
    parser.add_argument("--store", type=Path, default=CACHE / "engines", help="with alexnet-fp32 and alexnet-int8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / f"{name}.json")
    return parser
