"""What a run learns from its teachers: the settings, and the teachers that they name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.model.checkpoint import Checkpoint
from training.choices import TEMPERATURE, WEIGHT, TeacherView
from training.data.lists.class_names import match_classes
from training.data.lists.listing import ImageList
from training.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """How to learn from teachers. None: the default, or no teacher."""

    teacher: Sequence[str | Path] | None = None
    """Whose answers are learnt, named as for ``start``; of several, the mean of their probabilities."""
    teacher_view: TeacherView | None = None
    """``same`` (the default): the augmented picture that the student sees."""
    distill_temperature: float | None = None
    distill_weight: float | None = None
    """Share of the teachers in the loss; the labels have the rest."""


@dataclass(frozen=True, slots=True)
class Distillation:
    """The teachers of a run, with their outputs in the order of the run's classes."""

    teachers: tuple[Checkpoint, ...]
    view: TeacherView
    """What a teacher sees of a training picture.

    ``same``: the student's own pixels, with their crop, flip and colours. Beyer et al. (arXiv:2106.05237) call it
    consistent teaching, the best of their comparison. Each view is new, so the teachers run in every step.
    ``single`` and ``ten-crop``: the whole picture as the teacher's inference sees it, or the paper's ten views of it,
    whatever the student sees. That answer never changes, so it is computed once (``teacher.cached_targets``)."""
    temperature: float
    weight: float
    folder: Path
    """Where the answers to fixed views are kept."""

    @property
    def is_fixed(self) -> bool:
        """Whether a teacher gives the same answer to a picture in every epoch."""
        return self.view != "same"

    def training_list(self, images: ImageList) -> ImageList:
        """``images`` for the loader: with a fixed view, a picture's target is its place in the list.

        By it ``Teaching`` finds both the teacher's answer and the class."""
        return dataclasses.replace(images, targets=tuple(range(len(images.files)))) if self.is_fixed else images

    def config(self) -> dict[str, Any]:
        """What determines the answers and their influence; a resumed run must have the same."""
        digests = [_digest(checkpoint) for checkpoint in self.teachers]
        return {"view": self.view, "temperature": self.temperature, "weight": self.weight, "sha256": digests}


def plan_distillation(
    settings: TeacherSettings,
    class_ids: tuple[str, ...],
    recipe: Recipe,
    folder: Path,
    *,
    read: Callable[[str | Path], Checkpoint],
) -> Distillation | None:
    """The distillation that ``settings`` describe; None without a teacher. ``read`` gives the checkpoint of each.

    A teacher whose classes come in another order is matched by their names. Raises UsageError for settings that do not
    fit, InputError for a teacher of other classes, and the errors of ``read``.
    """
    options = {name: getattr(settings, name) for name in ("teacher_view", "distill_temperature", "distill_weight")}
    if not settings.teacher:
        if given := [name for name, value in options.items() if value is not None]:
            raise UsageError(f"`{given[0]}` {options[given[0]]}: has no effect without `teacher`; add it")
        return None
    temperature, weight = (
        default if value is None else value
        for value, default in ((settings.distill_temperature, TEMPERATURE), (settings.distill_weight, WEIGHT))
    )
    if not 0.1 <= temperature <= 100:
        raise UsageError(f"`distill_temperature` {temperature}: must be from 0.1 to 100, such as 2")
    if not 0 < weight <= 1:
        raise UsageError(f"`distill_weight` {weight}: must be a share above 0 and at most 1, such as 0.9")
    view = settings.teacher_view or "same"
    if view != "same" and recipe.mix != "none":
        raise UsageError(
            f"`teacher_view` {view}: its answers are to whole pictures, and the recipe mixes pictures; use same, or "
            "`overrides` mix=none"
        )
    teachers = tuple(_in_order(read(name), class_ids, name) for name in settings.teacher)
    return Distillation(teachers, view, temperature, weight, folder)


def _in_order(teacher: Checkpoint, class_ids: tuple[str, ...], name: str | Path) -> Checkpoint:
    """``teacher`` with the outputs, labels and class ids in the order of ``class_ids``; InputError for others."""
    known = teacher.contract.class_ids
    if known == class_ids:
        return teacher
    found = match_classes(teacher.contract, class_ids)
    order = [number for number in found if number is not None]
    if len(order) < len(class_ids) or len(order) < len(known):
        odd = [*(class_ids[place] for place, number in enumerate(found) if number is None),
               *(known[number] for number in range(len(known)) if number not in order)]  # fmt: skip
        raise InputError(
            f"`teacher` {name}: has {len(known)} classes, the data has {len(class_ids)} ({sorted(odd)[0]!r} is only in "
            "one of the two); give a teacher of the same classes"
        )
    contract = dataclasses.replace(
        teacher.contract, class_ids=class_ids, labels=tuple(teacher.contract.labels[index] for index in order)
    )
    last = {key: teacher.weights[key][order] for key in ("classifier.6.weight", "classifier.6.bias")}
    return dataclasses.replace(teacher, contract=contract, weights=teacher.weights | last)


def _digest(checkpoint: Checkpoint) -> str:
    """SHA-256 over weights, architecture and contract, independent of the file."""
    digest = hashlib.sha256(json.dumps(checkpoint.arch.to_dict()).encode() + checkpoint.contract.to_json().encode())
    for name, value in sorted(checkpoint.weights.items()):
        digest.update(name.encode() + value.contiguous().float().numpy().tobytes())
    return digest.hexdigest()
