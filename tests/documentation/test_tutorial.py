"""docs/tutorial.md: its commands run in order, from photos to a server, and print what the page shows."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.helpers import transcripts
from tests.helpers.repository import ROOT


def test_the_tutorial_runs_as_it_is_written(tmp_path: Path) -> None:
    page = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    folder = transcripts.with_samples(ROOT, tmp_path)
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        port = str(any_port.getsockname()[1])
    outputs = transcripts.check(page, folder, flags={"serve": ("--port", port)}, instead={":8000/": f":{port}/"})
    (answer,) = json.loads(outputs[-1])
    assert answer["top"][0]["label"] == "church"


def test_the_korean_tutorial_has_the_same_commands() -> None:
    page = ROOT / "docs/ko/tutorial.md"
    if not page.exists():
        pytest.skip("docs/ko/tutorial.md is not written yet")
    english = transcripts.shown((ROOT / "docs/tutorial.md").read_text(encoding="utf-8"))
    assert transcripts.shown(page.read_text(encoding="utf-8")) == english


PAGE = """\
Text.

```console
$ first --flag \\
    more
one   2.5 ms
...
last 3 of 4
$ second &
```
"""


def test_a_page_becomes_commands_with_what_they_print() -> None:
    first, second = transcripts.shown(PAGE)
    assert first == transcripts.Shown("first --flag more", ("one   2.5 ms", "...", "last 3 of 4"))
    assert (second.command, second.output, second.fails) == ("second &", (), False)


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        (["one  7 ms", "", "last 30 of 40"], None),
        (["one 2.5 ms", "another", "line", "last 3 of 4"], None),
        (["two 2.5 ms", "last 3 of 4"], "the page shows:  one"),
        (["one 2.5 ms", "last 3 from 4"], "nothing more"),
        (["one 2.5 ms", "last 3 of 4", "one more"], "the page does not show: one more"),
    ],
)
def test_words_count_and_numbers_do_not(printed: list[str], found: str | None) -> None:
    wrong = transcripts.difference(transcripts.shown(PAGE)[0].output, printed)
    assert (wrong or "").count(found or "") if found else wrong is None


@pytest.mark.parametrize(("share", "same"), [("90 %", True), ("84.5 %", True), ("79 %", False)])
def test_a_percentage_may_differ_by_some_points_only(share: str, same: bool) -> None:
    assert (transcripts.difference(("top-1 90 %",), [f"top-1 {share}"]) is None) is same


def test_a_line_may_be_cut_off() -> None:
    assert transcripts.difference(("images: 5 of 6; ...",), ["images: 7 of 8; and more"]) is None
    assert transcripts.difference(("images: 5 of 6; ...",), ["pixels: 7 of 8; and more"]) is not None
