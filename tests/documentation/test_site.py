"""The site of docs/: it is built strictly, whole, from the code, loads nothing from elsewhere, and fits a phone."""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

import alexnet_deploy
from documentation.commands import all_commands, page_of
from documentation.site import build, render
from documentation.stage import pages, stage
from tests.helpers.chromium import Browser
from tests.helpers.repository import ROOT

KINDS = (
    *("index", "tutorial", "troubleshooting", "versions", "guides/ci-gate", "commands/index", "commands/infer"),
    *(
        "commands/training-train",
        "reference/api",
        "gpu",
        "training",
        "decisions/0004-dependencies",
        "changelog",
        "paper",
    ),
)
"""A page of each kind, and those with the widest tables and the longest lines."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; some five seconds."""
    try:
        return build(tmp_path_factory.mktemp("documentation"))
    except SystemExit as exc:
        pytest.fail(str(exc))


class Tags(HTMLParser):
    """All start tags with their attributes, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def html_of(site: Path, place: str) -> str:
    return (site / place).with_suffix(".html").read_text(encoding="utf-8")


def article(site: Path, place: str) -> str:
    return html_of(site, place).partition("<article")[2].partition("</article>")[0]


def test_every_page_of_the_repository_is_on_it(site: Path) -> None:
    missing = [source for source, place in pages().items() if not (site / place).with_suffix(".html").exists()
               and not (site / place).exists()]  # fmt: skip
    assert missing == []


def test_a_page_a_link_and_an_anchor_that_lead_nowhere_end_the_build(tmp_path: Path) -> None:
    """On a site of two pages, which is built in a second."""
    config = stage(tmp_path)
    config.write_text(config.read_text(encoding="utf-8").partition("\nnav:")[0] + "\nnav: [a.md, b.md]\n")
    shutil.rmtree(tmp_path / "docs")
    (tmp_path / "docs").mkdir()
    for name, text in (("a", "[b](b.md#there)"), ("b", "## There")):
        (tmp_path / "docs" / f"{name}.md").write_text(f"# {name}\n\n{text}\n", encoding="utf-8")
    assert (render(config) / "b.html").exists()
    (tmp_path / "docs/lost.md").write_text("# Lost\n", encoding="utf-8")
    (tmp_path / "docs/a.md").write_text("# A\n\n[a](none.md) [b](b.md#nowhere)\n", encoding="utf-8")
    with pytest.raises(SystemExit) as refused:
        render(config)
    words = str(refused.value)
    assert [part for part in ("lost.md", "none.md", "#nowhere") if part not in words] == []


@pytest.mark.parametrize(("place", "language"), [("index", "en"), ("ko/index", "ko"), ("ko/tutorial", "ko")])
def test_a_page_says_which_language_it_is_in(site: Path, place: str, language: str) -> None:
    assert [attributes["lang"] for tag, attributes in Tags(html_of(site, place)).found if tag == "html"] == [language]


def test_every_command_has_a_page_with_all_its_flags(site: Path) -> None:
    named = list(all_commands())
    assert {program for program, _, _ in named} == {"alexnet-deploy", "python -m training"}
    for program, name, command in named:
        shown = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", article(site, page_of(program, name))))
        flags = {flag for param in command.params if not param.hidden for flag in (*param.opts, *param.secondary_opts)
                 if flag.startswith("-")}  # fmt: skip
        assert flags - shown == set(), name


def test_every_exported_name_has_its_docstring_in_the_reference(site: Path) -> None:
    html = html_of(site, "reference/api.md")
    text = re.sub(r"<[^>]+>", "", html)
    for name in alexnet_deploy.__all__:
        if name != "__version__":
            assert f'id="alexnet_deploy.{name}"' in html
            first = re.findall(r"\w+", str(getattr(alexnet_deploy, name).__doc__))[:3]
            assert re.search(r"\W+".join(first), text), name


def test_no_page_and_no_style_loads_anything_from_another_host(site: Path) -> None:
    elsewhere = re.compile(r"^(https?:)?//")
    for page in site.rglob("*.html"):
        for tag, attributes in Tags(page.read_text(encoding="utf-8")).found:
            loaded = attributes.get("src") or (attributes.get("href") if tag == "link" else None)
            assert not (loaded and elsewhere.match(loaded)), f"{page}: {loaded}"
            assert "mermaid" not in (attributes.get("class") or ""), f"{page}: its script comes from a CDN"
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", text), style


STRUCTURE = ("h1", "h2", "h3", "h4", "ul", "ol", "li", "pre", "table", "tr", "td", "th", "blockquote", "img")


def structure(html: str) -> Iterator[str]:
    return (tag for tag, _ in Tags(html).found if tag in STRUCTURE)


@pytest.mark.parametrize("source", [source for source in pages() if source.endswith(".md")])
def test_a_page_has_the_same_structure_on_github_and_on_the_site(source: str, site: Path) -> None:
    """The two read lists, indentation and tables by different rules."""
    github = MarkdownIt("commonmark").enable("table").render((ROOT / source).read_text(encoding="utf-8"))
    there, here = Counter(structure(github)), Counter(structure(article(site, pages()[source])))
    assert here == there


def test_the_workflow_to_copy_is_one() -> None:
    text = (ROOT / "docs/guides/ci-gate.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, re.S | re.M)
    (job,) = yaml.safe_load(block)["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert any("--max-drop" in command and "--confident" in command for command in commands)
    assert all(("run" in step) != ("uses" in step) for step in job["steps"])


@pytest.mark.parametrize(("kind", "width"), [*((kind, 390) for kind in KINDS), ("index", 1280), ("training", 1280)])
def test_a_page_fits_and_asks_no_other_host(kind: str, width: int, site: Path, browser: Browser) -> None:
    browser.open(site / f"{kind}.html", width=width)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []


def test_the_search_works_on_a_page_that_is_opened_as_a_file(site: Path, browser: Browser) -> None:
    browser.open(site / "index.html")
    browser.ask(
        """
        document.querySelector('#__search').click()
        const field = document.querySelector('.md-search__input')
        field.focus()
        field.value = 'calibration-stability'
        field.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true}))
        field.dispatchEvent(new Event('input', {bubbles: true}))
        """
    )
    found: list[str] = []
    deadline = time.monotonic() + 30  # the index is read in a worker, and the machine may be busy
    while not found and time.monotonic() < deadline:
        found = browser.ask("[...document.querySelectorAll('.md-search-result__link')].map(link => link.href)")
    assert any("calibration-stability.html" in link for link in found)
