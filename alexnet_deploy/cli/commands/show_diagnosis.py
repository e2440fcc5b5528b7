"""What ``diagnose`` found: a ranked table for people, JSON with stable field names for programs."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:  # it loads a runtime; here it is only a shape to print
    from alexnet_deploy.sensitivity.layers import Diagnosis
    from alexnet_deploy.sensitivity.variants import Effect


def diagnosis(console: Console, found: Diagnosis, *, as_json: bool) -> None:
    """All layers, the worst first, and what they cost together."""
    if as_json:
        raw = dataclasses.asdict(found)
        for row, layer in zip(raw["layers"], found.layers, strict=True):
            row["kl_regained_nats"] = found.regained_nats(layer)
            row["sqnr_db"] = layer.sqnr_db if math.isfinite(layer.sqnr_db) else None  # JSON has no infinity
        print(json.dumps(raw, indent=1, ensure_ascii=False, allow_nan=False))
        return
    exact = found.float_top1_percent
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", overflow="fold")
    table.add_column("op")
    changes = ["top-1 points"] if exact is not None else []
    for name in ("SQNR dB", "alone: KL", "agree %", *changes, "float again: KL regained", "agree %", *changes):
        table.add_column(name, justify="right")
    everything = found.everything
    for row in found.layers:
        alone = (f"{row.alone.kl_nats:.5f}", f"{row.alone.agreement_percent:.2f}", *_change(row.alone, exact))
        again = (
            f"{found.regained_nats(row):.5f}",
            f"{row.restored.agreement_percent:.2f}",
            *_change(row.restored, everything.top1_percent),
        )
        table.add_row(row.layer, row.op, f"{row.sqnr_db:.1f}", *alone, *again)
    costs = (f"{everything.kl_nats:.5f}", f"{everything.agreement_percent:.2f}", *_change(everything, exact))
    table.add_row("all", "", "", *costs, *([""] * len(costs)), style="bold")
    console.print(table)
    accuracy = f"no accuracy: {found.unlabelled}" if exact is None else f"float32 top-1 {exact:.2f} %"
    console.print(
        f"{found.kind} by {found.method} on {found.calibration_images} images, diagnosed on {found.images} others; "
        f"KL in nats an image; {accuracy}",
        soft_wrap=True,
    )


def _change(effect: Effect, before: float | None) -> tuple[str, ...]:
    """The change of accuracy, where there are labels."""
    return () if effect.top1_percent is None or before is None else (f"{effect.top1_percent - before:+.2f}",)
