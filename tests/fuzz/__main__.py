"""``python -m tests.fuzz``: run many cases of every reader on all cores, and count what became of them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from alexnet_deploy.machine.cpu import cores
from tests.fuzz.driver import LIMIT_S, Task, Workers
from tests.fuzz.kind import FAULTS, OUTCOMES, Result
from tests.fuzz.kinds import KINDS

_console = Console(stderr=True)
_WIDTH = 110
"""Of the table in a file or a pipe."""


def shares(inputs: int, names: Sequence[str]) -> dict[str, int]:
    """Number of cases of each kind, by its share; at least one."""
    whole = sum(KINDS[name].share for name in names)
    return {name: max(1, round(inputs * KINDS[name].share / whole)) for name in names}


def tasks_of(counts: dict[str, int], seed: int) -> list[Task]:
    """Kind after kind, so that a worker prepares few; the slowest first."""
    return [(name, seed + i) for name in sorted(counts, key=lambda n: KINDS[n].share) for i in range(counts[name])]


def main(
    inputs: Annotated[int, typer.Option(min=1, help="Number of inputs, of all kinds together.")] = 10_000,
    kind: Annotated[list[str] | None, typer.Option(help="Only this kind, or group of kinds; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first input of each kind; the next has the next number.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of processes. [default: one per core]")] = None,
    limit: Annotated[float, typer.Option(min=1, help="Seconds for one input.")] = LIMIT_S,
    keep: Annotated[Path | None, typer.Option(help="Folder that gets the files of each fault.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
    verbose: Annotated[bool, typer.Option(help="Print what became of each input, and what libraries print.")] = False,
) -> None:
    """Feed mutated files to every reader. Exit code 1 if one of them gave a traceback, a hang or a wrong answer."""
    names = [name for name in KINDS if not kind or any(name == k or name.startswith(f"{k}/") for k in kind)]
    if not names:
        raise typer.BadParameter(f"no such kind; the kinds are {', '.join(KINDS)}")
    counts = {name: Counter[str]() for name in names}
    faults: list[Result] = []
    for result in _run(tasks_of(shares(inputs, names), seed), workers, limit, keep, verbose):
        counts[result.kind][result.outcome] += 1
        if result.is_fault:
            faults.append(result)
            found = f"{result.outcome}: make fuzz KIND={result.kind} SEED={result.seed}: {result.detail}"
            _console.print(found, markup=False, highlight=False, soft_wrap=True)
        if verbose or (result.is_fault and result.outcome == "traceback"):
            print(f"{result.kind} {result.seed} {result.outcome}: {result.detail}\n{result.what}", file=sys.stderr)
    if json_:
        faults.sort(key=lambda fault: (fault.kind, fault.seed))
        rows = {name: {"tried": found.total()} | {o: found[o] for o in OUTCOMES} for name, found in counts.items()}
        listed = [{"kind": f.kind, "seed": f.seed, "outcome": f.outcome, "detail": f.detail} for f in faults]
        print(json.dumps({"kinds": rows, "faults": listed}, indent=1))
    else:
        Console(width=None if sys.stdout.isatty() else _WIDTH).print(_table(counts))
    raise typer.Exit(1 if faults else 0)


def _run(tasks: list[Task], workers: int | None, limit: float, keep: Path | None, verbose: bool) -> Iterator[Result]:
    columns = (TextColumn("fuzz"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    count = min(workers or cores(), len(tasks))
    with (
        Workers(count, limit_s=limit, keep=keep, quiet=not verbose) as pool,
        Progress(*columns, console=_console, transient=True, disable=not _console.is_terminal) as progress,
    ):
        bar = progress.add_task("fuzz", total=len(tasks))
        for result in pool.run(tasks):
            progress.advance(bar)
            yield result


def _table(counts: dict[str, Counter[str]]) -> Table:
    table = Table()
    table.add_column("kind", no_wrap=True)
    for name in ("tried", *OUTCOMES):
        table.add_column(name, justify="right")
    rows = {**counts, "all": sum(counts.values(), Counter())}
    for name, found in rows.items():
        cells = [f"[red]{found[o]}[/red]" if o in FAULTS and found[o] else str(found[o]) for o in OUTCOMES]
        table.add_row(name, str(found.total()), *cells, end_section=name == [*counts][-1])
    return table


if __name__ == "__main__":
    typer.run(main)
