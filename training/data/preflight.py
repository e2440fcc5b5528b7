"""Finds the errors in a labelled data set before the first step instead of after the last epoch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError, printable
from alexnet_deploy.files import atomic_file
from alexnet_deploy.images.decode import open_rgb
from alexnet_deploy.images.identity.copies import copies
from alexnet_deploy.progress import Progress, no_progress
from training.data.lists.listing import ImageList

_CHUNK = 64  # files per task: one task for each of a million files would need gigabytes

ALLOW_UNREADABLE, ALLOW_LEAK, ALLOW_TWO_CLASSES = "allow_unreadable", "allow_leak", "allow_two_classes"
"""Settings that let training start in spite of a finding."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of flaw with all its cases, one line each.

    With a ``consequence``, training would stop later or mislead; the setting ``allow`` starts it anyway.
    """

    kind: str
    cases: tuple[str, ...]
    consequence: str | None = None
    allow: str | None = None

    def is_refused(self, allowed: Collection[str]) -> bool:
        """Whether training must not begin, given the settings that are on."""
        return self.consequence is not None and self.allow not in allowed


@dataclass(frozen=True, slots=True)
class PreflightReport:
    """``readable`` has one value per file, training files first: whether training can use it."""

    findings: tuple[Finding, ...]
    readable: NDArray[np.bool_]

    def write(self, path: Path) -> None:
        """Write every case as ``kind<tab>case``. Without findings, remove the file of an earlier preflight."""
        if not self.findings:
            path.unlink(missing_ok=True)
            return
        lines = [f"{finding.kind}\t{case}\n" for finding in self.findings for case in finding.cases]
        with atomic_file(path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")

    def check(self, allowed: Collection[str]) -> None:
        """Raise InputError for the first finding that is neither harmless nor ``allowed``."""
        for finding in self.findings:
            if finding.is_refused(allowed):
                more = f" (and {len(finding.cases) - 1} more)" if len(finding.cases) > 1 else ""
                or_allow = f", or set `{finding.allow}`" if finding.allow else ""
                raise InputError(f"{finding.cases[0]}{more}; {finding.consequence}{or_allow}")


def inspect_data(
    train: ImageList, val: ImageList, *, threads: int, on_progress: Progress = no_progress
) -> PreflightReport:
    """Read every file of both splits.

    Every file is decoded in full, as in training: the header does not show whether the rest is cut off or damaged, and
    decoding everything costs a small part of one epoch. Only files that share their size with another are hashed.
    Threads are enough: Pillow decodes without the interpreter's lock.
    """
    flaws = _flaws_of((*train.files, *val.files), threads, on_progress)
    readable = np.array([flaw is None for flaw in flaws], bool)
    findings = (
        Finding(
            "unreadable file",
            tuple(flaw for flaw in flaws if flaw is not None),
            "training would stop there: repair or remove it",
            ALLOW_UNREADABLE,
        ),
        *_class_findings(train.where(readable[: len(train.files)]), val.where(readable[len(train.files) :])),
        *_copy_findings(train, val, readable),
    )
    return PreflightReport(tuple(finding for finding in findings if finding.cases), readable)


def readable_part(
    images: ImageList, *, threads: int, on_progress: Progress = no_progress
) -> tuple[ImageList, tuple[str, ...]]:
    """``images`` without the files that cannot be read, and the reason for each; InputError if none is left."""
    flaws = _flaws_of(images.files, threads, on_progress)
    reasons = tuple(flaw for flaw in flaws if flaw is not None)
    if len(reasons) == len(images.files):
        raise InputError(f"{images.root}: none of its images can be read, first {reasons[0]}; give others")
    return images.where(np.array([flaw is None for flaw in flaws], bool)), reasons


def _flaws_of(files: Sequence[Path], threads: int, on_progress: Progress) -> list[str | None]:
    """As ``_flaws``, with several threads."""
    chunks = [files[i : i + _CHUNK] for i in range(0, len(files), _CHUNK)]
    flaws: list[str | None] = []
    pool = ThreadPoolExecutor(threads)
    try:
        for chunk_flaws in pool.map(_flaws, chunks):
            flaws += chunk_flaws
            on_progress("preflight", len(flaws), len(files))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C must not wait for all files
    return flaws


def _flaws(files: Sequence[Path]) -> list[str | None]:
    """For each file the reason that it cannot be read, or None."""
    flaws: list[str | None] = []
    for file in files:
        try:
            open_rgb(file)
            flaws.append(None)
        except InputError as exc:
            flaws.append(str(exc))
    return flaws


def _class_findings(train: ImageList, val: ImageList) -> Iterator[Finding]:
    train_counts = np.bincount(train.targets, minlength=len(train.class_ids))
    val_counts = np.bincount(val.targets, minlength=len(val.class_ids))

    def classes(mask: NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(f"class {train.class_ids[i]!r}" for i in np.flatnonzero(mask))

    nothing = "no image of it can be read for training: add some, or remove its folder"
    yield Finding("class without a training image", classes(train_counts == 0), nothing)
    if not val.files:
        no_val = "none of its images can be read: repair it, or give `val`"
        yield Finding("validation", ("the validation split",), no_val)
    yield Finding("class with one training image", classes(train_counts == 1))
    yield Finding("class without a validation image", classes(val_counts == 0))


def _copy_findings(train: ImageList, val: ImageList, readable: NDArray[np.bool_]) -> Iterator[Finding]:
    files, targets = (*train.files, *val.files), (*train.targets, *val.targets)
    leaks, conflicts, repeats = [], [], []
    for first, *others in copies(files, np.flatnonzero(readable).tolist()):
        # Training files come first, so ``first`` is one of them whenever a copy is.
        leaked = [i for i in others if i >= len(train.files)] if first < len(train.files) else []
        mislabelled = [i for i in others if targets[i] != targets[first]]
        cases = {i: printable(f"{files[i]}: has the same bytes as {files[first]}") for i in others}
        leaks += [cases[i] for i in leaked]
        conflicts += [cases[i] for i in mislabelled]
        repeats += [cases[i] for i in others if i not in (*leaked, *mislabelled)]
    memory = "validation would include training images: remove one of the two"
    yield Finding("training image in the validation split", tuple(leaks), memory, ALLOW_LEAK)
    wrong = "one of the two classes is wrong: remove it there"
    yield Finding("image under two classes", tuple(conflicts), wrong, ALLOW_TWO_CLASSES)
    yield Finding("image twice in a class", tuple(repeats))
