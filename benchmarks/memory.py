"""Peak memory of a command with all of its processes, sampled from /proc (Linux)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rounds import ROOT

EVERY_S = 0.02
"""A peak between two readings is missed; one of a batch lasts longer. A reading takes some milliseconds."""


def in_process_with_peak(command: Sequence[str | Path]) -> tuple[dict[str, Any], float]:
    """The JSON on the last line that ``command`` prints, and its peak memory in MiB. A failure ends the benchmark.

    Not for timing: reading takes time from the command on a machine without a free core.
    """
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(list(map(str, command)), stdout=stdout, stderr=stderr, cwd=ROOT)
        peak_KiB = 0
        while process.poll() is None:
            peak_KiB = max(peak_KiB, sum(map(resident_KiB, family(process.pid))))
            time.sleep(EVERY_S)
        for file in (stdout, stderr):
            file.seek(0)
        if process.returncode:
            sys.exit(f"{' '.join(map(str, command))}: exit {process.returncode}\n{stderr.read()[-2000:]}")
        return json.loads(stdout.read().splitlines()[-1]), peak_KiB / 1024


def family(pid: int) -> Iterator[int]:
    """The process and all that it started, by any of its threads, as far as they run."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # ended meanwhile
            continue
        for child in children:
            yield from family(int(child))


def resident_KiB(pid: int) -> int:
    """Resident memory (Pss): a page that n processes share, as forked workers do, counts 1/n in each."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # ended meanwhile
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
