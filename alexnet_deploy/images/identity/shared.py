"""Find images that two sets share, by content: an image that helped to make an engine must not evaluate it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from alexnet_deploy.errors import InputError
from alexnet_deploy.files import sha256_of


def image_hashes(files: Iterable[Path], *, sizes: Collection[int] | None = None) -> dict[Path, str]:
    """SHA-256 of each file, of these ``sizes`` in bytes alone if given.

    A file that cannot be read is left out: opening it as an image reports the cause.
    """
    found = {}
    for file in files:
        try:
            if sizes is None or file.stat().st_size in sizes:
                found[file] = sha256_of(file)
        except OSError:
            continue
    return found


def shared_images(hash_of: Mapping[Path, str], hashes: Iterable[str]) -> tuple[Path, ...]:
    """The files in ``hash_of`` whose SHA-256 is among ``hashes``."""
    known = set(hashes)
    return tuple(file for file, sha256 in hash_of.items() if sha256 in known)


def refuse_shared_images(shared: Sequence[Path], use: str, remedy: str) -> None:
    """InputError if ``shared`` is not empty; ``use`` is the other use of its files: "calibrated mine-int8"."""
    if shared:
        more = f", along with {len(shared) - 1} more of these images" if len(shared) > 1 else ""
        raise InputError(f"{shared[0]}: {use}{more}; {remedy}")


def count_copies(files: Sequence[Path]) -> int:
    """Number of ``files`` with the content of an earlier one; only files of equal size are read."""
    by_size: dict[int, list[Path]] = {}
    for file in files:
        by_size.setdefault(file.stat().st_size, []).append(file)
    return sum(len(same) - len(set(map(sha256_of, same))) for same in by_size.values() if len(same) > 1)
