"""What a start may know of the validation images, by the records of its training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.training.start.files import SMALL, small_checkpoint
from training.data.lists.listing import ImageList
from training.start.seen import may_know
from training.start.sources import Source

CLASS_IDS = ("ant", "bee", "cat")
CONTRACT = small_checkpoint(*CLASS_IDS).contract


def images(name: str) -> ImageList:
    """One image per class; none of these files exists, since their contents do not count."""
    root = Path("data")
    return ImageList(root, CLASS_IDS, tuple(root / class_id / f"{name}.jpg" for class_id in CLASS_IDS), (0, 1, 2))


def trained_on(train: ImageList, val: ImageList) -> Source:
    return Source("mine", SMALL, CONTRACT, {}, True, recipe={"data": train.digest() + val.digest()})


TRAIN, VAL, OTHER = images("train"), images("val"), images("other")


@pytest.mark.parametrize(
    ("train", "val", "doubtful"),
    [(TRAIN, VAL, False), (OTHER, VAL, False), (TRAIN, OTHER, False), (OTHER, TRAIN, True)],
)
def test_one_split_with_the_same_names_is_enough(train: ImageList, val: ImageList, doubtful: bool) -> None:
    assert may_know(trained_on(TRAIN, VAL), train, val) is doubtful


def test_weights_whose_classes_have_no_names_know_none() -> None:
    source = trained_on(TRAIN, VAL)
    assert may_know(source, OTHER, OTHER)
    assert not may_know(dataclasses.replace(source, has_names=False), OTHER, OTHER)


def test_a_list_of_labels_is_recognised_in_the_records_of_earlier_versions() -> None:
    val = dataclasses.replace(VAL, classes_from="labels")
    recipe = {"data": TRAIN.digest() + val.former_digest()}
    assert val.former_digest() != val.digest()
    assert not may_know(dataclasses.replace(trained_on(TRAIN, val), recipe=recipe), OTHER, val)
    assert not may_know(trained_on(TRAIN, val), OTHER, val)
