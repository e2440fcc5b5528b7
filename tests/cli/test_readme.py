"""The commands of the README run in an empty folder, and every link of the pages has a target."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from alexnet_deploy.cli import GROUPS
from tests.helpers import transcripts
from tests.helpers.repository import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORTER = {"profile": ("--duration", "100ms")}
"""Flags that the test adds to a command. How long it measures changes no more than its spread."""


def test_the_commands_run_in_order_in_an_empty_folder(tmp_path: Path) -> None:
    """With nothing but defaults, the shipped checkpoint becomes an engine that recognises a church."""
    section = README.partition("\n## Three commands\n")[2].partition("\n## ")[0]
    commands = [each.command.removeprefix("alexnet-deploy ") for each in transcripts.shown(section)]
    assert commands[:3] == ["export", "build-engine --fp16", "infer images/"]

    shutil.copytree(ROOT / "samples", tmp_path / "images")
    outputs = transcripts.check(section, tmp_path, flags=SHORTER, instead={})
    assert re.search(r"^images/church_reims\.jpg +church +\d", outputs[2], re.M)
    assert "alexnet-fp16 (fp16) with OpenVINO" in outputs[2]
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    best = {answer["file"]: answer["top"][0]["label"] for answer in answers}
    assert len(best) == 12
    assert best["images/church_reims.jpg"] == "church"


def test_the_korean_readme_has_the_same_commands() -> None:
    korean = (ROOT / "README.ko.md").read_text(encoding="utf-8")
    commands, theirs = ([each.command for each in transcripts.shown(text)] for text in (README, korean))
    assert theirs == commands


PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "engines/*.md", "benchmarks/*.md", "samples/*.md")
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_complete_and_its_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not re.search(r"^[A-Z]+_[A-Z_]+$|\bTODO\b|\bTBD\b", text, re.M), "a place is left to fill"
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target


def test_every_command_is_in_the_table() -> None:
    table = README.partition("\n## All commands\n")[2].partition("\n## ")[0]
    names = [command.__name__.replace("_", "-") for commands in GROUPS.values() for command in commands]
    assert names
    assert [name for name in names if f"`{name}`" not in table] == []


def test_the_paths_of_contributing_exist() -> None:
    """The map of the rooms, and the files to change for the likeliest changes."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:alexnet_deploy|training|tests|docs|benchmarks)/[^`* ]*)`", text)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []
