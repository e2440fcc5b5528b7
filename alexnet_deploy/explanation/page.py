"""Explanations as one self-contained HTML page: no network, no script, every name escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alexnet_deploy.explanation.settings import OcclusionSettings
from alexnet_deploy.pages.html import environment
from alexnet_deploy.pages.picture import Picture

if TYPE_CHECKING:  # it loads SciPy
    from alexnet_deploy.explanation.agreement import Agreement


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """One engine, for people."""

    name: str
    precision: str
    runner: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture with what it shows."""

    title: str
    picture: Picture
    caption: str


@dataclass(frozen=True, slots=True)
class Card:
    """One photo; with an ``error`` there is nothing else."""

    file: str
    error: str | None
    label: str = ""
    largest_points: float = 0.0
    """Of the colour scale of the occlusion maps."""
    panels: tuple[Panel, ...] = ()
    agreement: Agreement | None = None


def render_page(engines: Sequence[EngineFacts], settings: OcclusionSettings, note: str, cards: Sequence[Card]) -> str:
    """Return the page as text."""
    template = environment("alexnet_deploy.explanation").get_template("explain.html.j2")
    return template.render(engines=engines, settings=settings, note=note, cards=cards)
