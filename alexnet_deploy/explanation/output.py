"""A folder of explanations: a page, the numbers as JSON, and every map as a PNG; written whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import UnavailableError, UsageError
from alexnet_deploy.explanation.explain import Explanation, View
from alexnet_deploy.explanation.overlay import largest_of, overlay
from alexnet_deploy.explanation.page import Card, EngineFacts, Panel, render_page
from alexnet_deploy.explanation.settings import OcclusionSettings
from alexnet_deploy.files import atomic_directory, is_inside
from alexnet_deploy.pages.html import write_html
from alexnet_deploy.pages.picture import embed_image

PAGE, NUMBERS = "index.html", "explain.json"
_IS_OURS = re.compile(rf"{re.escape(PAGE)}|{re.escape(NUMBERS)}|\d{{3,}}-.*-(occlusion|beside|grad-cam)\.png")
_DIGITS = 6
"""Decimals of a probability: more than float32 logits give."""


@dataclass(frozen=True, slots=True)
class About:
    """What holds for all photos of a run."""

    engines: tuple[EngineFacts, ...]
    contract: ModelContract
    settings: OcclusionSettings
    grad_cam: str
    """The layer, or the reason why there is none."""
    has_grad_cam: bool


@dataclass
class ExplanationFolder:
    """An open folder; ``add`` draws one photo."""

    folder: Path
    about: About
    rows: list[dict[str, Any]] = field(default_factory=list)
    _cards: list[Card] = field(default_factory=list)

    def add(self, found: Explanation) -> None:
        """Draw the maps of one photo, or note its error."""
        if found.pixels_HWC is None:
            self.rows.append({"file": found.file, "error": found.error})
            self._cards.append(Card(found.file, found.error))
            return
        height, width = found.pixels_HWC.shape[:2]
        labels = self.about.contract.labels
        maps = [view.occlusion.pixels(height, width) for view in found.views]
        largest = largest_of(*maps)  # one scale for both engines: a pale map means a small effect
        seen = Image.fromarray(found.pixels_HWC)
        panels = [Panel("what the network sees", embed_image(seen, quality=85), "")]
        files: dict[str, str] = {}
        kinds = ("occlusion", "beside")
        for name, engine, view, map_HW in zip(kinds, self.about.engines, found.views, maps, strict=False):
            picture = overlay(found.pixels_HWC, map_HW, largest)
            files[name] = self._save(picture, found.file, name)
            panels.append(Panel(engine.name, embed_image(picture, quality=85), self._caption(view, found.target)))
        if found.grad_cam_HW is not None:
            picture = overlay(found.pixels_HWC, found.grad_cam_HW, largest_of(found.grad_cam_HW))
            files["grad_cam"] = self._save(picture, found.file, "grad-cam")
            panels.append(Panel("Grad-CAM of the checkpoint", embed_image(picture, quality=85), ""))
        views = [self._raw(*each) for each in zip(self.about.engines, found.views, strict=True)]
        both = found.agreement
        self.rows.append({
            "file": found.file,
            "error": None,
            "class": found.target,
            "label": labels[found.target],
            "engines": views,
            "rank_correlation": None if both is None else both.rank_correlation,
            "shared_top_percent": None if both is None else both.shared_top_percent,
            "verdict": None if both is None else both.verdict,
            "grad_cam": None if found.grad_cam_HW is None else found.grad_cam_HW.round(_DIGITS).tolist(),
            "files": files,
        })  # fmt: skip
        self._cards.append(Card(found.file, None, labels[found.target], 100 * largest, tuple(panels), both))

    def numbers(self) -> dict[str, Any]:
        """What ``explain.json`` holds. Maps are lists of rows, from the top left corner."""
        settings = self.about.settings
        return {
            "engines": [{"engine": e.name, "precision": e.precision, "runtime": e.runner} for e in self.about.engines],
            "patch": settings.patch,
            "stride": settings.stride,
            "fill": settings.fill,
            "grad_cam": {"layer" if self.about.has_grad_cam else "absent": self.about.grad_cam},
            "photos": self.rows,
        }

    def finish(self) -> None:
        """Write the page and the numbers."""
        text = json.dumps(self.numbers(), allow_nan=False)
        (self.folder / NUMBERS).write_text(text + "\n", encoding="utf-8")
        write_html(render_page(self.about.engines, self.about.settings, self._note(), self._cards), self.folder / PAGE)

    def _note(self) -> str:
        if self.about.has_grad_cam:
            return f"Grad-CAM: where {self.about.grad_cam} of the checkpoint, in float32, speaks for the class."
        return f"No Grad-CAM: {self.about.grad_cam}."

    def _save(self, picture: Image.Image, file: str, what: str) -> str:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(file).stem)[:60].strip("-") or "photo"
        name = f"{len(self.rows) + 1:03d}-{stem}-{what}.png"
        picture.save(self.folder / name, optimize=True)
        return name

    def _caption(self, view: View, target: int) -> str:
        labels = self.about.contract.labels
        said = f"{labels[view.answer]} {100 * view.answer_probability:.1f} %"
        if view.answer != target:
            said += f", {labels[target]} {100 * view.probability:.1f} %"
        left, top, drop = view.occlusion.strongest()
        return (
            f"{said}; at most {100 * drop:+.1f} points lost, at {left}, {top}" if drop > 0 else f"{said}; never lower"
        )

    def _raw(self, engine: EngineFacts, view: View) -> dict[str, Any]:
        left, top, drop = view.occlusion.strongest()
        return {
            "engine": engine.name,
            "answer": view.answer,
            "answer_label": self.about.contract.labels[view.answer],
            "answer_probability": round(view.answer_probability, _DIGITS),
            "probability": round(view.probability, _DIGITS),
            "uncalibrated_probability": round(view.occlusion.probability, _DIGITS),
            "strongest": {"left": left, "top": top, "drop": round(drop, _DIGITS)},
            "tops": view.occlusion.tops,
            "lefts": view.occlusion.lefts,
            "drops": view.occlusion.drop_YX.round(_DIGITS).tolist(),
        }


@contextmanager
def explanation_folder(path: Path, about: About) -> Iterator[ExplanationFolder]:
    """A folder to add photos to, which becomes ``path`` at the end of the block.

    Call ``check_folder`` before the work. Raises UnavailableError as ``atomic_directory`` does.
    """
    with atomic_directory(path) as temporary:
        folder = ExplanationFolder(temporary, about)
        yield folder
        folder.finish()


def check_folder(path: Path, photos: Iterable[Path] = ()) -> None:
    """UnavailableError unless ``path`` is missing, empty, or an earlier explanation and nothing else.

    It would be replaced as a whole, and with it files of the user's: so UsageError if one of ``photos`` lies in it.
    """
    if not path.is_dir():
        return
    for photo in photos:
        if is_inside(photo, path):
            raise UsageError(f"`output` {path}: holds the input {photo} and would be replaced; choose another folder")
    entries = list(path.iterdir())
    names = {each.name for each in entries}
    others = {each.name for each in entries if not (each.is_file() and _IS_OURS.fullmatch(each.name))}
    if others or (names and NUMBERS not in names):
        reason = f"holds {min(others)}" if others else f"holds no {NUMBERS}"
        raise UnavailableError(
            f"{path}: {reason}, so it is no earlier explanation and will not be replaced; choose another folder"
        )
