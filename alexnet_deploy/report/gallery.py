"""Images that two engines answer differently, as one self-contained HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from alexnet_deploy.contract import Activation
from alexnet_deploy.evaluation.answers import Answers
from alexnet_deploy.evaluation.evaluate import Evaluation
from alexnet_deploy.probabilities import activate, predicted_classes
from alexnet_deploy.report.html import environment, write_html
from alexnet_deploy.report.picture import embed
from alexnet_deploy.report.settings import GALLERY_IMAGES

# Legend: N image, F flip, K class

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


def flips(answers: Answers, index: int, temperatures: tuple[float, float], activation: Activation) -> list[Flip]:
    """Return the images that engine ``index`` answers differently than the first, the one that lost most first.

    ``temperatures`` are those of the first engine and of engine ``index``; ``activation`` is that of both.
    """
    logits_NK = answers.logits_NK[0], answers.logits_NK[index]
    answer_a_N, answer_b_N = map(predicted_classes, logits_NK)
    found = []
    for i in np.flatnonzero(answer_a_N != answer_b_N):
        a, b = int(answer_a_N[i]), int(answer_b_N[i])
        p_K, q_K = (
            activate(logits[i : i + 1], activation, temperature)[0] if answer >= 0 else None
            for logits, temperature, answer in zip(logits_NK, temperatures, (a, b), strict=True)
        )
        probabilities = (0.0 if p_K is None else float(p_K[a]), 0.0 if q_K is None else float(q_K[b]))
        change = probabilities[0] - (0.0 if p_K is None or q_K is None else float(q_K[a]))
        found.append(Flip(answers.files[i], int(answers.target_N[i]), (a, b), probabilities, change))
    return sorted(found, key=lambda flip: -flip.change)


def write_gallery(found: Evaluation, path: Path, *, limit: int = GALLERY_IMAGES) -> None:
    """Write the ``limit`` worst flips of each engine compared with the first, atomically.

    File names are relative to the folder of the images, so the page shows no paths of the machine. Raises
    UnavailableError if ``path`` cannot be written; it is then as it was.
    """
    first, *others = found.engines
    engines = []
    for i, other in enumerate(others, start=1):
        all_flips = flips(found.answers, i, (first.temperature, other.temperature), found.contract.activation)
        cards = [_card(flip, (first.name, other.name), found) for flip in all_flips[:limit]]
        engines.append((other.name, len(all_flips), cards))
    template = environment().get_template("gallery.html.j2")
    write_html(template.render(first=first.name, engines=engines, images=found.images, data=found.data.name), path)


def _card(flip: Flip, names: tuple[str, str], found: Evaluation) -> dict[str, object]:
    def label(k: int) -> str:
        return found.contract.labels[k] if k >= 0 else "no finite answer"

    return {
        "picture": embed(flip.file, THUMBNAIL_SIDE),
        "file": flip.file.relative_to(found.data).as_posix(),
        "truth": label(flip.target),
        "kind": flip.kind,
        "answers": [
            (name, label(answer), probability, answer == flip.target)
            for name, answer, probability in zip(names, flip.answers, flip.probabilities, strict=True)
        ],
    }
