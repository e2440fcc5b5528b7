"""``RunReport`` as one self-contained HTML page: no network, no script, every name escaped, bounded in size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.pages.html import environment, write_html
from alexnet_deploy.pages.picture import Picture, embed
from alexnet_deploy.report.charts import Axis, Chart, Curve, axis, polyline
from training.epochs import AT_TEST_SCALE
from training.report.measure import LOOKED_AT, PICTURES, Copies, Doubted, Mistake, Photo, RunReport

PICTURE_SIDE = 224
"""Pixels of the longer side of a picture: some 10 KB."""
PAIRS = 12
CLASSES_SHOWN, CLASSES_LISTED = 20, 1000
"""Rows of the table of classes before it is folded, and at most."""
MATRIX_CLASSES = 20
"""Classes up to which the confusion matrix is readable."""
CONFUSIONS = 20
_DOTS = 40
"""Epochs up to which each has a dot; a run of one epoch has no line."""


@dataclass(frozen=True, slots=True)
class Card:
    """A picture with what is said about it: (what, value, probability or None, CSS class)."""

    photo: Photo
    picture: Picture
    lines: tuple[tuple[str, str, float | None, str], ...]


def write_page(report: RunReport, path: Path) -> None:
    """Draw ``report`` into ``path``, atomically; UnavailableError if it cannot be written."""
    write_html(render_page(report), path)


def render_page(report: RunReport) -> str:
    """Return the page as text; InputError if a picture that it shows cannot be read any more."""
    names = class_names(report)
    confident = sorted(report.mistakes, key=lambda each: (-each.probability, each.photo.name))
    return (
        environment("training.report", "alexnet_deploy.report")
        .get_template("run.html.j2")
        .render(
            report=report,
            names=names,
            curves=_curves(report),
            matrix=_matrix(report) if len(names) <= MATRIX_CLASSES else None,
            confusions=report.confusions[:CONFUSIONS],
            classes_shown=CLASSES_SHOWN,
            classes=report.classes[:CLASSES_LISTED],
            worst=[_mistake_card(each, names) for each in report.mistakes[:PICTURES]],
            confident=[_mistake_card(each, names) for each in confident[:PICTURES]],
            copies=[_pair_cards(each, names) for each in report.copies[:PAIRS]],
            doubted=[(split, *_doubted_cards(report, split, names)) for split in ("validation", "training")],
            looked_at=LOOKED_AT,
            percent_x=axis("confidence, %", [0, 100], log=False, within=(0, 100)),
            percent_y=axis("right, %", [0, 100], log=False, within=(0, 100)),
            recipe=settings_of(report),
        )
    )


def class_names(report: RunReport) -> list[str]:
    """The labels; those that several classes share (ImageNet has two cranes) with the class id."""
    contract = report.checkpoint.contract
    uses = Counter(contract.labels)
    return [
        label if uses[label] == 1 else f"{label} ({class_id})"
        for label, class_id in zip(contract.labels, contract.class_ids, strict=True)
    ]


def settings_of(report: RunReport) -> list[tuple[str, str]]:
    """How the network was trained, for people: the fields of the recipe and the switches that are recorded."""
    recorded = report.checkpoint.recipe
    rows = [("architecture", report.checkpoint.arch.name)]
    if (rank := report.checkpoint.arch.dense_rank) is not None:
        rows.append(("dense rank", str(rank)))
    if trained := report.epochs.describe():
        rows.append(("trained", trained))
    recipe = recorded.get("recipe")
    rows += [(name, _plain(value)) for name, value in (recipe if isinstance(recipe, dict) else {}).items()]
    last = recorded.get(AT_TEST_SCALE)
    own = last.get("recipe") if isinstance(last, dict) else None
    rows += [
        (f"at test scale: {name}", _plain(own[name]))
        for name in ("epochs", "lr", "conv_lr")
        if isinstance(own, dict) and name in own
    ]
    single = ("early_stop", "seed", "precision", "torch", "alexnet_deploy")
    rows += [
        ({"alexnet_deploy": "alexnet-deploy", "early_stop": "early stop"}.get(name, name), _plain(recorded[name]))
        for name in single
        if name in recorded
    ]
    return rows


def _plain(value: object) -> str:
    return "off" if value is False or value is None else "on" if value is True else str(value)


@dataclass(frozen=True, slots=True)
class CurveChart:
    """One chart over the epochs; ``series`` are the names of its curves by their number."""

    title: str
    chart: Chart
    series: tuple[tuple[int, str], ...]


def _curves(report: RunReport) -> list[CurveChart]:
    rows = report.rows
    if not rows:
        return []
    x = axis("epoch", [row.epoch for row in rows] if len(rows) > 1 else [0, rows[0].epoch + 1], log=False, margin=0.02)
    loss = [(row.epoch, row.train_loss) for row in rows]
    val_loss = [(row.epoch, row.val_loss) for row in rows if row.val_loss is not None]
    top1 = [(row.epoch, row.val_top1_percent) for row in rows if row.val_top1_percent is not None]
    power = math.floor(math.log10(max(row.lr for row in rows) or 1.0))  # ticks of 0.00025 would not fit
    rate = [(row.epoch, row.lr / 10.0**power) for row in rows]
    return [
        _chart("Cross-entropy", x, "nats", [(1, "training (as trained)", loss), (2, "validation", val_loss)]),
        _chart("Validation top-1", x, "top-1, %", [(2, "validation", top1)], within=(0, 100)),
        _chart("Learning rate", x, f"rate, in units of 1e{power}", [(8, "learning rate", rate)]),
    ]


def _chart(
    title: str,
    x: Axis,
    label: str,
    series: Sequence[tuple[int, str, Sequence[tuple[int, float]]]],
    *,
    within: tuple[float, float] | None = None,
) -> CurveChart:
    drawn = [each for each in series if each[2]]
    y = axis(label, [value for *_, points in drawn for _, value in points] or [0, 1], log=False, within=within)
    curves = []
    for number, text, points in drawn:
        dots = tuple((x.at(epoch), 100 - y.at(value)) for epoch, value in points) if len(points) <= _DOTS else ()
        curves.append(Curve(number, polyline(points, x, y), dots, text))
    return CurveChart(title, Chart(x, y, curves=tuple(curves)), tuple((number, text) for number, text, _ in drawn))


def _matrix(report: RunReport) -> list[list[int]]:
    """Counts ``[truth][answer]``."""
    size = len(report.labels)
    counts = [[0] * size for _ in range(size)]
    for row in report.classes:
        counts[row.target][row.target] = row.right
    for truth, answer, count in report.confusions:
        counts[truth][answer] = count
    return counts


def _mistake_card(each: Mistake, names: Sequence[str]) -> Card:
    lines = (
        ("truth", names[each.photo.target], each.truth_probability, ""),
        ("answer", names[each.answer], each.probability, "wrong"),
    )
    return Card(each.photo, embed(each.photo.file, PICTURE_SIDE), lines)


def _pair_cards(pair: Copies, names: Sequence[str]) -> tuple[Copies, Card, Card]:
    first, second = (
        Card(photo, embed(photo.file, PICTURE_SIDE), ((photo.split, names[photo.target], None, ""),))
        for photo in (pair.first, pair.second)
    )
    return pair, first, second


def _doubted_cards(report: RunReport, split: str, names: Sequence[str]) -> tuple[int, list[Card]]:
    """The number of doubted labels of a split, and the first of them."""
    mine: list[Doubted] = [each for each in report.doubted if each.photo.split == split]
    return len(mine), [
        Card(
            each.photo,
            embed(each.photo.file, PICTURE_SIDE),
            (
                ("label", names[each.photo.target], each.label_probability, ""),
                ("looks like", names[each.suggested], each.probability, "right"),
            ),
        )
        for each in mine[:PICTURES]
    ]
