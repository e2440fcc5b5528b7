"""What engines get wrong, as one self-contained HTML page: confused classes, highest losses, and flips."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.evaluation.answers import Answers
from alexnet_deploy.evaluation.evaluate import Evaluation
from alexnet_deploy.evaluation.mistakes import Loss, confusion_matrix, confusions, highest_losses
from alexnet_deploy.pages.html import environment, write_html
from alexnet_deploy.pages.picture import embed
from alexnet_deploy.probabilities import predicted_classes, probabilities
from alexnet_deploy.report.settings import GALLERY_IMAGES

# Legend: N image, F flip, K class

CONFUSED_PAIRS = 10
THUMBNAIL_SIDE = 320
"""Pixels of the longer side: sharp on a phone, some 15 KB per picture."""


@dataclass(frozen=True, slots=True)
class Flip:
    """One image that two engines answer differently.

    ``answers`` are the classes of both engines, -1 for an output that is not finite; ``probabilities`` those of each
    engine for its own answer, or 0. ``change`` is the probability that the first engine's answer lost.
    """

    file: Path
    target: int
    answers: tuple[int, int]
    probabilities: tuple[float, float]
    change: float

    @property
    def kind(self) -> Literal["lost", "won", "both wrong"]:
        """``lost``: the right answer became a wrong one; ``won``: the other way round."""
        first, second = self.answers
        return "lost" if first == self.target else "won" if second == self.target else "both wrong"


def flips(answers: Answers, index: int, contracts: tuple[ModelContract, ModelContract]) -> list[Flip]:
    """Return the images that engine ``index`` answers differently than the first, the one that lost most first.

    ``contracts`` are those of the first engine and of engine ``index``.
    """
    logits_NK = answers.logits_NK[0], answers.logits_NK[index]
    answer_a_N, answer_b_N = map(predicted_classes, logits_NK)
    found = []
    for i in np.flatnonzero(answer_a_N != answer_b_N):
        a, b = int(answer_a_N[i]), int(answer_b_N[i])
        p_K, q_K = (
            probabilities(logits[i : i + 1], contract)[0] if answer >= 0 else None
            for logits, contract, answer in zip(logits_NK, contracts, (a, b), strict=True)
        )
        own = (0.0 if p_K is None else float(p_K[a]), 0.0 if q_K is None else float(q_K[b]))
        change = own[0] - (0.0 if p_K is None or q_K is None else float(q_K[a]))
        found.append(Flip(answers.files[i], int(answers.target_N[i]), (a, b), own, change))
    return sorted(found, key=lambda flip: -flip.change)


def write_gallery(found: Evaluation, path: Path, *, limit: int = GALLERY_IMAGES) -> None:
    """Write what each engine takes for what, its ``limit`` highest losses and worst flips, atomically.

    Flips are images that an engine answers differently than the first one. File names are relative to the folder of the
    images, so the page shows no paths of the machine. Raises UnavailableError if ``path`` cannot be written; it is then
    as it was.
    """
    engines = [_section(found, i, limit) for i in range(len(found.engines))]
    template = environment("alexnet_deploy.report").get_template("gallery.html.j2")
    write_html(
        template.render(engines=engines, images=found.images, views=found.views, data=found.data.name),
        path,
    )


def _section(found: Evaluation, index: int, limit: int) -> dict[str, object]:
    """What the template shows of one engine."""
    first, engine = found.engines[0], found.engines[index]
    pairs = confusions(found.answers, index)
    section = {
        "name": engine.name,
        "top1": engine.accuracy.top1_percent,
        "wrong": sum(pair.images for pair in pairs),
        "matrix": _matrix(found, index),
        "pairs": [
            (_label(found, pair.truth), _label(found, pair.answer), pair.images) for pair in pairs[:CONFUSED_PAIRS]
        ],
        "all_pairs": len(pairs),
        "losses": [
            _card(found, loss.file, loss.target, "", _answers_of(loss, found), loss=loss.nats)
            for loss in highest_losses(found.answers, index, found.contracts[index], limit)
        ],
    }
    if index:
        all_flips = flips(found.answers, index, (found.contracts[0], found.contracts[index]))
        section |= {
            "first": first.name,
            "all_flips": len(all_flips),
            "flips": [_flip_card(flip, (first.name, engine.name), found) for flip in all_flips[:limit]],
        }
    return section


def _matrix(found: Evaluation, index: int) -> dict[str, object]:
    """Rows of (label, cells), a cell of (images, percent of the row, whether they are right)."""
    matrix = confusion_matrix(found.answers, index)
    others = any(counts[-1] for counts in matrix.counts)
    rows = []
    for truth, counts in zip(matrix.truths, matrix.counts, strict=True):
        shown = counts if others else counts[:-1]
        right = [answer == truth for answer in matrix.answers] + [False]
        total = sum(counts)
        cells = [(n, round(100 * n / total), ok) for n, ok in zip(shown, right, strict=False)]
        rows.append((_label(found, truth), total, cells))
    columns = [_label(found, answer) for answer in matrix.answers] + (["others"] if others else [])
    return {"columns": columns, "rows": rows, "left_out": matrix.left_out}


def _answers_of(loss: Loss, found: Evaluation) -> list[tuple[str, str, float, bool]]:
    answered = ("answer", _label(found, loss.answer), loss.answer_probability, loss.answer == loss.target)
    return [("truth", _label(found, loss.target), loss.target_probability, True), answered]


def _flip_card(flip: Flip, names: tuple[str, str], found: Evaluation) -> dict[str, object]:
    answers = [
        (name, _label(found, answer), probability, answer == flip.target)
        for name, answer, probability in zip(names, flip.answers, flip.probabilities, strict=True)
    ]
    return _card(found, flip.file, flip.target, flip.kind, answers)


def _card(
    found: Evaluation,
    file: Path,
    target: int,
    kind: str,
    answers: list[tuple[str, str, float, bool]],
    *,
    loss: float | None = None,
) -> dict[str, object]:
    return {
        "picture": embed(file, THUMBNAIL_SIDE),
        "file": file.relative_to(found.data).as_posix(),
        "truth": _label(found, target),
        "kind": kind,
        "loss": loss,
        "answers": answers,
    }


def _label(found: Evaluation, k: int) -> str:
    """The name of a class, with its id where two have the same."""
    if k < 0:
        return "no finite answer"
    label = found.contract.labels[k]
    return label if found.contract.labels.count(label) == 1 else f"{label} ({found.contract.class_ids[k]})"
