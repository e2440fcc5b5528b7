"""The parts of a run, each in a process of its own with a time limit; one that fails ends nothing.

A process of its own, because an error of CUDA stays with its process, and because a runtime that hangs can be killed.
A pass prints lines that begin with ``MARK`` as soon as it knows something, so what was measured before the end of the
time is kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.gpu.result import Cases, PartResult
from benchmarks.rounds import ROOT, in_turn

MARK = "RESULT "
SHORTEST_S = 5.0
"""With less time left no part is started: importing a runtime takes as long."""
TIME_IS_UP = "left out: the time of the run was up"
_LAST_WORDS = 2000


@dataclass(frozen=True, slots=True)
class Part:
    """One thing to measure, and the command that does it."""

    kind: str
    precision: str
    way: str
    command: Sequence[str]
    limit_s: float

    @property
    def name(self) -> str:
        """Unique within a run, and what ``--only`` searches."""
        return f"{self.kind} {self.precision} {self.way}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pass printed, and why it ended early."""

    ran: str = ""
    cases: Cases = field(default_factory=dict)
    failed: str = ""

    def __str__(self) -> str:
        return f"{len(self.cases)} cases" + (f"; {self.failed}" if self.failed else "")


def run_pass(command: Sequence[str], limit_s: float) -> Outcome:
    """Run a pass; after ``limit_s`` seconds it is killed with all that it started."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = subprocess.Popen(command, stdout=out, stderr=err, cwd=ROOT, start_new_session=True)
        late = False
        try:
            started.wait(limit_s)
        except subprocess.TimeoutExpired:
            late = True
        finally:  # also what a pass left behind, and at Ctrl-C
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            code = started.wait()
        out.seek(0)
        err.seek(0)
        told = outcome_of(out.read())
        if late:
            return Outcome(told.ran, told.cases, f"out of time after {limit_s:.0f} s")
        if code and not told.failed:
            words = err.read().strip()[-_LAST_WORDS:]
            return Outcome(told.ran, told.cases, without_folders(f"exit {code}: {words or 'it printed no reason'}"))
        return told


def without_folders(words: str) -> str:
    """``words`` without the folders of this machine: a result is published."""
    for folder, name in ((sys.prefix, "PYTHON"), (ROOT, "."), (tempfile.gettempdir(), "TMP"), (Path.home(), "~")):
        if len(str(folder)) > 1:  # a home folder may be /
            words = words.replace(str(folder), name)
    return words


def outcome_of(output: str) -> Outcome:
    """The marked lines of a pass; a runtime may print others."""
    ran, failed = "", ""
    cases: Cases = {}
    for line in output.splitlines():
        if not line.startswith(MARK):
            continue
        with contextlib.suppress(ValueError):  # cut off by the end of the time
            told = json.loads(line.removeprefix(MARK))
            ran, failed = told.get("ran", ran), told.get("failed", failed)
            cases |= told.get("cases", {})
    return Outcome(ran, cases, without_folders(failed))


def run_parts(
    parts: Sequence[Part],
    rounds: int,
    limit_s: float,
    *,
    run: Callable[[Sequence[str], float], Outcome] = run_pass,
    now: Callable[[], float] = time.monotonic,
    on_result: Callable[[list[PartResult]], None] = lambda found: None,
) -> list[PartResult]:
    """Run all parts in rounds, within ``limit_s`` seconds together.

    A part that has failed is not tried again. What no longer fits into the time is left out. ``on_result`` gets all
    results so far after each pass: a hired machine may be gone before the last one.
    """
    ends = now() + limit_s
    failed: set[str] = set()
    done: dict[str, list[Outcome]] = {}

    def once(part: Part) -> Outcome:
        left_s = ends - now()
        if part.name in failed:
            return Outcome()
        if left_s < SHORTEST_S:
            return Outcome(failed=TIME_IS_UP)
        outcome = run(part.command, min(part.limit_s, left_s))
        if outcome.failed:
            failed.add(part.name)
        done.setdefault(part.name, []).append(outcome)
        on_result([_summed(each, done[each.name]) for each in parts if each.name in done])
        return outcome

    found = in_turn({part.name: partial(once, part) for part in parts}, rounds)
    return [_summed(part, found[part.name]) for part in parts]


def _summed(part: Part, outcomes: Sequence[Outcome]) -> PartResult:
    """All rounds of one part. That later rounds had no time is no failure of a part that has readings."""
    rounds = [outcome.cases for outcome in outcomes]
    words = [outcome.failed for outcome in outcomes if outcome.failed]
    if any(rounds):
        words = [text for text in words if text != TIME_IS_UP]
    ran = next((outcome.ran for outcome in outcomes if outcome.ran), "")
    return PartResult(part.kind, part.precision, part.way, ran, rounds, words[0] if words else "")
