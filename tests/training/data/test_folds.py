"""The splits of a cross-validation."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.errors import DeployError, UsageError
from training.data.lists.folds import fold_splits
from training.data.lists.listing import ImageList


def images_of(sizes: list[int]) -> ImageList:
    targets = [number for number, size in enumerate(sizes) for _ in range(size)]
    names = tuple(f"c{number}" for number in range(len(sizes)))
    return ImageList(Path("x"), names, tuple(Path(f"x/{i}") for i in range(len(targets))), tuple(targets))


@given(st.data())
def test_each_image_is_validated_once_and_each_class_in_every_fold(data: st.DataObject) -> None:
    folds = data.draw(st.integers(2, 6))
    sizes = data.draw(st.lists(st.integers(folds, 20), min_size=1, max_size=5))
    images = images_of(sizes)
    splits = list(fold_splits(images, folds, seed=data.draw(st.integers(0, 9))))
    assert sorted(file for _, val in splits for file in val.files) == sorted(images.files)
    for train, val in splits:
        assert sorted((*train.files, *val.files)) == sorted(images.files)
        assert set(val.targets) == set(range(len(sizes)))
    lengths = [len(val.files) for _, val in splits]
    assert max(lengths) - min(lengths) <= 1
    counts = np.array([np.bincount(val.targets, minlength=len(sizes)) for _, val in splits])
    assert (counts.max(0) - counts.min(0) <= 1).all()


@pytest.mark.parametrize(
    ("sizes", "folds", "message"),
    [
        ([9, 6], 10, "`folds` 10: class 'c1' has 6 images; use `folds` 6, or add images"),
        ([9, 1], 2, "`folds` 2: class 'c1' has 1 image; add images, or remove the class"),
        ([9, 6], 1, "`folds` 1: must be 2 or more; 5 is usual"),
    ],
)
def test_folds_that_cannot_be(sizes: list[int], folds: int, message: str) -> None:
    with pytest.raises(DeployError) as caught:
        list(fold_splits(images_of(sizes), folds, 0))
    assert str(caught.value) == message
    assert isinstance(caught.value, UsageError) is (folds < 2)


@given(st.data())
def test_copies_stay_in_one_fold(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Else a fold validates on what it was trained on, and the check of its data ends the command there."""
    root, folds = tmp_path_factory.mktemp("copies"), data.draw(st.integers(2, 3))
    contents = data.draw(st.lists(st.integers(0, 40), min_size=8, max_size=24))
    targets = data.draw(st.lists(st.integers(0, 1), min_size=len(contents), max_size=len(contents)))
    files = [root / str(number) for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(bytes([content]))
    images = ImageList(root, ("c0", "c1"), tuple(files), tuple(targets))
    try:
        splits = list(fold_splits(images, folds, seed=0))
    except DeployError as exc:
        assert re.search(r"class 'c[01]' has \d+ (different )?images?; ", str(exc))
        return
    for train, val in splits:
        assert not {file.read_bytes() for file in train.files} & {file.read_bytes() for file in val.files}
    assert sorted(file for _, val in splits for file in val.files) == sorted(files)
