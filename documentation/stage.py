"""Put together the folder that the site is built from: docs/, pages from elsewhere, and those that are generated."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

import alexnet_deploy
from documentation.commands import FOLDER, all_commands, command_pages, page_of, title_of
from documentation.github_markdown import site_page

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "mkdocs.yml"
ELSEWHERE = {
    "README.md": "index.md",
    "README.ko.md": "ko/index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "how-benchmarks-measure.md",
    "engines/README.md": "bundles.md",
    "samples/LICENSES.md": "sample-photos.md",
}
"""Pages of the repository outside docs/, and their places on the site."""
COMMANDS_IN_NAVIGATION = f"      - {FOLDER}/index.md\n"
"""The line of mkdocs.yml after which the pages of the commands go."""
API = "reference/api.md"


def pages() -> dict[str, str]:
    """Place on the site of each file of the repository that is on it; both relative, with slashes."""
    docs = (path for path in sorted((ROOT / "docs").rglob("*")) if path.is_file())
    found = {path.relative_to(ROOT).as_posix(): path.relative_to(ROOT / "docs").as_posix() for path in docs}
    return found | {source: place for source, place in ELSEWHERE.items() if (ROOT / source).exists()}


def stage(folder: Path) -> Path:
    """Write ``folder/docs`` anew, and ``folder/mkdocs.yml``, which builds it to ``folder/site``; return the latter.

    Whatever else is in ``folder`` stays.
    """
    docs = folder / "docs"
    shutil.rmtree(docs, ignore_errors=True)
    shutil.copytree(ROOT / "documentation/assets", docs / "assets")
    found = pages()
    texts = {API: api_page()}
    for source, place in found.items():
        if source.endswith(".md"):
            text = (ROOT / source).read_text(encoding="utf-8")
            texts[place] = site_page(text, PurePosixPath(source), found)
        else:
            (docs / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, docs / place)
    for place, text in (texts | command_pages(texts)).items():
        (docs / place).parent.mkdir(parents=True, exist_ok=True)
        (docs / place).write_text(text, encoding="utf-8")
    config = folder / CONFIG.name
    config.write_text(configuration(), encoding="utf-8")
    return config


def configuration() -> str:
    """mkdocs.yml with the pages of all commands in its navigation."""
    text = CONFIG.read_text(encoding="utf-8")
    before, mark, after = text.partition(COMMANDS_IN_NAVIGATION)
    assert mark, f"{CONFIG}: the line {COMMANDS_IN_NAVIGATION!r} is missing"
    commands = [f"      - {title_of(program, name)}: {page_of(program, name)}\n" for program, name, _ in all_commands()]
    return before + mark + "".join(commands) + after


def api_page() -> str:
    """The page that mkdocstrings fills from docstrings: every exported name."""
    names = [name for name in alexnet_deploy.__all__ if name != "__version__"]
    groups = {
        "Functions": [name for name in names if name[0].islower()],
        "Types": [name for name in names if name[0].isupper() and not name.endswith("Error")],
        "Errors": [name for name in names if name.endswith("Error")],
    }
    lines = ["# API reference", "", "Generated from the docstrings. [Python](../python.md) shows the names in use.", ""]
    for heading, members in groups.items():
        lines += [f"## {heading}", "", *(f"::: alexnet_deploy.{name}\n" for name in members)]
    return "\n".join(lines) + "\n"
