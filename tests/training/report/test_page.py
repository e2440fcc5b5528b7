"""The page and the card of a run: whole in themselves, trusting no name, bounded, and looked at in a real browser."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

import pytest
from PIL import Image

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.evaluation.accuracy import accuracy, reliability
from alexnet_deploy.evaluation.results import Interval
from alexnet_deploy.model.architecture import get_architecture
from alexnet_deploy.model.checkpoint import Checkpoint
from tests.helpers import chromium
from tests.helpers.answers import given_answers
from tests.helpers.html_page import Page
from training.loop.run import EpochMetrics
from training.markdown import escaped
from training.report.card import card_text
from training.report.files import suspects_text
from training.report.measure import ClassResult, Copies, Doubted, Mistake, Photo, RunReport
from training.report.page import CLASSES_LISTED, PAIRS, render_page, write_page

HOSTILE = (
    "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 191 }}&amp;|`x`[a](http://b)" + "w" * 99
)


def report_of(
    folder: Path, labels: tuple[str, ...], *, photos: int = 3, name: str = "mine", epochs: int = 3
) -> RunReport:
    """A report with every section, on pictures in ``folder``."""
    files = []
    for i in range(photos):
        files.append(folder / f"photo {i}.jpg")
        Image.effect_noise((600, 400), 80).convert("RGB").save(files[-1])
    arch = get_architecture("alexnet", num_classes=len(labels))
    contract = ModelContract("alexnet", labels, tuple(f"n{i:05d}" for i in range(len(labels))))
    answers = given_answers([0, 1, 1], [[3.0, 1, *[0.0] * (len(labels) - 2)]] * 3)
    found = accuracy(answers, 0, contract)
    pictures = [Photo(split, file, name + file.name, i % 2) for i, file in enumerate(files) for split in SPLITS]
    metrics = [EpochMetrics(e, 1e-3 / e, 2.0 / e, 1.5 / e, 50.0 + e, 100.0, 1.0) for e in range(1, epochs + 1)]
    return RunReport(
        name=name,
        created="2026-01-02T03:04:05+00:00",
        checkpoint=Checkpoint(arch, contract, {}, {"recipe": {"name": name, "flip": True}, "seed": 1}),
        rows=tuple(metrics),
        accuracy=found,
        training=found,
        training_images=20_000,
        majority=(1, 66.6),
        classes=tuple(ClassResult(k, 3, 1, Interval(5, 70), (0, 2)) for k in range(len(labels))),
        confusions=tuple((k, (k + 1) % len(labels), 2) for k in range(len(labels))),
        reliability=reliability(answers.logits_NK[0], answers.target_N, contract),
        mistakes=tuple(Mistake(photo, 0, 0.9, 0.01) for photo in pictures),
        copies=tuple(Copies(*pair, 99.0) for pair in itertools.pairwise(pictures)),
        doubted=tuple(Doubted(photo, 0, 0.9, 0.01) for photo in pictures),
        notes=("Something to know.",),
    )


SPLITS = ("training", "validation")


@pytest.fixture
def hostile(tmp_path: Path) -> RunReport:
    return report_of(tmp_path, (HOSTILE, HOSTILE, "plain"), name=HOSTILE)


EARLY = {
    "recipe": {"name": "transfer", "epochs": 20, "lr": 0.001},
    "early_stop": 3,
    "result": {"epoch": 22},
    "test_scale": {"result_before": {"epoch": 2}, "recipe": {"epochs": 2, "lr": 0.0001, "conv_lr": 0.0}},
}


def test_page_and_card_say_which_epochs_there_were(tmp_path: Path) -> None:
    """An early end, the choice of the best epoch, and those at test scale after it."""
    found = report_of(tmp_path, ("cat", "dog"))
    found = dataclasses.replace(found, checkpoint=dataclasses.replace(found.checkpoint, recipe=EARLY))
    account = "epoch 2, the best of 3 (20 were planned), then 2 epochs at test scale"
    page, card = Page(render_page(found)).text, card_text(found)
    assert f"({account}; the epoch was chosen by these images, so a little optimistic)" in page
    assert "The epochs at test scale are not drawn here" in page
    assert f"The weights are those of {account}: chosen by these validation images, so the accuracy" in card
    for name, value in (("trained", account), ("at test scale: lr", "0.0001"), ("early stop", "3")):
        assert f"{name}{value}" in page
        assert f"| {name} | {value} |" in card
    assert "22" not in Page(render_page(found)).text.partition("Curves")[0]
    plain = report_of(tmp_path, ("cat", "dog"))
    assert "chosen by" not in render_page(plain) + card_text(plain)


class TestPage:
    def test_it_needs_nothing_but_itself(self, tmp_path: Path) -> None:
        html = render_page(report_of(tmp_path, ("cat", "dog")))
        assert not re.search(r"""(?:src|href)="(?!#|data:)|@import|url\(|<script""", html)
        assert "default-src 'none'" in html
        assert str(tmp_path) not in html, "the page says where the images lie"

    def test_names_are_shown_and_never_run(self, hostile: RunReport) -> None:
        page = Page(render_page(hostile))
        page.assert_runs_nothing()
        assert "1337" not in page.text
        assert page.text.count(HOSTILE) > 20
        assert f"{HOSTILE} (n00000)" in page.text, "two classes of one name can be distinguished"

    def test_headings_tables_and_drawings_have_names(self, tmp_path: Path) -> None:
        page = Page(render_page(report_of(tmp_path, tuple(f"class {i}" for i in range(40)))))
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        anchors = {(each["href"] or "")[1:] for each in page.all("a")}
        assert anchors <= set(ids)
        assert all("scope" in each for each in page.all("th"))
        assert all(each["alt"] for each in page.all("img"))
        regions = [each for each in page.all("div") if each.get("class") == "scroll"]
        assert len(regions) == len(page.all("table"))
        assert all(each.get("tabindex") == "0" and each.get("aria-label") for each in regions)

    def test_a_run_without_a_mistake_and_one_of_one_epoch(self, tmp_path: Path) -> None:
        found = report_of(tmp_path, ("cat", "dog"), epochs=1)
        perfect = dataclasses.replace(found, mistakes=(), confusions=(), copies=(), doubted=())
        html = render_page(perfect)
        page = Page(html)
        assert page.text.count("No validation image is answered wrongly.") == 2
        assert "None was found." in page.text
        assert not page.all("img")
        assert html.count('<circle class="dot') == 4, "one epoch is four dots"
        assert "nan" not in html
        assert render_page(dataclasses.replace(perfect, rows=())).count("<polyline") == 0

    def test_answers_that_are_not_finite(self, tmp_path: Path) -> None:
        found = report_of(tmp_path, ("cat", "dog"))
        broken = dataclasses.replace(found.accuracy, not_finite=7, confidence=None, uncalibrated=None)
        report = dataclasses.replace(found, accuracy=broken, reliability=())
        assert "7 answers are not finite" in Page(render_page(report)).text
        assert "7 answers are not finite" in card_text(report)

    def test_its_size_is_bounded(self, tmp_path: Path) -> None:
        """ImageNet's thousand classes with fifty thousand mistakes, and twice as many classes as are listed."""
        labels = tuple(f"a class of {i}" for i in range(2 * CLASSES_LISTED))
        found = report_of(tmp_path, labels, epochs=90)
        many = dataclasses.replace(
            found, mistakes=found.mistakes * 9000, copies=found.copies * 9000, doubted=found.doubted * 9000
        )
        html = render_page(many)
        page = Page(html)
        assert len(page.all("img")) <= 4 * 24 + 2 * PAIRS
        assert len(html) < 4 << 20
        assert len(page.all("tr")) < CLASSES_LISTED + 200, "and no matrix of millions of cells"
        assert f"The next {CLASSES_LISTED - 20} of {2 * CLASSES_LISTED:,} classes" in page.text
        assert len(card_text(many)) < 10_000


