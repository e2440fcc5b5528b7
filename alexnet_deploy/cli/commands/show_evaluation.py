"""What ``evaluate`` found: tables for people, the same in Markdown to paste, JSON with stable field names."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from alexnet_deploy.contract import ModelContract

if TYPE_CHECKING:  # these load SciPy; here they are only shapes to print
    from alexnet_deploy.evaluation.accuracy import Accuracy, Confidence, Paired
    from alexnet_deploy.evaluation.evaluate import Evaluation
    from alexnet_deploy.evaluation.statistics import Interval

CLASSES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class _Rows:
    """One table: columns from the second on are numbers, but for the last where ``text_at_end``."""

    title: str
    columns: Sequence[str]
    rows: list[tuple[str, ...]]
    text_at_end: bool = False

    def is_number(self, column: int) -> bool:
        return column > 0 and not (self.text_at_end and column == len(self.columns) - 1)


def as_json(found: Evaluation) -> None:
    """Everything, all classes of every pair included."""
    names = found.contract
    engines = []
    for result in found.engines:
        row: dict[str, Any] = dataclasses.asdict(result)
        engines.append(
            {"engine": row.pop("name")} | {k: v for k, v in row.items() if k != "accuracy"} | row["accuracy"]
        )
    pairs = []
    for result, pair in zip(found.engines[1:], found.pairs, strict=True):
        classes = [
            {"class_id": names.class_ids[c.target], "label": names.labels[c.target], "points": c.points}
            | {key: value for key, value in dataclasses.asdict(c).items() if key != "target"}
            for c in pair.classes
        ]
        raw = dataclasses.asdict(pair) | {"classes": classes}
        pairs.append({"reference": found.engines[0].name, "engine": result.name} | raw)
    print(
        json.dumps(
            {
                "data": str(found.data),
                "folders_named_by": found.naming,
                "images": found.images,
                "copies": found.copies,
                "unreadable": found.unreadable,
                "engines": engines,
                "pairs": pairs,
            },
            indent=1,
            ensure_ascii=True,  # an odd byte of a file name has no other spelling
            allow_nan=False,
        )
    )


def as_markdown(found: Evaluation) -> None:
    """Tables to paste into an issue or a README."""
    for table in _tables(found):
        print(f"{_printable(table.title)}\n")
        print(f"| {' | '.join(map(_cell, table.columns))} |")
        print("|" + "|".join("---:" if table.is_number(i) else "---" for i in range(len(table.columns))) + "|")
        for row in table.rows:
            print(f"| {' | '.join(map(_cell, row))} |")
        print()
    for note in _notes(found):
        print(f"- {_printable(note)}")


def tables(console: Console, found: Evaluation) -> None:
    """Tables for a terminal."""
    for number, table in enumerate(_tables(found)):
        if number:
            console.print()
        console.print(_printable(table.title), soft_wrap=True)
        grid = Table(box=None, pad_edge=False, header_style="bold")
        for i, column in enumerate(table.columns):
            grid.add_column(_printable(column), justify="right" if table.is_number(i) else "left", overflow="fold")
        for row in table.rows:
            grid.add_row(*map(_printable, row))
        console.print(grid)
    for note in _notes(found):
        console.print(_printable(note), soft_wrap=True, style="yellow")


def _tables(found: Evaluation) -> Iterator[_Rows]:
    first = found.engines[0]
    timed = first.latency_ms is not None
    yield _Rows(
        f"{found.images} images of {found.data}, folders named by {found.naming}; in brackets 95 % intervals",
        ("engine", "top-1 %", "top-5 %", "NLL", "ECE %", *(["ms"] if timed else []), "MiB", "runner"),
        [
            (
                result.name,
                _share(result.accuracy.top1_percent, result.accuracy.top1_interval),
                _share(result.accuracy.top5_percent, result.accuracy.top5_interval),
                _before_and_after(result.accuracy, "nll_nats", 3),
                _before_and_after(result.accuracy, "ece_percent", 1),
                *([f"{result.latency_ms:.2f}"] if result.latency_ms is not None else []),
                f"{result.model_bytes / 2**20:.1f}",
                f"{result.runner} ({result.precision})",
            )
            for result in found.engines
        ],
        text_at_end=True,
    )
    if not found.pairs:
        return
    yield _Rows(
        f"beside {first.name}",
        ("engine", "agree %", "right→wrong", "wrong→right", "top-1 points", "McNemar p"),
        [
            (
                result.name,
                f"{pair.agreement_percent:.2f}",
                str(pair.lost),
                str(pair.won),
                f"{pair.points:+.2f} ({pair.points_interval.low:+.2f}..{pair.points_interval.high:+.2f})",
                f"{pair.mcnemar_p:.2g}",
            )
            for result, pair in zip(found.engines[1:], found.pairs, strict=True)
        ],
    )
    for result, pair in zip(found.engines[1:], found.pairs, strict=True):
        yield from _class_table(found, result.name, pair)


def _class_table(found: Evaluation, name: str, pair: Paired) -> Iterator[_Rows]:
    changed = [c for c in pair.classes if c.points]
    if not changed:
        return
    shown = changed[:CLASSES_SHOWN]
    which = f"the worst {len(shown)} of {len(changed)} classes" if len(shown) < len(changed) else "classes"
    yield _Rows(
        f"{which} whose top-1 differs in {name}",
        ("class", "images", f"{found.engines[0].name} %", f"{name} %", "points"),
        [
            (
                _class_name(found.contract, c.target),
                str(c.images),
                f"{c.first_percent:.1f}",
                f"{c.second_percent:.1f}",
                f"{c.points:+.1f}",
            )
            for c in shown
        ],
    )


def _notes(found: Evaluation) -> Iterator[str]:
    if found.unreadable:
        yield f"{len(found.unreadable)} images left out: {found.unreadable[0]}"
    if found.copies:
        are = "image is a copy of another" if found.copies == 1 else "images are copies of others"
        yield f"{found.copies} {are} (same content) and count like any: the intervals are too narrow"
    for result in found.engines:
        if result.accuracy.not_finite:
            yield f"{result.name}: {result.accuracy.not_finite} answers are not finite and count as wrong"
        if result.calibration_images:
            yield f"{result.name}: {result.calibration_images} of these images calibrated it, so it looks too good"
        elif result.calibration_images is None and result.precision.startswith(("int8", "fp8")):
            yield f"{result.name}: no record tells whether these images calibrated it"
        if result.temperature_images:
            yield (
                f"{result.name}: its temperature was fitted on {result.temperature_images} of these images, so NLL and "
                "ECE look too good"
            )
        elif result.temperature_images is None and result.temperature != 1:
            yield f"{result.name}: no record tells whether its temperature was fitted on these images"


def _class_name(contract: ModelContract, k: int) -> str:
    label = contract.labels[k]
    return label if contract.labels.count(label) == 1 else f"{label} ({contract.class_ids[k]})"


def _share(percent: float, interval: Interval) -> str:
    return f"{percent:.2f} ({interval.low:.2f}..{interval.high:.2f})"


def _before_and_after(accuracy: Accuracy, field: str, digits: int) -> str:
    """At temperature 1 and at the contract's, where it has another."""

    def text(confidence: Confidence | None) -> str:
        return "-" if confidence is None else f"{getattr(confidence, field):.{digits}f}"

    same = accuracy.confidence == accuracy.uncalibrated
    return text(accuracy.confidence) if same else f"{text(accuracy.uncalibrated)} → {text(accuracy.confidence)}"


def _cell(text: str) -> str:
    return _printable(text).replace("\\", "\\\\").replace("|", "\\|")


def _printable(text: str) -> str:
    """A folder's name or a label must not move the cursor of whoever looks at the table."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
