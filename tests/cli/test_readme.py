"""The commands and the Python code of the README run as they stand, and the links of all pages lead somewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from alexnet_deploy.cli import GROUPS
from tests.helpers.repository import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORTER = {"profile": ("--duration", "100ms")}
"""Flags that the test adds to a command. How long it measures changes no more than its spread."""


def blocks(language: str, section: str) -> list[str]:
    """The code blocks in ``language`` below the heading ``section``."""
    text = README.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with nothing but the sample photos in ``images/``."""
    shutil.copytree(ROOT / "samples", tmp_path / "images")
    return tmp_path


def run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done


def test_the_commands_run_in_order_in_an_empty_folder(photos: Path) -> None:
    """With nothing but defaults, the shipped checkpoint becomes an engine that recognises a church."""
    lines = "".join(blocks("console", "Three commands")).splitlines()
    commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    assert commands[:3] == [
        "alexnet-deploy export",
        "alexnet-deploy build-engine --fp16",
        "alexnet-deploy infer images/",
    ]
    done = [run([*words, *SHORTER.get(words[1], ())], photos) for words in map(str.split, commands)]
    assert re.search(r"^images/church_reims\.jpg +church +\d", done[2].stdout, re.M)
    assert "alexnet-fp16 (fp16) with OpenVINO" in done[2].stderr
    answers = [json.loads(line) for line in (photos / "answers.jsonl").read_text().splitlines()]
    best = {answer["file"]: answer["top"][0]["label"] for answer in answers}
    assert len(best) == 12
    assert best["images/church_reims.jpg"] == "church"


def test_the_python_code_runs(photos: Path) -> None:
    (code,) = blocks("python", "From Python")
    run([sys.executable, "-W", "error", "-c", code], photos)


PAGES = sorted(
    str(path.relative_to(ROOT))
    for folder in (".", "docs", "docs/decisions", "engines", "benchmarks", "samples")
    for path in (ROOT / folder).glob("*.md")
)


@pytest.mark.parametrize("page", PAGES)
def test_no_page_has_a_place_left_to_fill(page: str) -> None:
    assert not re.search(r"^[A-Z]+_[A-Z_]+$|\bTODO\b|\bTBD\b", (ROOT / page).read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
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