class TestCard:
    def test_names_are_text_and_no_markup(self, hostile: RunReport) -> None:
        text = card_text(hostile)
        assert not re.search(r"(?<!\\)[<>`]", text)
        assert not re.search(r"[^\\]\]\(|https?:(?!\\)//(?!\w)|[^\\]://", text)
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("| ")]
        assert set(cells) <= {3, 5}, "a name adds no column"
        assert escaped("a\nb") == "a\\\\nb"

    def test_the_list_of_suspects_has_no_path_outside_a_comment(self, tmp_path: Path, hostile: RunReport) -> None:
        odd = Photo("training", tmp_path / "new\nline.jpg", "new\nline.jpg", 0)
        report = dataclasses.replace(hostile, doubted=(Doubted(odd, 1, 0.9, 0.1),))
        lines = suspects_text(report).splitlines()
        assert lines
        assert all(line.startswith("#") for line in lines)


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("names", ["plain", "hostile"])
def test_a_browser_shows_it_without_a_scroll_bar_or_a_request(
    browser: chromium.Browser, tmp_path: Path, hostile: RunReport, names: str, width: int
) -> None:
    report = hostile if names == "hostile" else report_of(tmp_path, tuple(f"class {i}" for i in range(12)))
    write_page(report, tmp_path / "report.html")
    browser.open(tmp_path / "report.html", width=width, dark=width == 360)
    browser.ask("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.complaints == []
    own = (tmp_path / "report.html").as_uri()
    assert {each for each in browser.requests if not each.startswith("data:image/jpeg")} <= {own, "data:,"}
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == (
        "rgb(22, 25, 29)" if width == 360 else "rgb(255, 255, 255)"
    )
    broken = "[...document.images].filter(each => !(each.complete && each.naturalWidth)).length"
    assert browser.ask(broken) == 0
    assert browser.ask("document.querySelectorAll('.scroll')[0].tabIndex") == 0
