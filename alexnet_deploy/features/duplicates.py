"""The copies in a set of images: exact ones by their bytes, near ones by their looks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.features.extract import feature_rows, images_of
from alexnet_deploy.features.near_copies import SAME_BOTH, Looks
from alexnet_deploy.images.identity.copies import copies
from alexnet_deploy.inference.engine import OpenEngine


@dataclass(frozen=True, slots=True)
class NearCopies:
    """Two files that look alike: correlation of their pixels, cosine of their features, and the mean of both."""

    first: str
    second: str
    alike: float
    pixels: float
    features: float


@dataclass(frozen=True, slots=True)
class Duplicates:
    """The copies in a set of images."""

    images: int
    """Files that were looked at, readable or not; one that was named several times, or by a link, counts once."""
    exact: tuple[tuple[str, ...], ...]
    """Groups of files with the same bytes."""
    near: tuple[NearCopies, ...]
    """Pairs, the most alike first; of files with the same bytes the first stands for all."""
    failed: tuple[str, ...]
    """One line for each file that cannot be read."""


def find_duplicates(
    opened: OpenEngine,
    images: str | Path | Iterable[Path | str],
    *,
    threshold: float = SAME_BOTH,
    batch: int | None = None,
    workers: int | None = None,
    on_images: Callable[[int, int], None] = lambda done, total: None,
) -> Duplicates:
    """Look for copies among ``images``; ``opened`` with ``features`` and ``layer="*"``.

    ``images`` are files, folders (recursive) and glob patterns, or one of these. One file by two names, also by a
    symbolic or hard link, is no copy: only its first name is looked at.

    Near copies are pairs with a likeness (``NearCopies.alike``) of ``threshold`` or more, 1 for the same picture.
    Memory grows by some 7 KB per image, time with the square of their number. ``on_images`` gets the number of images
    so far, and of all that are not exact copies.

    Raises UsageError for a threshold that is no share or an engine opened at another layer, InputError if no image can
    be read.
    """
    if not 0 < threshold <= 1:  # NaN as well
        raise UsageError(f"`threshold` {threshold}: give a likeness above 0 and up to 1, which is the same picture")
    features = opened.contract.features
    shape = () if features is None else features.shape
    if features is not None and not features.has_places:
        _require_none_with_places(opened, features.layer)
    files = _apart(images_of(images))
    groups = list(copies(files, range(len(files))))
    again = {number for group in groups for number in group[1:]}
    alone = [file for number, file in enumerate(files) if number not in again]
    looks = Looks()
    readable: list[str] = []
    failed: list[str] = []
    for found in feature_rows(opened, alone, batch=batch, workers=workers):
        good = found.good
        if good:
            maps = found.vectors_NF.reshape(len(good), *shape) if len(shape) == 3 else found.vectors_NF
            looks.add(maps, found.pixels_NHWC)
            readable += good
        failed += filter(None, found.errors)
        on_images(len(readable) + len(failed), len(alone))
    if not readable:
        raise InputError(
            f"none of the {len(files)} images can be read; first: {failed[0] if failed else 'none is named'}"
        )
    near = tuple(
        NearCopies(readable[pair.first], readable[pair.second], pair.alike, pair.pixels, pair.features)
        for pair in looks.pairs(threshold)
    )
    return Duplicates(
        len(files), tuple(tuple(str(files[number]) for number in group) for group in groups), near, tuple(failed)
    )


def _require_none_with_places(opened: OpenEngine, layer: str) -> None:
    """UsageError if the network has a layer with places of the picture: it was to be opened there."""
    from alexnet_deploy.onnx_graph.cut import last_maps
    from alexnet_deploy.onnx_graph.onnx_file import load_onnx

    with opened.held():
        maps = last_maps(load_onnx(opened.onnx_path))
    if maps is not None:
        raise UsageError(
            f"{opened.name}: gives the output of layer {layer}, which has no places of a picture, and this compares "
            f"places; open it with `layer` '*', the last layer that has them"
        )


def _apart(files: Iterable[Path]) -> list[Path]:
    """``files`` without further names of one file on the disk."""
    found: dict[object, Path] = {}
    for file in files:
        identity: object = file
        with suppress(OSError, ValueError):  # reported when it is read; ValueError: a NUL byte in its name
            state = file.stat()
            if state.st_ino:  # some file systems have no number for a file
                identity = (state.st_dev, state.st_ino)
        found.setdefault(identity, file)
    return list(found.values())
