"""What is wrong with a labelled data set, told before the first step instead of after the last epoch."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from alexnet_deploy.errors import InputError
from alexnet_deploy.files import atomic_file
from alexnet_deploy.images.decode import open_rgb
from training.listing import Listing

_CHUNK = 64  # files a task: a task for each of a million files would need gigabytes

ALLOW_UNREADABLE, ALLOW_LEAK, ALLOW_TWO_CLASSES = "--allow-unreadable", "--allow-leak", "--allow-two-classes"


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of flaw with all its cases, a line each.

    Where ``consequence`` is given, training on would lie or stop; the flag ``allow`` goes on all the same.
    """

    kind: str
    cases: tuple[str, ...]
    consequence: str | None = None
    allow: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """``readable`` says of each file, those of training first, whether training can use it."""

    findings: tuple[Finding, ...]
    readable: NDArray[np.bool_]

    def table(self, allowed: Collection[str]) -> Table:
        """A row a finding, with its first case."""
        table = Table(title="Data preflight", title_justify="left")
        for heading in ("found", "cases", "for example", "so"):
            table.add_column(heading, overflow="fold")  # a path on a narrow terminal goes on in the next line
        for finding in self.findings:
            refused = finding.consequence is not None and finding.allow not in allowed
            verdict = "refused" if refused else finding.allow or "as it is"
            example = Text(finding.cases[0])  # no markup: a file may be named "[red]"
            table.add_row(finding.kind, str(len(finding.cases)), example, verdict, style="red" if refused else None)
        return table

    def write(self, path: Path) -> None:
        """All cases, a line each behind its kind and a tab. Without findings the file of an earlier look goes."""
        if not self.findings:
            path.unlink(missing_ok=True)
            return
        lines = [f"{finding.kind}\t{case}\n" for finding in self.findings for case in finding.cases]
        with atomic_file(path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")

    def check(self, allowed: Collection[str]) -> None:
        """Raise InputError for the first finding that is neither harmless nor among the ``allowed`` flags."""
        for finding in self.findings:
            if finding.consequence is not None and finding.allow not in allowed:
                more = f" (and {len(finding.cases) - 1} more)" if len(finding.cases) > 1 else ""
                pass_flag = f", or pass {finding.allow}" if finding.allow else ""
                raise InputError(f"{finding.cases[0]}{more}; {finding.consequence}{pass_flag}")


def inspect_data(
    train: Listing, val: Listing, *, threads: int, on_files: Callable[[int], None] = lambda count: None
) -> Report:
    """Read every file of both splits; ``on_files`` hears how many were done since its last call.

    Every file is decoded in full, as training will: a header tells nothing of a file that is cut off or damaged
    further down, and the whole costs a small part of one epoch. Bytes are hashed only of files that share their size
    with another. Threads are enough: Pillow decodes without the interpreter's lock.
    """
    files = (*train.files, *val.files)
    chunks = [files[i : i + _CHUNK] for i in range(0, len(files), _CHUNK)]
    flaws: list[str | None] = []
    pool = ThreadPoolExecutor(threads)
    try:
        for chunk_flaws in pool.map(_flaws, chunks):
            flaws += chunk_flaws
            on_files(len(chunk_flaws))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C must not wait for all files
    readable = np.array([flaw is None for flaw in flaws], bool)
    findings = (
        Finding(
            "unreadable file",
            tuple(flaw for flaw in flaws if flaw is not None),
            "training would stop there: mend or remove it",
            ALLOW_UNREADABLE,
        ),
        *_class_findings(train.where(readable[: len(train.files)]), val.where(readable[len(train.files) :])),
        *_copy_findings(train, val, readable),
    )
    return Report(tuple(finding for finding in findings if finding.cases), readable)


def _flaws(files: Sequence[Path]) -> list[str | None]:
    """Why each file cannot be read, or None."""
    flaws: list[str | None] = []
    for file in files:
        try:
            open_rgb(file)
            flaws.append(None)
        except InputError as exc:
            flaws.append(str(exc))
    return flaws


def _class_findings(train: Listing, val: Listing) -> Iterator[Finding]:
    trained = np.bincount(train.targets, minlength=len(train.class_ids))
    held = np.bincount(val.targets, minlength=len(val.class_ids))

    def named(mask: NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(f"class {train.class_ids[i]!r}" for i in np.flatnonzero(mask))

    nothing = "no image of it can be read for training: add some, or remove its folder"
    yield Finding("class without a training image", named(trained == 0), nothing)
    if not val.files:
        yield Finding("validation", ("the validation split",), "none of its images can be read: mend it, or pass --val")
    yield Finding("class with one training image", named(trained == 1))
    yield Finding("class without a validation image", named(held == 0))


def _copy_findings(train: Listing, val: Listing, readable: NDArray[np.bool_]) -> Iterator[Finding]:
    files, targets = (*train.files, *val.files), (*train.targets, *val.targets)
    leaks, conflicts, repeats = [], [], []
    for first, *others in _copies(files, np.flatnonzero(readable).tolist()):
        # Training files come first, so ``first`` is one wherever a copy was trained on.
        held = [i for i in others if i >= len(train.files)] if first < len(train.files) else []
        foreign = [i for i in others if targets[i] != targets[first]]
        told = {i: str(InputError(f"{files[i]}: has the same bytes as {files[first]}")) for i in others}  # printable
        leaks += [told[i] for i in held]
        conflicts += [told[i] for i in foreign]
        repeats += [told[i] for i in others if i not in (*held, *foreign)]
    memory = "validation would measure memory: remove one of the two"
    yield Finding("training image in the validation split", tuple(leaks), memory, ALLOW_LEAK)
    wrong = "one of the two classes is wrong: remove it there"
    yield Finding("image under two classes", tuple(conflicts), wrong, ALLOW_TWO_CLASSES)
    yield Finding("image twice in a class", tuple(repeats))


def _copies(files: Sequence[Path], indices: Iterable[int]) -> Iterator[list[int]]:
    """Groups of two and more byte-identical files, by index, ascending."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for index in indices:
        by_size[files[index].stat().st_size].append(index)
    by_hash: dict[bytes, list[int]] = defaultdict(list)
    for group in by_size.values():
        for index in group if len(group) > 1 else ():
            with files[index].open("rb") as stream:
                by_hash[hashlib.file_digest(stream, "sha256").digest()].append(index)
    yield from (group for group in by_hash.values() if len(group) > 1)
