"""Pages that tell how to install, and the gate that people copy: what they say must work outside this repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from alexnet_deploy.evaluation.statistics import PairedCounts
from tests.helpers.repository import ROOT

PAGES = sorted((*(ROOT / "docs").rglob("*.md"), *ROOT.glob("README*.md")))
GATE = (ROOT / "docs/guides/ci-gate.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_recipe_installs_the_package_from_an_index(page: Path) -> None:
    """It is on none. In an environment that has it, the name alone adds an extra, which is what errors advise."""
    for block in re.findall(r"^ *```.*?^ *```", page.read_text(encoding="utf-8"), re.M | re.S):
        for line in block.splitlines():
            if re.match(r"\s*(\$ )?pip install ", line) and "alexnet-deploy" in line:
                assert "alexnet-deploy[" in line, line
                assert " @ git+URL-OF-THE-REPOSITORY'" in line, line


def test_the_gate_caches_nothing_that_needs_a_file_of_python() -> None:
    """``setup-python`` fails for ``cache: pip`` in a repository without requirements.txt or pyproject.toml."""
    (workflow,) = re.findall(r"^```yaml\n(.*?)^```", GATE, re.M | re.S)
    assert "cache:" not in workflow
    assert "--max-drop 0.5 --confident" in workflow


def may_lose(images: int, share: float, flips: int = 0) -> float:
    """The points that ``--confident`` cannot exclude, with as many answers won as lost."""
    right = round(share * images)
    return -PairedCounts(right - flips, flips, flips, images - right - flips).points_interval.low


def test_the_numbers_of_images_are_those_that_pass() -> None:
    words = " ".join(GATE.split())
    assert "400 images at 90 % top-1 still allow 0.9 points" in words
    assert round(may_lose(400, 0.9), 1) == 0.9
    assert "about 750 images at 90 % top-1 and 800 at 95 %, even if no answer flips" in words
    assert may_lose(700, 0.9) > 0.5 >= may_lose(750, 0.9)
    assert may_lose(780, 0.95) > 0.5 >= may_lose(800, 0.95)
    assert "1,300 at 90 % if four are lost and four won" in words
    assert may_lose(1250, 0.9, flips=4) > 0.5 >= may_lose(1330, 0.9, flips=4)
