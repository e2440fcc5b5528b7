"""Images that two engines answer differently, as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.evaluation.answers import Answers
from alexnet_deploy.evaluation.evaluate import Evaluation
from alexnet_deploy.images.decode import open_rgb
from alexnet_deploy.inference.probabilities import predicted_classes, softmax
from alexnet_deploy.report.html import environment, write_html

# Legend: N image, F flip, K class

DEFAULT_IMAGES = 24
THUMBNAIL_SIDE = 320
"""Pixels of the longer side: sharp on a phone, some 15 KB per picture."""


@dataclass(frozen=True, slots=True)
class Flip:
    """One image that two engines answer differently.

    ``answers`` are the classes of both engines, -1 for an output that is not finite; ``probabilities`` what each
    engine gives its own answer, or 0. ``change`` is the probability that the first engine's answer lost.
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


@dataclass(frozen=True, slots=True)
class EngineFlips:
    """One engine compared with the first: the flips to show, in their order."""

    name: str
    flips: tuple[Flip, ...]
    count: int
    """Number of all flips."""


def worst_flips(
    answers: Answers, first: int, second: int, temperatures: tuple[float, float], *, limit: int = DEFAULT_IMAGES
) -> tuple[tuple[Flip, ...], int]:
    """Return the ``limit`` flips whose first answer lost most probability, and the number of all flips."""
    logits_NK = answers.logits_NK[first], answers.logits_NK[second]
    answer_a_N, answer_b_N = map(predicted_classes, logits_NK)
    found = []
    for i in np.flatnonzero(answer_a_N != answer_b_N):
        a, b = int(answer_a_N[i]), int(answer_b_N[i])
        p_K, q_K = (
            softmax(logits[i : i + 1], temperature)[0] if answer >= 0 else None
            for logits, temperature, answer in zip(logits_NK, temperatures, (a, b), strict=True)
        )
        probabilities = (0.0 if p_K is None else float(p_K[a]), 0.0 if q_K is None else float(q_K[b]))
        change = probabilities[0] - (0.0 if p_K is None or q_K is None else float(q_K[a]))
        found.append(Flip(answers.files[i], int(answers.target_N[i]), (a, b), probabilities, change))
    found.sort(key=lambda flip: -flip.change)
    return tuple(found[:limit]), len(found)


def gallery_of(found: Evaluation, path: Path, *, limit: int = DEFAULT_IMAGES) -> None:
    """Write the ``limit`` worst flips of each engine compared with the first; errors as ``write_gallery``."""
    first = found.engines[0]
    engines = [
        EngineFlips(
            result.name, *worst_flips(found.answers, 0, i, (first.temperature, result.temperature), limit=limit)
        )
        for i, result in enumerate(found.engines[1:], start=1)
    ]
    write_gallery(
        path, first=first.name, engines=engines, contract=found.contract, root=found.data, images=found.images
    )


def write_gallery(
    path: Path, *, first: str, engines: Sequence[EngineFlips], contract: ModelContract, root: Path, images: int
) -> None:
    """Write the page to ``path``, atomically; ``first`` names the engine that all others are compared with.

    Files are named relative to ``root``: the page says nothing about the machine. Raises UnavailableError if ``path``
    cannot be written; it is then as it was.
    """
    template = environment().get_template("gallery.html.j2")
    cards = [(each, [_card(flip, (first, each.name), contract, root) for flip in each.flips]) for each in engines]
    write_html(template.render(first=first, engines=cards, images=images, data=root.name), path)


def _card(flip: Flip, names: tuple[str, str], contract: ModelContract, root: Path) -> dict[str, object]:
    def label(k: int) -> str:
        return contract.labels[k] if k >= 0 else "no finite answer"

    picture = open_rgb(flip.file)
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return {
        "picture": f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}",
        "width": picture.width,
        "height": picture.height,
        "file": flip.file.relative_to(root).as_posix(),
        "truth": label(flip.target),
        "kind": flip.kind,
        "answers": [
            (name, label(answer), probability, answer == flip.target)
            for name, answer, probability in zip(names, flip.answers, flip.probabilities, strict=True)
        ],
    }
