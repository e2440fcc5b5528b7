"""What the formats of files of features have in common."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import ArtifactError
from alexnet_deploy.features.space import FeatureSpace

# Legend: N image, F feature

BLOCK_BYTES = 32 << 20
"""Vectors in memory at a time: larger blocks make the search no faster."""
Write = Callable[[Sequence[str], NDArray[np.float32]], None]
"""Appends files and their vectors ``[N, F]``."""


class FeatureIndex(Protocol):
    """An open file of features."""

    path: Path
    space: FeatureSpace
    rows: int

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """The vectors ``[n, F]``, in order; ArtifactError where the file is damaged or a number is not finite."""

    def names(self, rows: Sequence[int]) -> list[str]:
        """The files of some rows."""

    def all_names(self) -> Iterator[list[str]]:
        """The files of all rows, in order and in parts."""


def rows_per_block(width: int) -> int:
    """Vectors of ``width`` numbers that fit in a block."""
    return max(1, BLOCK_BYTES // (4 * width))


def damaged(path: Path, cause: object) -> ArtifactError:
    """The error for a file that is not what a writer left."""
    return ArtifactError(
        f"{path}: is damaged, or no file of features ({cause}); make it again: alexnet-deploy features"
    )


def checked(vectors_NF: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
    """``vectors_NF``; ArtifactError if a number is not finite, which no writer of ours leaves."""
    if not np.isfinite(vectors_NF).all():
        raise damaged(path, "a vector is not finite")
    return vectors_NF


def valid_text(name: str) -> str:
    """A file name need not be valid text: its odd bytes become ``\\\\udcXX``, as in the rows of ``infer``."""
    return name.encode("utf-8", "backslashreplace").decode()


def path_of(name: str) -> Path:
    """The file that ``valid_text`` named."""
    if "\\udc" not in name or os.path.lexists(name):
        return Path(name)
    return Path(re.sub(r"\\udc([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), name))
