"""Files that are the same byte for byte."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from alexnet_deploy.files import sha256_of


def copies(files: Sequence[Path], indices: Iterable[int]) -> Iterator[list[int]]:
    """Groups of two and more byte-identical files, by index, ascending; a file that cannot be read has no copy.

    Only files that share their size with another are read.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    for index in indices:
        try:
            by_size[files[index].stat().st_size].append(index)
        except OSError:
            continue
    by_hash: dict[str, list[int]] = defaultdict(list)
    for group in by_size.values():
        for index in group if len(group) > 1 else ():
            try:
                by_hash[sha256_of(files[index])].append(index)
            except OSError:
                continue
    yield from (group for group in by_hash.values() if len(group) > 1)
