"""The gallery: which flips come first, and a page that is whole in itself and trusts no name."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError, UnavailableError
from alexnet_deploy.evaluation.accuracy import accuracy
from alexnet_deploy.evaluation.answers import Answers
from alexnet_deploy.evaluation.evaluate import Evaluation
from alexnet_deploy.evaluation.results import EngineResult
from alexnet_deploy.report.gallery import THUMBNAIL_SIDE, flips, write_gallery
from tests.helpers.answers import given_answers
from tests.helpers.html_page import Page

CONTRACT = ModelContract("any", ("cat", "dog", "<b>&cow"), ("n0", "n1", "n2"))
SAME = (CONTRACT, CONTRACT)


def answers(root: Path, targets: list[int], *logits: Any) -> Answers:
    files = tuple(root / f"n{k}" / f"{i}.png" for i, k in enumerate(targets))
    for i, file in enumerate(files):
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (640, 480), (i, 0, 0)).save(file)
    return given_answers(targets, *logits, files=files)


def written(root: Path, found: Answers, *names: str, **options: Any) -> Page:
    """The page on engines ``names``, beside the images."""
    engines = tuple(
        EngineResult(name, "fp32", "any", 1, 1.0, accuracy(found, i, CONTRACT), None, None, None)
        for i, name in enumerate(names)
    )
    images = len(found.files)
    evaluation = Evaluation(
        root, "class id", CONTRACT, images, 0, (), engines, deltas=(), answers=found, contracts=(CONTRACT,) * len(names)
    )
    write_gallery(evaluation, root / "out/page.html", **options)
    return Page((root / "out/page.html").read_text(encoding="utf-8"))


def test_the_worst_flips_come_first(tmp_path: Path) -> None:
    certain, likely, unsure = [9, 0, 0], [2, 0, 0], [0, 0.1, 0]
    first = [certain, likely, [0, 9, 0], certain, likely]
    second = [certain, unsure, certain, [0, 0, 9], [1, 1.1, 0]]
    found = flips(answers(tmp_path, [0, 0, 0, 1, 2], first, second), 1, SAME)
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


def test_each_engine_has_its_temperature(tmp_path: Path) -> None:
    (flip,) = flips(answers(tmp_path, [0], [[2, 0, 0]], [[0, 2, 0]]), 1, (SAME[0], replace(SAME[0], temperature=2.0)))
    e, root_e = np.exp(2), np.exp(1)
    assert flip.probabilities == pytest.approx((e / (e + 2), root_e / (root_e + 2)))


def test_an_answer_that_is_not_finite_is_a_flip(tmp_path: Path) -> None:
    found = answers(tmp_path, [0], [[2, 0, 0]], [[np.nan, 0, 0]])
    (flip,) = flips(found, 1, SAME)
    assert (flip.answers, flip.kind, flip.probabilities[1]) == ((0, -1), "lost", 0)
    assert "no finite answer" in written(tmp_path, found, "a", "b").text


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    first, second = [[2, 0, 0]] * 3, [[0, 0, 2]] * 3
    page = written(tmp_path, answers(tmp_path, [0, 2, 1], first, second, first), "fp32", "int8", "same", limit=2)
    assert page.text.count("Highest losses") == 3
    assert page.text.count("33.33 % of the images are answered right, 2 wrong.") == 3
    assert "3 of 3 images flip; the first 2 of them." in page.text
    assert "Answers every image as fp32 does." in page.text
    assert "right → wrong" in page.text
    assert "wrong → right" in page.text
    assert page.text.count("78.7 %") == 10  # e² / (e² + 2): two flips of two answers, two losses of each engine
    pictures = page.all("img")
    assert len(pictures) == 8
    for attributes in pictures:
        head, _, data = (attributes["src"] or "").partition(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(BytesIO(base64.b64decode(data))) as image:
            assert max(image.size) == THUMBNAIL_SIDE
            assert (str(image.width), str(image.height)) == (attributes["width"], attributes["height"])
    text = (tmp_path / "out/page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|<script|@import|<link", text)
    assert str(tmp_path) not in text, "the page says where the images lie"


def test_names_are_shown_and_never_run(tmp_path: Path) -> None:
    found = answers(tmp_path, [2], [[0, 0, 2]], [[2, 0, 0]])
    odd = found.files[0].rename(tmp_path / "n2" / '"><img src=x onerror=alert(1)>\udcff.png')
    page = written(tmp_path, replace(found, files=(odd,)), "{{ 7 * 6 }}", "<script>alert(2)</script>")
    page.assert_runs_nothing()
    assert not page.all("b")
    for shown in ("<b>&cow", "<script>alert(2)</script>", "{{ 7 * 6 }}", "onerror=alert(1)>\\udcff.png"):
        assert shown in page.text


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    found = answers(tmp_path, [0], [[2, 0, 0]], [[0, 2, 0]])
    old = written(tmp_path, found, "a", "b")
    found.files[0].unlink()  # gone between the measurement and the page
    with pytest.raises(InputError, match="no such file"):
        written(tmp_path, found, "a", "b")
    assert Page((tmp_path / "out/page.html").read_text(encoding="utf-8")).text == old.text
    (tmp_path / "out").rename(tmp_path / "gone")
    (tmp_path / "out").touch()
    again = answers(tmp_path, [0], [[2, 0, 0]])
    with pytest.raises(UnavailableError, match="cannot be written"):
        written(tmp_path, again, "a")


def test_one_engine_has_a_page_without_flips(tmp_path: Path) -> None:
    page = written(tmp_path, answers(tmp_path, [0, 1], [[2, 0, 0], [2, 0, 0]]), "alone")
    assert "Flips" not in page.text
    assert "1 of 1 pairs of a class and a wrong answer." in page.text
    assert "loss 2.24 nats" in page.text  # log(e² + 2)
    assert len(page.all("td")) == 2 * 2 + 3


def test_an_engine_without_mistakes_has_no_matrix(tmp_path: Path) -> None:
    page = written(tmp_path, answers(tmp_path, [0, 1], [[2, 0, 0], [0, 2, 0]]), "right")
    assert "100.00 % of the images are answered right, 0 wrong." in page.text
    assert "Confusion matrix" not in page.text


def test_a_matrix_of_many_classes_stays_readable(tmp_path: Path) -> None:
    """Forty classes, each taken for the next: sixteen have a row, and the page says how many have none."""
    names = tuple(f"class {k}" for k in range(40))
    found = answers(tmp_path, [*range(40)], np.roll(np.eye(40), 1, axis=1))
    result = EngineResult("wrong", "fp32", "any", 1, 1.0, accuracy(found, 0, CONTRACT), None, None, None)
    contract = ModelContract("any", names, names)
    evaluation = Evaluation(
        tmp_path, "class id", contract, 40, 0, (), (result,), deltas=(), answers=found, contracts=(contract,)
    )
    write_gallery(evaluation, tmp_path / "page.html", limit=1)
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "24 more have no row" in page.text
    assert "others" in page.text
    assert "10 of 40 pairs" in page.text


def test_classes_of_one_label_have_their_ids(tmp_path: Path) -> None:
    cranes = ModelContract("any", ("crane", "crane", "dog"), ("n02012849", "n03126707", "n2"))
    found = answers(tmp_path, [0], [[0, 2, 0]])
    result = EngineResult("e", "fp32", "any", 1, 1.0, accuracy(found, 0, cranes), None, None, None)
    evaluation = Evaluation(
        tmp_path, "class id", cranes, 1, 0, (), (result,), deltas=(), answers=found, contracts=(cranes,)
    )
    write_gallery(evaluation, tmp_path / "page.html")
    text = Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "crane (n02012849)" in text
    assert "crane (n03126707)" in text
