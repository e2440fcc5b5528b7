"""Ours and the peers in turn: readings by round, ratios with their spread, verdicts, JSON.

A shared machine is noisy and drifts, so an absolute number means little. What is compared is measured in the same
round, the ratio is taken within the round, and the order turns around from one round to the next.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from alexnet_deploy.machine.cpu import cores

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "benchmarks" / ".cache"
RESULTS = ROOT / "benchmarks" / "results"
T = TypeVar("T")

PACKAGES = (
    *("alexnet-deploy", "openvino", "onnxruntime", "onnxruntime-gpu", "torch", "torchvision", "ultralytics"),
    *("opencv-python", "Pillow", "numpy"),
)
"""Whose versions decide what a reading means."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What the rounds gave."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, readings: Sequence[float]) -> Spread:
        return cls(statistics.median(readings), min(readings), max(readings))


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison, a reading a round on either side. Without a peer, ``goal`` bounds the reading itself.

    ``goal`` is ``"≥ 3.0"`` or ``"≤ 1.05"`` of the ratio ours / peer, in the unit as it stands, or empty.
    """

    case: str
    unit: str
    ours: list[float]
    peer: str = ""
    theirs: list[float] = field(default_factory=list)
    goal: str = ""

    def ratio(self) -> Spread | None:
        """Ours / peer by round; None without a peer."""
        return Spread.of([a / b for a, b in zip(self.ours, self.theirs, strict=True)]) if self.peer else None

    def reached(self) -> bool | None:
        """Whether the median, to two decimals as it is shown, keeps the goal; None without one."""
        if not self.goal:
            return None
        sign, bound = self.goal.split()
        shown = round((self.ratio() or Spread.of(self.ours)).median, 2)
        return shown >= float(bound) if sign == "≥" else shown <= float(bound)


@dataclass(frozen=True, slots=True)
class Report:
    """The answer to one question: rows, and sentences that the readings themselves give rise to."""

    question: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=lambda: environment())

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Report:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return cls(**(raw | {"rows": [Row(**row) for row in raw["rows"]]}))


def in_turn(ways: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Call every way once a round, forwards and backwards in turn: drift then weighs on all alike."""
    readings: dict[str, list[T]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            readings[name].append(ways[name]())
            print(f"round {number + 1}: {name}: {readings[name][-1]}", file=sys.stderr, flush=True)
    return readings


def in_process(command: Sequence[str | Path]) -> dict[str, Any]:
    """Run a pass in a process of its own; it ends with a line of JSON."""
    passed: dict[str, Any] = json.loads(stdout_of(command).splitlines()[-1])
    return passed


def stdout_of(command: Sequence[str | Path]) -> str:
    """What ``command`` prints; where it fails, the benchmark ends with its last words."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def environment() -> dict[str, str]:
    """What decides the readings, without anything that names the machine or its folders."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    family = re.search(r"^cpu family\s*:\s*(.+)$", text, re.MULTILINE)
    name = f"{model[1]}{f', family {family[1]}' if family else ''}" if model else platform.machine()
    installed = {package: version for package in PACKAGES if (version := _version(package))}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "CPU": name,
        "cores": str(cores()),
        "Python": platform.python_version(),
    } | installed


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def parser(doc: str | None, name: str, *, photos: bool = True) -> argparse.ArgumentParser:
    """The flags that every benchmark has."""
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0], prog=f"python -m benchmarks.{name}")
    if photos:
        made.add_argument("photos", type=Path, help="folder of photos; a few hundred of real size")
    made.add_argument("--store", type=Path, default=CACHE / "engines", help="with alexnet-fp32 and alexnet-int8")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--output", type=Path, default=RESULTS / f"{name}.json")
    return made


def finish(report: Report, output: Path) -> None:
    """Write the JSON and print the table."""
    from benchmarks.render import table

    report.save(output)
    print(table(report))
