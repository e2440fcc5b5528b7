"""The commands of the README run in an empty folder, and every link of the pages has a target."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_deploy.cli import GROUPS
from tests.helpers.repository import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORTER = {"profile": ("--duration", "100ms")}
"""Flags that the test adds to a command. How long it measures changes no more than its spread."""


def test_the_commands_run_in_order_in_an_empty_folder(tmp_path: Path) -> None:
    """With nothing but defaults, the shipped checkpoint becomes an engine that recognises a church."""
    section = README.partition("\n## Three commands\n")[2].partition("\n## ")[0]
    consoles = "".join(re.findall(r"```console\n(.*?)```", section, re.S))
    commands = [line.split()[2:] for line in consoles.splitlines() if line.startswith("$ alexnet-deploy ")]
    assert commands[:3] == [["export"], ["build-engine", "--fp16"], ["infer", "images/"]]

    shutil.copytree(ROOT / "samples", tmp_path / "images")
    program = Path(sys.executable).with_name("alexnet-deploy")
    done = []
    for words in commands:
        command = [program, *words, *SHORTER.get(words[0], ())]
        done.append(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300))
        assert done[-1].returncode == 0, f"{words}\n{done[-1].stderr}"
    assert re.search(r"^images/church_reims\.jpg +church +\d", done[2].stdout, re.M)
    assert "alexnet-fp16 (fp16) with OpenVINO" in done[2].stderr
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    best = {answer["file"]: answer["top"][0]["label"] for answer in answers}
    assert len(best) == 12
    assert best["images/church_reims.jpg"] == "church"


PAGES = sorted(
    str(path.relative_to(ROOT))
    for folder in (".", "docs", "docs/decisions", "engines", "benchmarks", "samples")
    for path in (ROOT / folder).glob("*.md")
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
