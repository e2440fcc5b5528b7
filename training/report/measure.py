"""A finished run -> all numbers of its report: every image once through the network, as inference sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.evaluation.accuracy import accuracy, reliability
from alexnet_deploy.evaluation.answers import Answers
from alexnet_deploy.evaluation.results import Accuracy, Interval, ReliabilityBin
from alexnet_deploy.evaluation.statistics import wilson_percent
from alexnet_deploy.model.checkpoint import Checkpoint
from alexnet_deploy.probabilities import finite_rows, predicted_classes, probabilities, softmax
from alexnet_deploy.progress import Progress, no_progress
from training.data.lists.listing import ImageList
from training.epochs import Epochs, epochs_of
from training.loop.run import EpochMetrics
from training.report.duplicates import RunLooks
from training.report.labels import doubted_labels
from training.results.evaluate import collect_answers
from training.start.seen import seen_note

# Legend: N image, K class, Q pair of classes

Split = Literal["training", "validation"]

LOOKED_AT = 10_000
"""Images of a split that are compared with each other, and training images that are looked at at all."""
PICTURES = 24
"""Cards per list, and of doubted labels per split."""
_ROWS = 4096  # images per step, as in evaluation/accuracy.py


@dataclass(frozen=True, slots=True)
class Photo:
    """One labelled image."""

    split: Split
    file: Path
    name: str
    """Path for people, relative to the folder of its split."""
    target: int


@dataclass(frozen=True, slots=True)
class Mistake:
    """A wrong answer, with the probabilities of the answer and of the true class."""

    photo: Photo
    answer: int
    probability: float
    truth_probability: float


@dataclass(frozen=True, slots=True)
class Doubted:
    """A label that the network doubts, with the probabilities of the suggested class and of the label."""

    photo: Photo
    suggested: int
    probability: float
    label_probability: float


@dataclass(frozen=True, slots=True)
class Copies:
    """Two pictures that look the same; ``alike_percent`` is how far their pixels agree."""

    first: Photo
    second: Photo
    alike_percent: float

    @property
    def crosses_splits(self) -> bool:
        """Whether training has seen an image of the validation split."""
        return self.first.split != self.second.split

    @property
    def crosses_classes(self) -> bool:
        """Whether one of the two labels must be wrong."""
        return self.first.target != self.second.target


@dataclass(frozen=True, slots=True)
class ClassResult:
    """One class on the validation images; ``taken_for`` is the most frequent wrong answer and its number."""

    target: int
    images: int
    right: int
    interval: Interval
    taken_for: tuple[int, int] | None

    @property
    def percent(self) -> float:
        """Share of its images that are right."""
        return 100 * self.right / self.images


@dataclass(frozen=True, slots=True)
class RunReport:
    """Everything that the page and the card show of one run."""

    name: str
    created: str
    checkpoint: Checkpoint
    rows: tuple[EpochMetrics, ...]
    """Empty if the run left no record of its epochs."""
    accuracy: Accuracy
    """On the validation images."""
    training: Accuracy
    """On training images, whole and without augmentation."""
    training_images: int
    """All of them; ``training`` has those that were looked at."""
    majority: tuple[int, float]
    """The most frequent class of the validation images, and its share in percent."""
    classes: tuple[ClassResult, ...]
    """The classes with a validation image, the least often right first."""
    confusions: tuple[tuple[int, int, int], ...]
    """(truth, answer, images) of the wrong answers, the most frequent first."""
    reliability: tuple[ReliabilityBin, ...]
    mistakes: tuple[Mistake, ...]
    """All wrong answers, the one whose true class got the least probability first."""
    copies: tuple[Copies, ...]
    doubted: tuple[Doubted, ...]
    notes: tuple[str, ...] = ()
    """What limits these numbers, one sentence each."""

    @property
    def class_mean_percent(self) -> float:
        """Mean of the accuracies of the classes: they count alike, whatever their size."""
        return sum(row.percent for row in self.classes) / len(self.classes)

    @property
    def epochs(self) -> Epochs:
        """Which epochs made the checkpoint."""
        return epochs_of(self.checkpoint.recipe, len(self.rows))

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.checkpoint.contract.labels


def measure_run(
    name: str,
    checkpoint: Checkpoint,
    rows: Sequence[EpochMetrics],
    train: ImageList,
    val: ImageList,
    *,
    workers: int,
    notes: Sequence[str] = (),
    on_progress: Progress = no_progress,
) -> RunReport:
    """Look at all of ``val`` and at up to ``LOOKED_AT`` images of ``train``, whose class ids are the contract's.

    Raises InputError if an image cannot be read.
    """
    train_mask, val_mask = (_spread(len(images.files)) for images in (train, val))
    seen = train.where(train_mask)
    looks, total = RunLooks(), len(val.files) + len(seen.files)

    def progress(base: int) -> Progress:
        return lambda _, done, __: on_progress("report", base + done, total)

    on_val, on_train = looks.of(val_mask), looks.of(np.ones(len(seen.files), bool))
    answers = collect_answers(checkpoint, val, workers=workers, on_features=on_val, on_progress=progress(0))
    of_training = collect_answers(
        checkpoint, seen, workers=workers, on_features=on_train, on_progress=progress(len(val.files))
    )
    contract = checkpoint.contract
    found = accuracy(answers, 0, contract)
    photos = _photos("validation", val), _photos("training", seen)
    compared = [*(photo for photo, kept in zip(photos[0], val_mask, strict=True) if kept), *photos[1]]
    copies = [Copies(compared[pair.first], compared[pair.second], 100 * pair.pixels) for pair in looks.pairs()]
    counts_K = np.bincount(answers.target_N, minlength=len(contract.labels))
    confusions = _confusions(answers)
    return RunReport(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        checkpoint=checkpoint,
        rows=tuple(rows),
        accuracy=found,
        training=accuracy(of_training, 0, contract),
        training_images=len(train.files),
        majority=(int(counts_K.argmax()), 100 * float(counts_K.max()) / len(val.files)),
        classes=_classes(answers, counts_K, confusions),
        confusions=confusions,
        reliability=() if found.not_finite else reliability(answers.logits_NK[0], answers.target_N, contract),
        mistakes=_mistakes(answers, photos[0], contract),
        # Those that mislead come first; the sort keeps the most alike first within each kind.
        copies=tuple(sorted(copies, key=lambda pair: -2 * pair.crosses_classes - pair.crosses_splits)),
        doubted=(*_doubted(answers, photos[0]), *_doubted(of_training, photos[1])),
        notes=(*notes, *([] if (doubt := seen_note(checkpoint.recipe)) is None else [doubt])),
    )


def photo_name(images: ImageList, file: Path) -> str:
    """The path of ``file`` for people: relative to the folder of its list where it lies there."""
    return file.relative_to(images.root).as_posix() if file.is_relative_to(images.root) else str(file)


def _spread(count: int) -> NDArray[np.bool_]:
    """A mask of ``count`` images with up to ``LOOKED_AT`` of them; lists are sorted by class, so of each class."""
    mask = np.zeros(count, bool)
    mask[np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(np.int64)] = True
    return mask


def _photos(split: Split, images: ImageList) -> list[Photo]:
    return [
        Photo(split, file, photo_name(images, file), target)
        for file, target in zip(images.files, images.targets, strict=True)
    ]


def _confusions(answers: Answers) -> tuple[tuple[int, int, int], ...]:
    answer_N = predicted_classes(answers.logits_NK[0])
    wrong_N = (answer_N >= 0) & (answer_N != answers.target_N)
    pairs, counts = np.unique(np.stack([answers.target_N[wrong_N], answer_N[wrong_N]]), axis=1, return_counts=True)
    found = [(int(k), int(j), int(n)) for (k, j), n in zip(pairs.T, counts, strict=True)]
    return tuple(sorted(found, key=lambda each: (-each[2], each[0], each[1])))


def _classes(
    answers: Answers, counts_K: NDArray[np.int64], confusions: Sequence[tuple[int, int, int]]
) -> tuple[ClassResult, ...]:
    right_N = predicted_classes(answers.logits_NK[0]) == answers.target_N
    right_K = np.bincount(answers.target_N[right_N], minlength=len(counts_K))
    taken_for: dict[int, tuple[int, int]] = {}
    for truth, answer, count in confusions:
        taken_for.setdefault(truth, (answer, count))
    found = [
        ClassResult(
            int(k), int(counts_K[k]), int(right_K[k]), _interval(right_K[k], counts_K[k]), taken_for.get(int(k))
        )
        for k in np.flatnonzero(counts_K)
    ]
    return tuple(sorted(found, key=lambda row: (row.percent, -row.images, row.target)))


def _interval(right: np.int64, images: np.int64) -> Interval:
    return wilson_percent(int(right), int(images))


def _mistakes(answers: Answers, photos: Sequence[Photo], contract: ModelContract) -> tuple[Mistake, ...]:
    found = []
    logits_NK = answers.logits_NK[0]
    answer_N = predicted_classes(logits_NK)
    wrong: list[int] = np.flatnonzero((answer_N >= 0) & (answer_N != answers.target_N)).tolist()
    for i in wrong:
        p_K = probabilities(logits_NK[i : i + 1], contract)[0]
        found.append(Mistake(photos[i], int(answer_N[i]), float(p_K[answer_N[i]]), float(p_K[answers.target_N[i]])))
    return tuple(sorted(found, key=lambda each: (each.truth_probability, -each.probability, each.photo.name)))


def _doubted(answers: Answers, photos: Sequence[Photo]) -> list[Doubted]:
    finite: list[int] = np.flatnonzero(finite_rows(answers.logits_NK[0])).tolist()
    logits_NK = answers.logits_NK[0][finite]
    probability_NK = np.empty_like(logits_NK)
    for start in range(0, len(logits_NK), _ROWS):
        probability_NK[start : start + _ROWS] = softmax(logits_NK[start : start + _ROWS])
    return [
        Doubted(photos[finite[doubt.index]], doubt.suggested, doubt.probability, doubt.label_probability)
        for doubt in doubted_labels(probability_NK, answers.target_N[finite])
    ]
