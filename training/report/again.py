"""The report of a finished run, measured again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from alexnet_deploy.model.checkpoint import load_checkpoint
from alexnet_deploy.progress import Progress, no_progress
from training.data.lists.splits import list_splits
from training.data.preflight import readable_part
from training.report.files import write_report
from training.report.images import DataSettings, read_data_settings
from training.run_files import CHECKPOINT

OTHER_IMAGES = (
    "The images are not those of the run: files were added, removed or renamed, or other splits were given. If the "
    "run trained on some of these validation images, the accuracy is too high."
)


def report_run(
    run: Path,
    data: Path | None = None,
    *,
    val: Path | None = None,
    val_labels: Path | None = None,
    allow_unreadable: bool = False,
    workers: int = 2,
    on_progress: Progress = no_progress,
) -> tuple[Path, Path]:
    """Write the report of the run directory ``run`` on ``data``; None: the images that the run recorded.

    Returns the page and the card. ``val``, ``val_labels`` and ``allow_unreadable`` are as for ``train``; a run that was
    trained with ``allow_unreadable`` is measured so on its own images. Raises the errors of ``list_splits`` and
    ``write_report``; InputError or ArtifactError if the run does not say where its images are.
    """
    recipe = load_checkpoint(run / CHECKPOINT).recipe
    if data is None:
        settings = read_data_settings(run)
        if val is not None:  # it stands for the validation split of the run
            settings = dataclasses.replace(settings, val=val, val_labels=None, val_share=None)
    else:
        seed = recipe.get("seed")
        settings = DataSettings(data, seed if isinstance(seed, int) else 0, val=val)
    if val_labels is not None:
        settings = dataclasses.replace(settings, val_labels=val_labels)
    both = list_splits(
        settings.data,
        val=settings.val,
        val_labels=settings.val_labels,
        val_share=settings.val_share,
        exclude=settings.exclude,
        seed=settings.seed,
    )
    if settings.allow_unreadable or allow_unreadable:
        threads = max(1, workers)
        train_images, val_images = (readable_part(each, threads=threads, on_progress=on_progress)[0] for each in both)
        both = (train_images, val_images)
    known = ("".join(each.digest() for each in both), "".join(each.former_digest() for each in both))
    notes = () if recipe.get("data") in known else (OTHER_IMAGES,)
    return write_report(run, *both, workers=workers, notes=notes, on_progress=on_progress)
