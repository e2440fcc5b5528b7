"""The README's commands, as they stand, in an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.repository import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    section = README.partition("## Three commands")[2].partition("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", section, re.S)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_the_commands_run_in_order_in_an_empty_folder(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "samples", tmp_path / "images")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ran = commands()
    assert ran[:3] == ["alexnet-deploy export", "alexnet-deploy build-engine --fp16", "alexnet-deploy infer images/"]
    for command in ran:
        done = subprocess.run(
            command.split(), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 12


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
    listed = subprocess.run(
        [sys.executable, "-m", "alexnet_deploy", "--help"], capture_output=True, text=True, check=True
    ).stdout.partition("Commands:")[2]
    for name in re.findall(r"^  (\S+)", listed, re.M):
        assert f"`{name}`" in README.partition("| command | does |")[2], name
