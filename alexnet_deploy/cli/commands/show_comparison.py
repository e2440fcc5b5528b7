"""What ``compare`` found: tables for people, JSON with stable field names for programs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:  # these load SciPy and a runtime; here they are only shapes to print
    from alexnet_deploy.evaluation.compare import Comparison
    from alexnet_deploy.evaluation.compare_layers import LayerDifference


def comparison(
    console: Console,
    sides: Sequence[tuple[str, str]],
    found: Comparison,
    layers: Sequence[LayerDifference] | None,
    *,
    as_json: bool,
) -> None:
    """The two logits beside one another; ``sides`` are the names of A and B, each with what ran it."""
    if as_json:
        print(json.dumps(_raw(sides, found, layers), indent=1, allow_nan=False))
        return
    for letter, (name, runner) in zip("AB", sides, strict=True):
        console.print(f"{letter}  {_printable(name)} ({runner})", soft_wrap=True)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rows = (
        ("images", str(found.images)),
        ("first answers that agree, %", f"{found.agreement_percent:.2f}"),
        ("max |A - B| of a logit", f"{found.max_abs:.4g}"),
        ("  of the largest |A|, %", f"{100 * found.relative:.3g}"),
        ("mean |A - B|", f"{found.mean_abs:.4g}"),
        ("cosine, mean", f"{found.cosine_mean:.6f}"),
        ("cosine, least", f"{found.cosine_min:.6f}"),
        ("KL(A || B), nats an image", f"{found.kl_nats:.3g}"),
    )
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if found.worst:
        console.print()
        console.print(_worst(found))
    if layers is not None:
        console.print()
        console.print(_layers(layers))
        console.print(
            "layers: both graphs in ONNX Runtime with its basic optimisations alone, whatever runs A and B above",
            soft_wrap=True,
        )
    for letter, broken in (("A", found.not_finite_a), ("B", found.not_finite_b)):
        if broken:
            console.print(f"{letter}: {broken} answers are not finite and count as disagreement", style="yellow")
    if found.unreadable:
        console.print(
            f"{len(found.unreadable)} images left out: {_printable(found.unreadable[0])}",
            style="yellow",
            soft_wrap=True,
        )


def _worst(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("the furthest apart", overflow="fold")
    table.add_column("max |A - B|", justify="right")
    table.add_column("KL", justify="right")
    table.add_column("A says")
    table.add_column("B says")
    for row in found.worst:
        said = [_printable(answer or "nothing finite") for answer in (row.answer_a, row.answer_b)]
        style = None if row.answer_a == row.answer_b else "yellow"
        table.add_row(_printable(str(row.file)), f"{row.max_abs:.4g}", f"{row.kl_nats:.3g}", *said, style=style)
    return table


def _layers(layers: Sequence[LayerDifference]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", overflow="fold")
    table.add_column("op")
    for name in ("SQNR dB", "cosine", "max |A - B|", "mean |A - B|"):
        table.add_column(name, justify="right")
    for row in layers:
        numbers = (f"{row.sqnr_db:.1f}", f"{row.cosine:.6f}", f"{row.max_abs:.4g}", f"{row.mean_abs:.4g}")
        table.add_row(_printable(row.layer), row.op, *numbers)
    return table


def _raw(
    sides: Sequence[tuple[str, str]], found: Comparison, layers: Sequence[LayerDifference] | None
) -> dict[str, Any]:
    raw = {letter: {"engine": name, "runner": runner} for letter, (name, runner) in zip("ab", sides, strict=True)}
    worst = [_finite(dataclasses.asdict(row) | {"file": str(row.file)}) for row in found.worst]
    derived = {"agreement_percent": found.agreement_percent, "relative": found.relative}
    numbers = _finite(dataclasses.asdict(found) | derived) | {"worst": worst}
    return raw | numbers | {"layers": None if layers is None else [_finite(dataclasses.asdict(row)) for row in layers]}


def _finite(raw: dict[str, Any]) -> dict[str, Any]:
    """JSON has neither infinity nor NaN: null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in raw.items()}


def _printable(text: str) -> str:
    """A file's name or a label must not move the cursor of whoever looks at the table."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
