"""From images to a file of features: the same pixels and runners as ``infer``, in a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError, require_positive
from alexnet_deploy.features.index import check_output, open_writer
from alexnet_deploy.features.space import FeatureSpace, space_of
from alexnet_deploy.images.find import find_images
from alexnet_deploy.images.sources import Source
from alexnet_deploy.inference.batches import PixelBatch, require_batch
from alexnet_deploy.inference.engine import OpenEngine
from alexnet_deploy.inference.predict import in_batches
from alexnet_deploy.probabilities import finite_rows

# Legend: N image, H height, W width, C channel (RGB), F feature

S = TypeVar("S", bound=Path | Source)


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """The images of one batch in order, one line for each that has no features, and the features of the others.

    ``pixels_NHWC`` belong to the features, and change when the next rows are asked for.
    """

    files: tuple[str, ...]
    errors: tuple[str | None, ...]
    vectors_NF: NDArray[np.float32]
    pixels_NHWC: NDArray[np.uint8]

    @property
    def good(self) -> list[str]:
        """The files that have features."""
        return [file for file, error in zip(self.files, self.errors, strict=True) if error is None]


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """A file of features: how many vectors it has, and how many images had none."""

    path: Path
    space: FeatureSpace
    rows: int
    failed: int


def feature_rows(
    opened: OpenEngine, images: Iterable[S], *, batch: int | None = None, workers: int | None = None
) -> Iterator[FeatureRows]:
    """The features of ``images``, in order and streaming; ``opened`` with ``features``.

    Raises UsageError at the call for a number out of range, or an engine that names classes.
    """
    space_of(opened)
    pre = opened.contract.preprocessing
    size = opened.default_batch() if batch is None else batch
    require_positive(workers=workers)
    require_batch(size, pre)
    layer = "" if opened.contract.features is None else opened.contract.features.layer

    def rows(read: PixelBatch[S], vectors_NF: NDArray[np.float32] | None) -> list[FeatureRows]:
        found_NF = np.empty((0, opened.contract.outputs), np.float32) if vectors_NF is None else vectors_NF
        finite_N = finite_rows(found_NF)
        finite, errors = iter(finite_N), list(read.errors)
        for number, file in enumerate(read.files):
            if errors[number] is None and not next(finite):
                errors[number] = f"{file}: the output of layer {layer} is not finite; try an engine of higher precision"
        files, pixels_NHWC = tuple(map(str, read.files)), read.pixels_NHWC
        if not finite_N.all():
            found_NF, pixels_NHWC = found_NF[finite_N], pixels_NHWC[finite_N]
        return [FeatureRows(files, tuple(errors), found_NF, pixels_NHWC)]

    return in_batches(opened.side_by_side() or opened, images, rows, pre, batch=size, workers=workers)


def images_of(images: str | Path | Iterable[S | str]) -> Iterable[S | Path]:
    """Image files, folders and patterns as image files; an iterator has files and is read as it comes.

    Raises InputError at the call for a source that is missing or has no image.
    """
    if isinstance(images, Iterator):
        return (Path(each) if isinstance(each, str) else each for each in images)
    named = [images] if isinstance(images, str | Path) else images
    return find_images([each if isinstance(each, str | Path) else str(each) for each in named])


def features_of(
    opened: OpenEngine,
    images: str | Path | Iterable[str | Path],
    *,
    batch: int | None = None,
    workers: int | None = None,
) -> NDArray[np.float32]:
    """The features ``[N, F]`` of N images, in memory; ``opened`` with ``features``.

    ``images`` are files, folders (recursive) and glob patterns, or one of these. Raises InputError if one of them
    cannot be read: else rows and images would no longer belong together.
    """
    found = []
    for read in feature_rows(opened, images_of(images), batch=batch, workers=workers):
        for error in filter(None, read.errors):
            raise InputError(error)
        found.append(read.vectors_NF)
    return np.concatenate(found) if found else np.empty((0, opened.contract.outputs), np.float32)


def extract_features(
    opened: OpenEngine,
    images: str | Path | Iterable[Path | Source | str],
    output: str | Path,
    *,
    batch: int | None = None,
    workers: int | None = None,
    on_rows: Callable[[int], None] = lambda rows: None,
    on_failure: Callable[[str], None] = lambda reason: None,
) -> FeatureFile:
    """Write the features of ``images`` into ``output`` (.parquet or .npz), which appears whole at the end.

    ``opened`` was opened with ``features``. ``images`` are as for ``features_of``, or an iterator of image files, which
    is read as it goes. One that is named again has one row; memory grows by the names alone. An image that cannot be
    read has no row: ``on_failure`` gets one line for each. ``on_rows`` gets the number of images so far.

    Raises InputError if no image has features (``output`` is then as it was), and as ``index.open_writer``.
    """
    path = Path(output)
    check_output(path)
    space = space_of(opened)
    rows, failures = 0, 0
    first = ""
    with open_writer(path, space) as write:
        for found in feature_rows(opened, _once(images_of(images)), batch=batch, workers=workers):
            good = found.good
            if good:
                write(good, found.vectors_NF)
            rows += len(good)
            for reason in filter(None, found.errors):
                failures += 1
                first = first or reason
                on_failure(reason)
            on_rows(rows + failures)
        if not rows:
            raise InputError(f"none of the {failures} images has features, so {path} is not written; first: {first}")
    return FeatureFile(path, space, rows, failures)


def _once(images: Iterable[S]) -> Iterator[S]:
    """``images`` without those that came before: a second row would only be a neighbour of the first."""
    seen = set()
    for image in images:
        if (name := str(image)) not in seen:
            seen.add(name)
            yield image
