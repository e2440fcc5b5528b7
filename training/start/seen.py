"""Whether trained weights may know the images that a run validates on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from training.data.lists.class_names import match_classes
from training.data.lists.listing import ImageList
from training.start.sources import Source

MAY_KNOW = "may_know_validation"
"""Key below ``started_from`` in the recipe of a checkpoint: the answer of ``may_know`` for its run."""


def may_know(source: Source, train: ImageList, val: ImageList) -> bool:
    """Whether images of ``val`` may be among those that ``source`` was trained on: it has one of their classes.

    Not if every training on record, of what ``source`` was made from as well, had the same training images or the same
    validation images: the two splits of one data set share none. The same are those of the same names, the paths below
    the data and the classes; their contents are not compared.
    """
    if not source.has_names or all(number is None for number in match_classes(source.contract, val.class_ids)):
        return False
    trained = [recipe for recipe in _ancestors(source.recipe) if "data" in recipe]
    return not trained or any(_may_differ(recipe, train, val) for recipe in trained)


def seen_note(recipe: Mapping[str, Any]) -> str | None:
    """What to tell of a checkpoint, or of the start of a run, with this ``recipe``; None where nothing is doubtful."""
    started = recipe.get("started_from")
    if not isinstance(started, dict) or started.get(MAY_KNOW) is not True:
        return None
    return (
        "The run began with weights that know its classes, and may have been trained on some of its validation images; "
        "the accuracy is then too high."
    )


def _ancestors(recipe: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """``recipe``, and those of the checkpoints that were compressed on the way to it."""
    yield recipe
    compressed = recipe.get("compressed")
    parent = compressed.get("parent_recipe") if isinstance(compressed, dict) else None
    if isinstance(parent, dict):
        yield from _ancestors(parent)


def _may_differ(recipe: Mapping[str, Any], train: ImageList, val: ImageList) -> bool:
    started = recipe.get("started_from")
    if isinstance(started, dict) and started.get(MAY_KNOW, True):
        return True
    data = str(recipe["data"])
    half = len(data) // 2  # the digests of both splits
    return data[:half] not in _digests(train) and data[half:] not in _digests(val)


def _digests(images: ImageList) -> tuple[str, str]:
    return images.digest(), images.former_digest()
