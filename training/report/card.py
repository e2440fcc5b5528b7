"""The card of a run in Markdown: what the model is, what it reached, and how it was made."""

from __future__ import annotations

from training.markdown import escaped
from training.report.measure import RunReport
from training.report.page import class_names, settings_of

_CLASSES = 50
"""Class names in full; of more, so many and the number of the others."""
_WEAK = 10
"""Rows of the table of classes: those that are right least often."""


def card_text(report: RunReport) -> str:
    """The card; every name is escaped, so that it is text and no markup."""
    found, training, contract = report.accuracy, report.training, report.checkpoint.contract
    names = [escaped(name) for name in class_names(report)]
    more = f" and {len(names) - _CLASSES:,} more" if len(names) > _CLASSES else ""
    pre = contract.preprocessing
    lines = [
        f"# {escaped(report.name)}",
        "",
        f"An image classifier, {report.checkpoint.arch.name}, for {len(names):,} classes: "
        f"{', '.join(names[:_CLASSES])}{more}.",
        "",
        "## What it reached",
        "",
        "| | |",
        "|---|---:|",
        f"| validation images | {found.images:,} |",
        f"| top-1 | {found.top1_percent:.2f} % ({found.top1_interval.low:.1f}..{found.top1_interval.high:.1f}) |",
    ]
    if len(names) > 5:
        lines.append(
            f"| top-5 | {found.top5_percent:.2f} % ({found.top5_interval.low:.1f}..{found.top5_interval.high:.1f}) |"
        )
    if abs(report.class_mean_percent - found.top1_percent) >= 0.05:
        lines.append(f"| mean over the classes | {report.class_mean_percent:.2f} % |")
    lines += [
        f"| a blind guess | {100 / len(names):.2f} % |",
        f"| always {names[report.majority[0]]}, the most frequent class | {report.majority[1]:.2f} % |",
        f"| top-1 on {training.images:,} training images | {training.top1_percent:.2f} % |",
    ]
    if found.confidence is not None:
        lines += [
            f"| calibration error (ECE) | {found.confidence.ece_percent:.2f} % |",
            f"| cross-entropy | {found.confidence.nll_nats:.3f} |",
        ]
    lines += [
        "",
        "In brackets: 95 % intervals (Wilson). Each image is measured once, as inference sees it: "
        + _resizing(pre.resize, pre.resize_to, pre.height, pre.width)
        + ".",
        "",
        "Right least often:",
        "",
        "| class | images | top-1 % | most often taken for |",
        "|---|---:|---:|---|",
    ]
    for row in report.classes[:_WEAK]:
        taken_for = "" if row.taken_for is None else f"{names[row.taken_for[0]]} ({row.taken_for[1]:,})"
        percent = f"{row.percent:.1f} ({row.interval.low:.1f}..{row.interval.high:.1f})"
        lines.append(f"| {names[row.target]} | {row.images:,} | {percent} | {taken_for} |")
    lines += ["", "## What to know", "", *(f"- {text}" for text in _limits(report)), "", "## How it was made", ""]
    lines += [f"{report.training_images:,} training images. Settings:", "", "| setting | value |", "|---|---|"]
    lines += [f"| {escaped(name)} | {escaped(value)} |" for name, value in settings_of(report)]
    return "\n".join([*lines, ""])


def _resizing(resize: str, resize_to: int | None, height: int, width: int) -> str:
    if resize == "stretch":
        return f"stretched to {width} x {height} pixels"
    return f"the shorter side resized to {resize_to} pixels, then the central {width} x {height}"


def _limits(report: RunReport) -> list[str]:
    """What a user of the model must know about its numbers, one sentence each."""
    found = list(report.notes)
    if report.accuracy.not_finite:
        found.append(f"{report.accuracy.not_finite:,} answers are not finite and count as wrong.")
    crossing = sum(pair.crosses_splits for pair in report.copies)
    if crossing:
        pairs = f"{crossing:,} pairs of near-duplicates lie" if crossing > 1 else "A pair of near-duplicates lies"
        found.append(f"{pairs} in both splits, so the accuracy may be higher than on new images.")
    if report.doubted:
        found.append(f"Labels that the network doubts: {len(report.doubted):,}; report.html shows them.")
    found.append("It names one of its classes for any image, also for one that shows none of them.")
    if report.epochs.chosen:
        found.append(
            f"The weights are those of {report.epochs.describe()}: chosen by these validation images, so the accuracy "
            "is a little too high."
        )
    found.append("If the settings were tuned on these validation images, the accuracy is a little too high.")
    return found
