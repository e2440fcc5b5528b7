"""Show results: the table that a benchmark prints, and docs/benchmarks.md from the last results of each.

python -m benchmarks.render
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.rounds import RESULTS, ROOT, Report, Row, Spread

NAMES = (
    "engine_only",
    "onnxruntime_int8",
    "end_to_end",
    "end_to_end_12_megapixels",
    "scaling",
    "cold_start",
    "earlier",
)
"""Sections, in the order of the page."""

HEAD = """\
# Benchmarks

Rendered from [its JSON](../benchmarks/results), the last run of each section. `make bench` measures all sections anew
but two, which are run by hand: the one on quantised engines in ONNX Runtime and the one on an earlier commit. It may
take other numbers of rounds, photos and passes than a run here, so each section says its own. Ours and each peer run
in turn on the same files, in the same environment, each pass in a process of its own; only quantised engines in ONNX
Runtime share one. A cell is the median of the rounds and, in brackets, the lowest and the highest; a ratio is ours /
peer, taken within each round. Peak memory is read once. The machine is shared and noisy: believe the ratios before
the numbers. [How each is measured](../benchmarks/README.md).
"""
TAIL = """\
## Tried, and not kept

- A second model of a fixed shape for batch 1 in OpenVINO: the same bits, 1 to 3 % less time per call on one core, but
  twice the load time and memory (25 to 74 MiB more).
- A batch size and a number of threads that `infer` chooses by itself: less than 3 %.
"""


def page(reports: Mapping[str, Report]) -> str:
    """The whole page. Sections in a row that were measured in the same environment share one line about it."""
    parts = [HEAD]
    previous: dict[str, str] = {}
    for name in NAMES:
        if name not in reports:
            continue
        report = reports[name]
        where = f"{_environment(report.environment)}\n\n" if report.environment != previous else ""
        previous = report.environment
        rounds = max((len(row.ours) for row in report.rows), default=0)
        where += f"Rounds: {rounds}.\n\n" if rounds else ""
        corrected = [report.corrected] if report.corrected else []
        notes = "".join(f"\n- {note}" for note in [*report.notes, *corrected])
        ways = "\n| side | how it was run |\n|---|---|\n" if report.how else ""
        ways += "".join(f"| {side} | {how} |\n" for side, how in report.how.items())
        parts.append(f"## {report.question}\n\n{where}{table(report)}\n{notes and notes + chr(10)}{ways}")
    return "\n".join([*parts, TAIL])


def table(report: Report) -> str:
    """A Markdown table."""
    lines = ["| case | ours | peer | peer's | ours / peer | goal | reached |", "|---|---:|---|---:|---:|---|---|"]
    return "\n".join([*lines, *(_line(row) for row in report.rows)])


def _line(row: Row) -> str:
    ratio, met = row.ratio(), row.meets_goal()
    theirs = _cell(Spread.of(row.theirs), row.unit) if row.peer else ""
    verdict = "" if met is None else "yes" if met else "**no**"
    if met is False and ratio and ratio.low <= float(row.goal.split()[1]) <= ratio.high:
        verdict += ", within the spread"
    goal = row.goal if row.peer or not row.goal else f"{row.goal} {row.unit}"
    cells = (row.case, _cell(Spread.of(row.ours), row.unit), row.peer, theirs, _cell(ratio) if ratio else "", goal)
    return f"| {' | '.join(cells)} | {verdict} |"


def _cell(spread: Spread, unit: str = "") -> str:
    """About three significant digits of the median; low and high get as many decimals."""
    decimals = 2 if spread.median < 10 else 1 if spread.median < 100 else 0
    median, low, high = (f"{value:,.{decimals}f}" for value in (spread.median, spread.low, spread.high))
    return f"{median} {unit} ({low}..{high})" if unit else f"{median} ({low}..{high})"


def _environment(environment: Mapping[str, str]) -> str:
    described = {"date": "{}", "CPU": "{}", "cores": "{} cores"}
    return "*" + ", ".join(described.get(key, f"{key} {{}}").format(value) for key, value in environment.items()) + "*"


def save_and_print(report: Report, output: Path) -> None:
    """Write the JSON to ``output`` and print the table."""
    report.save(output)
    print(table(report))


def main() -> None:
    """Write the page from the results that there are."""
    found = {name: Report.load(path) for name in NAMES if (path := RESULTS / f"{name}.json").is_file()}
    (ROOT / "docs" / "benchmarks.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
