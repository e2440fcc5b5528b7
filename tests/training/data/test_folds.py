"""The splits of a cross-validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.errors import DeployError, UsageError
from training.data.folds import fold_splits
from training.data.listing import ImageList


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
        ([9, 1], 2, "`folds` 2: class 'c1' has 1 images; add images, or remove the class"),
        ([9, 6], 1, "`folds` 1: must be 2 or more; 5 is usual"),
    ],
)
def test_folds_that_cannot_be(sizes: list[int], folds: int, message: str) -> None:
    with pytest.raises(DeployError) as caught:
        list(fold_splits(images_of(sizes), folds, 0))
    assert str(caught.value) == message
    assert isinstance(caught.value, UsageError) is (folds < 2)
