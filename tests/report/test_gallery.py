"""The gallery: which flips come first, and a page that is whole in itself and trusts no name."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.evaluation.answers import Answers
from alexnet_deploy.report.gallery import THUMBNAIL_SIDE, EngineFlips, worst_flips, write_gallery

CONTRACT = ModelContract("any", ("cat", "dog", "<b>&cow"), ("n0", "n1", "n2"))


def answers(root: Path, targets: list[int], *logits: Any) -> Answers:
    files = tuple(root / f"n{k}" / f"{i}.png" for i, k in enumerate(targets))
    for i, file in enumerate(files):
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (640, 480), (i, 0, 0)).save(file)
    return Answers(files, np.array(targets, np.int64), tuple(np.array(x, np.float32) for x in logits), ())


class Page(HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_worst_flips_come_first(tmp_path: Path) -> None:
    certain, likely, unsure = [9, 0, 0], [2, 0, 0], [0, 0.1, 0]
    first = [certain, likely, [0, 9, 0], certain, likely]
    second = [certain, unsure, certain, [0, 0, 9], [1, 1.1, 0]]
    found, count = worst_flips(answers(tmp_path, [0, 0, 0, 1, 2], first, second), 0, 1, (1, 1))
    assert count == 4
    assert [(int(flip.file.stem), flip.kind, flip.answers) for flip in found] == [
        (2, "won", (1, 0)),
        (3, "both wrong", (0, 2)),
        (1, "lost", (0, 1)),
        (4, "both wrong", (0, 1)),
    ]
    p = np.exp(likely) / np.exp(likely).sum()
    q = np.exp(unsure) / np.exp(unsure).sum()
    assert found[2].probabilities == pytest.approx((p[0], q[1]), rel=1e-6)  # logits are float32
    assert found[2].change == pytest.approx(p[0] - q[0], rel=1e-6)
    assert len(worst_flips(answers(tmp_path, [0, 0], first[1:3], second[1:3]), 0, 1, (1, 1), limit=1)[0]) == 1


def test_each_engine_has_its_temperature(tmp_path: Path) -> None:
    ((flip,), _) = worst_flips(answers(tmp_path, [0], [[2, 0, 0]], [[0, 2, 0]]), 0, 1, (1.0, 2.0))
    e, root_e = np.exp(2), np.exp(1)
    assert flip.probabilities == pytest.approx((e / (e + 2), root_e / (root_e + 2)))


def test_an_answer_that_is_not_finite_is_a_flip(tmp_path: Path) -> None:
    given_answers = answers(tmp_path, [0], [[2, 0, 0]], [[np.nan, 0, 0]])
    ((flip,), _) = worst_flips(given_answers, 0, 1, (1, 1))
    assert (flip.answers, flip.kind, flip.probabilities[1]) == ((0, -1), "lost", 0)
    page = tmp_path / "page.html"
    write_gallery(page, first="a", engines=[EngineFlips("b", (flip,), 1)], contract=CONTRACT, root=tmp_path, images=1)
    assert "no finite answer" in Page(page).text


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    flips, count = worst_flips(answers(tmp_path, [0, 2], [[2, 0, 0]] * 2, [[0, 0, 2]] * 2), 0, 1, (1, 1))
    path = tmp_path / "out" / "page.html"
    engines = [EngineFlips("int8", flips, 7), EngineFlips("same", (), 0)]
    write_gallery(path, first="fp32", engines=engines, contract=CONTRACT, root=tmp_path, images=9)
    page = Page(path)
    assert count == 2
    assert "7 of 9 images flip; the first 2 of them." in page.text
    assert "Answers every image as fp32 does." in page.text
    assert "right → wrong" in page.text
    assert "wrong → right" in page.text
    assert page.text.count("78.7 %") == 4  # e² / (e² + 2), twice an image
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 2
    for attributes in pictures:
        head, _, data = (attributes["src"] or "").partition(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(BytesIO(base64.b64decode(data))) as image:
            assert max(image.size) == THUMBNAIL_SIDE
            assert (str(image.width), str(image.height)) == (attributes["width"], attributes["height"])
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|<script|@import|<link", text)
    assert str(tmp_path) not in text, "the page tells where the images lie"


def test_names_are_shown_and_never_run(tmp_path: Path) -> None:
    given_answers = answers(tmp_path, [2], [[0, 0, 2]], [[2, 0, 0]])
    odd = tmp_path / "n2" / '"><img src=x onerror=alert(1)>\udcff.png'
    given_answers.files[0].rename(odd)
    ((flip,), _) = worst_flips(Answers((odd,), *(given_answers.target_N, given_answers.logits_NK, ())), 0, 1, (1, 1))
    path = tmp_path / "page.html"
    engines = [EngineFlips("<script>alert(2)</script>", (flip,), 1)]
    write_gallery(path, first="{{ 7 * 6 }}", engines=engines, contract=CONTRACT, root=tmp_path, images=1)
    page = Page(path)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "b"})
    assert [attributes["src"] for tag, attributes in page.tags if tag == "img"] != ["x"]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    for shown in ("<b>&cow", "<script>alert(2)</script>", "{{ 7 * 6 }}", "onerror=alert(1)>\\udcff.png"):
        assert shown in page.text


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    flips, count = worst_flips(answers(tmp_path, [0], [[2, 0, 0]], [[0, 2, 0]]), 0, 1, (1, 1))
    path = tmp_path / "page.html"
    path.write_text("old")
    flips[0].file.unlink()  # gone between the measurement and the page
    with pytest.raises(Exception, match="no such file"):
        write_gallery(path, first="a", engines=[EngineFlips("b", flips, count)], contract=CONTRACT, root=tmp_path, images=1)
    assert path.read_text() == "old"
    with pytest.raises(UnavailableError, match="cannot be written"):
        write_gallery(Path("/proc/no/page.html"), first="a", engines=[], contract=CONTRACT, root=tmp_path, images=1)
