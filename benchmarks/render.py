"""Render docs/benchmarks.md from the JSON of the last run of each benchmark.

python -m benchmarks.render
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.rounds import RESULTS, ROOT, Report, Row, Spread

NAMES = ("engine_only", "end_to_end", "scaling", "cold_start")
"""Sections, in the order of the page."""

HEAD = """\
# Benchmarks

Rendered by `make bench` from [its JSON](../benchmarks/results). Ours and each peer run in turn on the same files,
in the same environment, each pass in a process of its own. A cell is the median of the rounds and, in brackets, the
lowest and the highest; a ratio is ours / peer, taken within each round. The machine is shared and noisy: believe the
ratios before the numbers. [How each is measured](../benchmarks/README.md).
"""


def page(reports: Mapping[str, Report]) -> str:
    """The whole page, with one line of environment for all sections that were measured in the same one."""
    parts = [HEAD]
    before: dict[str, str] = {}
    for name in NAMES:
        if name not in reports:
            continue
        report = reports[name]
        where = f"{_environment(report.environment)}\n\n" if report.environment != before else ""
        before = report.environment
        notes = "".join(f"\n- {note}" for note in report.notes)
        parts.append(f"## {report.question}\n\n{where}{table(report)}\n{notes and notes + chr(10)}")
    return "\n".join(parts)


def table(report: Report) -> str:
    """Markdown, a line a row."""
    lines = ["| case | ours | peer | peer's | ours / peer | goal | reached |", "|---|---:|---|---:|---:|---|---|"]
    return "\n".join([*lines, *(_line(row) for row in report.rows)])


def _line(row: Row) -> str:
    ratio, reached = row.ratio(), row.reached()
    theirs = _cell(Spread.of(row.theirs), row.unit) if row.peer else ""
    verdict = "" if reached is None else "yes" if reached else "**no**"
    if reached is False and ratio and ratio.low <= float(row.goal.split()[1]) <= ratio.high:
        verdict += ", within the spread"
    goal = row.goal if row.peer or not row.goal else f"{row.goal} {row.unit}"
    cells = (row.case, _cell(Spread.of(row.ours), row.unit), row.peer, theirs, _cell(ratio) if ratio else "", goal)
    return f"| {' | '.join(cells)} | {verdict} |"


def _cell(spread: Spread, unit: str = "") -> str:
    """Three digits that count; the decimals of the median hold for low and high too."""
    decimals = 2 if spread.median < 10 else 1 if spread.median < 100 else 0
    median, low, high = (f"{value:,.{decimals}f}" for value in (spread.median, spread.low, spread.high))
    return f"{median} {unit} ({low}..{high})" if unit else f"{median} ({low}..{high})"


def _environment(environment: Mapping[str, str]) -> str:
    described = {"date": "{}", "CPU": "{}", "cores": "{} cores"}
    return "*" + ", ".join(described.get(key, f"{key} {{}}").format(value) for key, value in environment.items()) + "*"


def main() -> None:
    """Write the page from the results that are there."""
    found = {name: Report.load(path) for name in NAMES if (path := RESULTS / f"{name}.json").is_file()}
    write(found, ROOT / "docs" / "benchmarks.md")


def write(reports: Mapping[str, Report], path: Path) -> None:
    path.write_text(page(reports), encoding="utf-8")


if __name__ == "__main__":
    main()
