"""The files of a run that people read: written from its checkpoint, its metrics and its images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from alexnet_deploy.errors import ArtifactError, InputError, one_line, printable
from alexnet_deploy.files import atomic_file, open_regular
from alexnet_deploy.model.checkpoint import load_checkpoint
from alexnet_deploy.progress import Progress, no_progress
from training.data.lists.listing import ImageList
from training.loop.run import EpochMetrics
from training.report.card import card_text
from training.report.measure import Photo, RunReport, measure_run
from training.report.page import class_names, write_page
from training.run_files import CHECKPOINT, METRICS

PAGE, CARD, SUSPECTS = "report.html", "card.md", "suspects.txt"


def write_report(
    run: Path,
    train: ImageList,
    val: ImageList,
    *,
    checkpoint: str = CHECKPOINT,
    workers: int,
    notes: Sequence[str] = (),
    on_progress: Progress = no_progress,
) -> tuple[Path, Path]:
    """Write ``report.html``, ``card.md`` and ``suspects.txt`` of the run directory ``run``; return the first two.

    ``checkpoint`` is the name of the one to measure. Raises InputError and ArtifactError for files of the run or
    images that cannot be read, UnavailableError if a file cannot be written; each file is then as it was or whole. A
    ``suspects.txt`` in which somebody chose an image stays as it is.
    """
    loaded = load_checkpoint(run / checkpoint)
    if loaded.contract.class_ids != val.class_ids:
        raise InputError(
            f"{run / checkpoint}: has {len(loaded.contract.class_ids)} classes ({loaded.contract.class_ids[0]}, ...), "
            f"the images have {len(val.class_ids)} ({val.class_ids[0]}, ...); give the data that it was trained on"
        )
    name = Path(os.path.abspath(run)).name
    rows = read_metrics(run / METRICS)
    report = measure_run(name, loaded, rows, train, val, workers=workers, notes=notes, on_progress=on_progress)
    write_page(report, run / PAGE)
    _write(card_text(report), run / CARD)
    if not _is_edited(run / SUSPECTS):
        _write(suspects_text(report), run / SUSPECTS)
    return run / PAGE, run / CARD


def read_metrics(path: Path) -> tuple[EpochMetrics, ...]:
    """The epochs that a run recorded; none if it has no record. ArtifactError if it is damaged."""
    try:
        with open_regular(path) as stream:
            return tuple(msgspec.json.decode(line, type=EpochMetrics) for line in stream)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as exc:
        raise ArtifactError(f"{path}: is not a readable record of epochs ({one_line(exc)}); remove it") from exc


def suspects_text(report: RunReport) -> str:
    """Every near-duplicate and doubted label as a list for ``exclude``, each path behind a ``#``."""
    names = class_names(report)
    lines = [
        "# Near-duplicates and doubted labels, to look at; report.html has pictures of the first.",
        "# To leave an image out, remove the # before its path, and train with --exclude and this file.",
    ]

    def add(photo: Photo, text: str) -> None:
        path = os.path.abspath(photo.file)
        lines.append(f"# {printable(text)}:")
        # A path with a line break would become two lines, the second one not behind a #.
        lines.append(f"#{path}" if path.isprintable() else f"# {printable(path)} (cannot be listed; rename it)")

    for pair in report.copies:
        other = f"{names[pair.first.target]}, {pair.first.split} image {pair.first.name}"
        add(pair.second, f"{names[pair.second.target]}, {pair.second.split} image, looks like {other}")
    for each in report.doubted:
        add(each.photo, f"{names[each.photo.target]}, {each.photo.split} image, looks like {names[each.suggested]}")
    return "\n".join([*lines, ""])


def _is_edited(suspects: Path) -> bool:
    """Whether a line of the list is not behind a ``#``."""
    try:
        with open_regular(suspects) as stream:
            return any(line.strip() and not line.startswith(b"#") for line in stream)
    except OSError:
        return False


def _write(text: str, path: Path) -> None:
    with atomic_file(path) as temporary:
        # As in the page, bytes of a name that are no text become \\udcXX.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
