"""Images on which two engines part, as one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import jinja2
import numpy as np

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import UsageError
from alexnet_deploy.evaluation.accuracy import log_softmax
from alexnet_deploy.evaluation.answers import Answers, predicted
from alexnet_deploy.evaluation.evaluate import Evaluation
from alexnet_deploy.files import atomic_file, check_file
from alexnet_deploy.images.decode import open_rgb

# Legend: N image, K class

DEFAULT_IMAGES = 24
THUMBNAIL_SIDE = 320
"""Pixels of the longer side: sharp on a phone, some 15 KB a picture."""


@dataclass(frozen=True, slots=True)
class Flip:
    """One image that two engines answer differently.

    ``answers`` holds what each says and ``probabilities`` how sure each is of that; -1 and 0 where its output is not
    finite. ``change`` is the probability that the first engine's answer lost.
    """

    file: Path
    target: int
    answers: tuple[int, int]
    probabilities: tuple[float, float]
    change: float

    @property
    def kind(self) -> Literal["lost", "won", "both wrong"]:
        """Whether the right answer went (``lost``) or came (``won``)."""
        first, second = self.answers
        return "lost" if first == self.target else "won" if second == self.target else "both wrong"


@dataclass(frozen=True, slots=True)
class Side:
    """A second engine beside the first, and its flips in the order to show them in."""

    name: str
    flips: tuple[Flip, ...]
    of: int
    """How many flips there are in all."""


def worst_flips(
    answers: Answers, first: int, second: int, temperatures: tuple[float, float], *, limit: int = DEFAULT_IMAGES
) -> tuple[tuple[Flip, ...], int]:
    """The ``limit`` flips whose first answer lost most probability, and how many flips there are."""
    answer_a_N, answer_b_N = predicted(answers.logits_NK[first]), predicted(answers.logits_NK[second])
    flip_F = np.flatnonzero(answer_a_N != answer_b_N)
    found = []
    for i in flip_F:
        a, b = int(answer_a_N[i]), int(answer_b_N[i])
        p_K, q_K = (
            np.exp(log_softmax(answers.logits_NK[j][i : i + 1], temperature)[0]) if answer >= 0 else None
            for j, temperature, answer in ((first, temperatures[0], a), (second, temperatures[1], b))
        )
        sure = (0.0 if p_K is None else float(p_K[a]), 0.0 if q_K is None else float(q_K[b]))
        change = sure[0] - (0.0 if p_K is None or q_K is None else float(q_K[a]))
        found.append(Flip(answers.files[i], int(answers.target_N[i]), (a, b), sure, change))
    found.sort(key=lambda flip: -flip.change)
    return tuple(found[:limit]), len(found)


def check_target(path: Path, limit: int) -> None:
    """An error before anything is computed for a ``--gallery`` that could not be written, or not be filled."""
    if limit < 1:
        raise UsageError(f"--gallery-images {limit}: takes 1 or more")
    check_file(path, "--gallery")


def gallery_of(found: Evaluation, answers: Answers, path: Path, *, limit: int = DEFAULT_IMAGES) -> None:
    """Write the worst flips of each engine beside the first; ``answers`` are those that ``found`` was made of."""
    sides = [
        Side(result.name, *worst_flips(answers, 0, i, (found.engines[0].temperature, result.temperature), limit=limit))
        for i, result in enumerate(found.engines[1:], start=1)
    ]
    write_gallery(
        path,
        first=found.engines[0].name,
        sides=sides,
        contract=found.contract,
        root=found.data,
        images=found.images,
    )


def write_gallery(
    path: Path, *, first: str, sides: Sequence[Side], contract: ModelContract, root: Path, images: int
) -> None:
    """Write the page to ``path``, atomically; ``first`` names the engine that all others are compared with.

    Files are named relative to ``root``, so that the page tells nothing of the machine. Raises UnavailableError where
    ``path`` cannot be written; it is then as it was.
    """
    page = jinja2.Environment(
        loader=jinja2.PackageLoader("alexnet_deploy.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    ).get_template("gallery.html.j2")  # fmt: skip
    cards = [(side, [_card(flip, (first, side.name), contract, root) for flip in side.flips]) for side in sides]
    html = page.render(first=first, sides=cards, images=images, data=root.name)
    with atomic_file(path) as temporary:
        # A file name need not be valid text; its odd bytes become \udcXX, as in the JSON.
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")


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
        "change": flip.change,
    }
