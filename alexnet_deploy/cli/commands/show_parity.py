"""What ``preprocessing-parity`` found: a table for people, JSON with stable field names for programs."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:  # it loads SciPy; here it is only a shape to print
    from alexnet_deploy.evaluation.preprocessing import PreprocessingParity


def parity(console: Console, found: PreprocessingParity, *, as_json: bool) -> None:
    """Every variant beside the pixels of ``images.py``."""
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=1, allow_nan=False))
        return
    pre = found.preprocessing
    rule = pre.resize if pre.resize_to is None else f"{pre.resize} {pre.resize_to}"
    accuracy = "" if found.top1_percent is None else f", top-1 {found.top1_percent:.2f} %"
    console.print(
        f"reference: {rule} to {pre.width} x {pre.height}, {pre.interpolation}, antialiased: {found.images} images"
        f"{accuracy}, largest logit {found.largest_logit:.1f}",
        soft_wrap=True,
    )
    labelled = found.top1_percent is not None
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("variant")
    for name in ("answers changed", "%", *(["top-1 points (95 %)"] if labelled else [])):
        table.add_column(name, justify="right")
    for name in ("max logit change", "mean pixel change", "images touched"):
        table.add_column(name, justify="right")
    table.add_column("differs in", overflow="fold")
    for row in found.variants:
        numbers = [str(row.changed), f"{100 * row.changed / found.images:.2f}"]
        if row.top1_points is not None and row.points_interval is not None:
            low, high = row.points_interval.low, row.points_interval.high
            numbers.append(f"{row.top1_points:+.2f} ({low:+.2f}..{high:+.2f})")
        numbers += [f"{row.max_logit_change:.2f}", f"{row.mean_abs_pixel:.2f}", str(row.touched)]
        table.add_row(row.name, *numbers, row.differs)
    console.print(table)
    if found.unlabelled is not None:
        console.print(f"no accuracy: {_printable(found.unlabelled)}", soft_wrap=True)
    if found.unreadable:
        console.print(
            f"{len(found.unreadable)} images left out: {_printable(found.unreadable[0])}",
            style="yellow",
            soft_wrap=True,
        )


def _printable(text: str) -> str:
    """A file's name must not move the cursor of whoever looks at the table."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
