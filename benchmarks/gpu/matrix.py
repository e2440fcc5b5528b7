"""docs/versions.md: which TensorRT gives which GPU which precision, and whether it was built, proved or run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import get_args

from alexnet_deploy.contract import Precision
from alexnet_deploy.precision.types import WEIGHTS_ONLY
from alexnet_deploy.runtime.tensorrt.library import FULL, RTX
from alexnet_deploy.runtime.tensorrt.support import ROWS, Row
from benchmarks.gpu.result import GpuResult
from benchmarks.rounds import RESULTS, ROOT

PAGE = ROOT / "docs" / "versions.md"
PLANS = RESULTS / "plans.json"
"""Written by ``python -m benchmarks.gpu.plans``."""
PRECISIONS: tuple[Precision, ...] = tuple(each for each in get_args(Precision) if "+" not in each)
"""Without the mixtures, which add nothing to their parts."""
FALLBACKS = "not as asked"
Cells = dict[str, dict[str, dict[str, int] | str]]
"""By GPU and precision: how many layers got which precision, with those that were to get another one under
``FALLBACKS``; or why there is no plan."""
_BEGIN = "<!-- rendered: matrix, by python -m benchmarks.gpu --render -->\n"
_END = "\n<!-- end of matrix -->"


def rendered(text: str, measured: Sequence[GpuResult]) -> str:
    """``text`` with the rendered part renewed; ValueError where a mark is missing."""
    if text.count(_BEGIN) != 1 or text.count(_END) != 1:
        raise ValueError(f"the marks of the matrix do not stand once on {PAGE.name}")
    before, _, rest = text.partition(_BEGIN)
    return before + _BEGIN + tables(measured) + _END + rest.partition(_END)[2]


def tables(measured: Sequence[GpuResult]) -> str:
    """A matrix of GPUs and precisions for each TensorRT, and the reasons below the one that was built."""
    plans = json.loads(PLANS.read_text(encoding="utf-8"))
    cells: Cells = plans["cells"]
    rtx = _matrix(RTX, measured, cells)
    parts = [f"### TensorRT-RTX {plans['tensorrt_rtx']}\n\nBuilt on {plans['date']}.\n\n{rtx}"]
    notes = [f"- {gpu}, {precision}: {found}" for gpu, precision, found in _failures(cells)]
    if notes:
        parts.append("What the builder said where there is no plan:\n\n" + "\n".join(notes))
    parts += [f"### TensorRT {major}\n\n{_matrix(FULL, measured, None, major=major)}" for major in (10, 11)]
    return "\n\n".join(parts)


def _matrix(library: str, measured: Sequence[GpuResult], cells: Cells | None, *, major: int = 1) -> str:
    rows = {row.capability: row for row in ROWS if row.library == library and row.since[0] <= major}
    lines = [f"| GPU | from | {' | '.join(PRECISIONS)} |", f"|---|---|{'---|' * len(PRECISIONS)}"]
    for capability in sorted(rows, key=lambda name: int(name.removeprefix("sm"))):
        row = rows[capability]
        first = row.since if row.since[0] == major else (major, 0)
        if row.without and row.without[0] <= first < row.without[1]:
            first = row.without[1]
        runs = [_ran(measured, library, major, capability, precision) for precision in PRECISIONS]
        states = [_state(row, precision, ran, cells) for precision, ran in zip(PRECISIONS, runs, strict=True)]
        lines.append(f"| {capability} | {first[0]}.{first[1]} | {' | '.join(states)} |")
    notes = [f"- {row.capability}, unconfirmed: {row.unconfirmed}" for row in rows.values() if row.unconfirmed]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _state(row: Row, precision: str, ran: str, cells: Cells | None) -> str:
    documented = precision in row.precisions
    found = None if cells is None else cells.get(row.capability, {}).get(precision)
    if isinstance(found, dict):
        layers = ", ".join(f"{count} {got}" for got, count in found.items() if got != FALLBACKS)
        state = f"{'built' if found[FALLBACKS] else 'proved'}: {layers}" + ("" if documented else "; not documented")
    elif isinstance(found, str):
        state = "no plan"
    elif row.library == FULL and precision in WEIGHTS_ONLY:
        state = "not listed"
    else:
        state = "unknown" if documented else "no"
    if not ran:
        return state
    return f"**run** ({ran})" + ("" if state == "unknown" else f", {state}")


def _ran(measured: Sequence[GpuResult], library: str, major: int, capability: str, precision: str) -> str:
    """The card and driver on which such a plan ran, or nothing."""
    title = f"{'TensorRT-RTX' if library == RTX else 'TensorRT'} {major}."
    for result in measured:
        for part in result.parts:
            asked = (part.kind, part.way, part.precision) == ("engine", "TensorRT", precision)
            if asked and result.capability == capability and any(part.rounds) and part.ran.startswith(title):
                return f"{result.card}, driver {result.driver}"
    return ""


def _failures(cells: Cells) -> Iterator[tuple[str, str, str]]:
    for gpu, row in cells.items():
        for precision, found in row.items():
            if isinstance(found, str):
                yield gpu, precision, found
