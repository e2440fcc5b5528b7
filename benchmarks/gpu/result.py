"""What one run on one card found, as JSON: the card, the versions, and every part with its readings or its words."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.rounds import RESULTS

Reading = dict[str, float]
"""Numbers by name: ``median_ms``, ``images_per_s`` and others of a kind."""
Cases = dict[str, Reading]
"""The readings of one pass, by case: ``"batch 8"``."""


@dataclass(frozen=True, slots=True)
class PartResult:
    """One part over all rounds."""

    kind: str
    """``build``, ``engine``, ``infer`` or ``training``."""
    precision: str
    way: str
    ran: str = ""
    """What computed, in its own words: library, version and device."""
    rounds: list[Cases] = field(default_factory=list)
    """The readings of each round; empty for a round in which it did not run."""
    failed: str = ""
    """Why it could not run or did not end, in the words of what failed."""

    @property
    def title(self) -> str:
        """For tables."""
        return f"{self.precision}, {self.way}"

    def readings(self, case: str, name: str) -> list[float | None]:
        """``name`` of ``case`` in each round; None for a round without it."""
        return [cases[case].get(name) if case in cases else None for cases in self.rounds]


@dataclass(frozen=True, slots=True)
class GpuResult:
    """One run. A dry run has passed through every part without a GPU: its numbers say nothing about any card."""

    card: str
    driver: str
    capability: str
    date: str
    revision: str
    """Git's name of the code that ran, with ``-dirty`` for changes that no commit holds."""
    environment: dict[str, str]
    """Versions and CPU."""
    settings: dict[str, str]
    parts: list[PartResult]
    dry_run: bool = False

    @property
    def file_name(self) -> str:
        """``gpu-nvidia-l4.json``."""
        return f"gpu-{re.sub(r'[^a-z0-9]+', '-', self.card.lower()).strip('-')}.json"

    def save(self, path: Path) -> None:
        """Write it. A dry run never goes among the results, from which the page is rendered."""
        if self.dry_run and path.resolve().parent == RESULTS.resolve():
            sys.exit(f"{path}: a dry run is no result of a GPU; write it to another folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> GpuResult:
        """The result in a file."""
        raw = json.loads(path.read_text(encoding="utf-8"))
        return cls(**(raw | {"parts": [PartResult(**part) for part in raw["parts"]]}))
