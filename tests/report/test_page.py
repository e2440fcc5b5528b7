"""The report's page: whole in itself, trusting no name, and looked at in a real browser."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.evaluation.confidence.record import MethodRow
from alexnet_deploy.evaluation.results import Interval
from alexnet_deploy.pages.html import number
from alexnet_deploy.report.charts import axis, dominated_by, roofline, trade_off
from alexnet_deploy.report.data import Gap, Report
from alexnet_deploy.report.file import read_report
from alexnet_deploy.report.page import render_page, write_page
from tests.helpers import chromium
from tests.helpers.html_page import Page
from tests.helpers.report_sample import batch_result, engine_profile, engine_report, sample_report

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 191 }}&amp;" + "w" * 200


def hostile() -> Report:
    """The sample with a name that would run, were it not escaped, wherever a name can stand."""
    report = sample_report()
    first, second, third = report.engines
    profile = first.layers
    assert profile is not None
    bad = dataclasses.replace(
        first,
        result=dataclasses.replace(first.result, name=HOSTILE, runner=HOSTILE),
        tools={HOSTILE: HOSTILE},
        notes=(HOSTILE,),
        layers=dataclasses.replace(profile, rows=(dataclasses.replace(profile.rows[0], layer=HOSTILE, op=HOSTILE),)),
        profile=engine_profile(batch_result(1, 2.0, invalid=(HOSTILE,))),
    )
    return dataclasses.replace(
        report,
        engines=(bad, second, third),
        labels=(HOSTILE,) * 3,
        command=(HOSTILE,),
        photos=HOSTILE,
        created=HOSTILE,
        data=dataclasses.replace(report.data, name=HOSTILE),
        gaps=tuple(Gap(part, HOSTILE, HOSTILE) for part in ("accuracy", "latency", "stages", "layers")),
    )


def test_the_page_needs_nothing_but_itself() -> None:
    html = render_page(sample_report())
    page = Page(html)
    assert not re.search(r"""(?:src|href)="(?!#|data:)|@import|url\(""", html)
    assert [each["type"] for each in page.all("script")] == ["application/json"]
    assert page.all("link") == [{"rel": "icon", "href": "data:,"}]
    assert "default-src 'none'" in html


def test_the_page_shows_what_was_measured() -> None:
    page = Page(render_page(sample_report()))
    shown = " ".join(page.text.split())
    for part in (
        "3 engines on val", "81.00 % top-1 (77.0..84.0)", "4.0 times as fast as exact", "-0.50 (-1.70..+0.60)",
        "no: 1is not worse in all three", "OpenVINO gives no counters", "classifier.1", "Method entropy on 512 images",
        "ECE 3.1 %", "alexnet-deploy report --data 'my photos/val'", "495 images/s: 100 images, 5 times, in 1.00 s",
        "9.00", "8.00 ms at batch 8, OpenVINO 2026.4.1 on CPU",
    ):  # fmt: skip
        assert part in shown, part


def test_a_calibration_is_shown_by_what_its_fit_had_not_seen() -> None:
    """The fit's own images make it look too good; their numbers are not a result."""
    report = sample_report()
    first = report.engines[0]
    assert first.fit is not None
    row = MethodRow("beta on the top", True, 0.3, 1.5, Interval(0.5, 2.5))
    record = dataclasses.replace(first.fit.record, method=row.method, methods=(row,))
    first = dataclasses.replace(first, fit=dataclasses.replace(first.fit, record=record))
    report = dataclasses.replace(report, engines=(first, *report.engines[1:]))
    shown = " ".join(Page(render_page(report)).text.split())
    assert "calibrated by beta on the top (temperature 1.25)" in shown
    assert (
        "Fitted on 500 other images; by cross-validation on them, the ECE without the part that chance adds is 1.5 %"
        in shown
    )
    assert "where the ECE went" not in shown


def test_the_data_are_in_the_page_twice_and_whole(tmp_path: Path) -> None:
    report = hostile()
    page = Page(render_page(report))
    (download,) = (each["href"] or "" for each in page.all("a") if "download" in each)
    for text in (page.script.encode(), base64.b64decode(download.partition("base64,")[2])):
        (tmp_path / "report.json").write_bytes(text)
        assert read_report(tmp_path / "report.json") == report


def test_names_are_shown_and_never_run() -> None:
    page = Page(render_page(hostile()))
    page.assert_runs_nothing(scripts=1)
    assert not page.all("img")
    assert page.text.count(HOSTILE) > 20
    assert "1337" not in page.text


def test_one_engine_of_which_only_the_accuracy_is_known() -> None:
    alone = dataclasses.replace(
        engine_report("alone", points=None), profile=None, stages=None, layers=None, calibration=None, fit=None,
        reliability=(),
    )  # fmt: skip
    report = dataclasses.replace(sample_report(alone), gaps=(), checks=(), photos=None)
    shown = Page(render_page(report)).text
    assert "1 engine on val" in shown
    for absent in ("Difference to", "by trtexec's rules", "roofline", "From file to answer", "gaps"):
        assert absent not in shown
    gap = Gap("latency", "alone", "it was killed")
    assert "alone: it was killed" in Page(render_page(dataclasses.replace(report, gaps=(gap,)))).text


def test_not_finite_answers_leave_a_page() -> None:
    found = sample_report()
    result = found.engines[0].result
    accuracy = dataclasses.replace(result.accuracy, not_finite=7, confidence=None, uncalibrated=None)
    broken = dataclasses.replace(
        found.engines[0], reliability=(), result=dataclasses.replace(result, accuracy=accuracy)
    )
    shown = Page(render_page(dataclasses.replace(found, engines=(broken, *found.engines[1:])))).text
    assert "7 answers are not finite and count as wrong" in shown
    assert "so there is no confidence to measure" in shown


def test_headings_captions_and_drawings_have_names() -> None:
    page = Page(render_page(sample_report()))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    drawings = [each for each in page.all("svg") if each.get("role") == "img"]
    assert len(drawings) > 8
    for each in drawings:
        assert each.get("aria-label") or set((each["aria-labelledby"] or "").split()) <= set(ids)
    anchors = [(each["href"] or "")[1:] for each in page.all("a") if (each["href"] or "").startswith("#")]
    assert set(anchors) <= set(ids)
    assert all("scope" in each for each in page.all("th"))
    regions = [each for each in page.all("div") if each.get("class") == "scroll"]
    assert len(regions) == len(page.all("table"))
    assert all(each.get("tabindex") == "0" and each.get("aria-label") for each in regions)


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=8))
def test_the_front_is_what_nobody_dominates(points: list[tuple[int, int, int]]) -> None:
    beaten = dominated_by(points)
    assert None in beaten
    for point, by in zip(points, beaten, strict=True):
        worse_than = [other for other in points if other != point and all(map(int.__le__, other, point))]
        assert (by is None) == (not worse_than)
        assert by is None or points[by] in worse_than


def test_the_trade_off_places_engines_where_they_belong() -> None:
    chart, beaten = trade_off(sample_report().engines, 1)
    assert chart is not None
    exact, quick, useless = chart.marks
    assert quick.x < exact.x < useless.x
    assert exact.y < quick.y < useless.y, "y counts from the top: the best is highest"
    assert quick.radius_px < exact.radius_px < useless.radius_px
    assert (exact.solid, quick.solid, useless.solid) == (True, True, False)
    assert beaten == {0: None, 1: None, 2: 0}
    assert trade_off(sample_report().engines, 64) == (None, {})


def test_every_layer_lies_below_a_roof_that_ends_the_axis() -> None:
    profile = sample_report().engines[0].layers
    assert profile is not None
    chart = roofline(profile)
    assert chart is not None
    assert [mark.number for mark in chart.marks] == [1, 2, 3], "a conversion does no arithmetic"
    for curve in chart.curves:
        start, ridge, end = (tuple(map(float, point.split(","))) for point in curve.points.split())
        assert start[0] < ridge[0] < end[0] == 100
        assert start[1] > ridge[1] == end[1]
    assert roofline(dataclasses.replace(profile, roofline=None)) is None


@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=5), st.sampled_from([True, False, None]))
def test_an_axis_holds_its_values_and_has_ticks(values: list[float], log: bool | None) -> None:
    found = axis("x", values, log=log)
    assert found.low < min(values) <= max(values) < found.high
    assert 1 <= len(found.ticks) <= 8
    assert all(0 <= at <= 100 for at, _ in found.ticks)
    assert found.ticks == sorted(found.ticks)


def test_numbers_have_three_digits_that_count() -> None:
    shown = [number(value) for value in (0, 0.01234, 0.5, 1.234, 12.34, 123.4, 12345.6, None)]
    assert shown == ["0.00", "0.0123", "0.500", "1.23", "12.3", "123", "12,346", "\N{EN DASH}"]


def opened(browser: chromium.Browser, folder: Path, report: Report, **options: Any) -> chromium.Browser:
    """The page on ``report`` in a new tab."""
    write_page(report, folder / "report.html")
    browser.open(folder / "report.html", **options)
    return browser


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("report", [sample_report(), hostile()], ids=["sample", "hostile"])
def test_a_browser_shows_it_without_a_scroll_bar_or_a_request(
    browser: chromium.Browser, tmp_path: Path, report: Report, width: int
) -> None:
    page = opened(browser, tmp_path, report, width=width, dark=width == 768)
    page.ask("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.ask("innerWidth") == width
    assert page.ask("document.documentElement.scrollWidth") <= width
    assert page.complaints == []
    assert page.requests == [(tmp_path / "report.html").as_uri()]
    assert page.ask("document.scripts.length") == 1
    assert json.loads(page.ask("document.getElementById('report-data').textContent"))["schema"] == 2


OUTSIDE = """
[...document.querySelectorAll('.frame')].flatMap(frame => {
  const box = frame.getBoundingClientRect(), room = document.documentElement.clientWidth;
  return [...frame.querySelectorAll('span, circle, text')].map(each => [each.getBoundingClientRect(), each])
    .filter(([r]) => r.width && (r.left < 0 || r.right > room || r.top < box.top - 40 || r.bottom > box.bottom + 60))
    .map(([r, each]) => each.outerHTML);
})
"""
CONTRAST = """
(() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => { const f = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    return .2126 * f(r) + .7152 * f(g) + .0722 * f(b); };
  const behind = each => { for (; each; each = each.parentElement) {
    const c = parse(getComputedStyle(each).backgroundColor); if (c.length < 4 || c[3] > 0) return c; }
    return [255, 255, 255]; };
  const low = [];
  for (const each of document.querySelectorAll('h1,h2,h3,p,a,td,th,caption,figcaption,li,span,code,pre,summary')) {
    if (![...each.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const a = light(parse(getComputedStyle(each).color)), b = light(behind(each));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) low.push(ratio.toFixed(2) + ' ' + each.outerHTML.slice(0, 100));
  }
  return low;
})()
"""


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_in_a_chart_is_cut_off_and_all_text_can_be_read(
    browser: chromium.Browser, tmp_path: Path, dark: bool
) -> None:
    page = opened(browser, tmp_path, sample_report(), width=360, dark=dark)
    assert page.ask("getComputedStyle(document.body).backgroundColor") == (
        "rgb(22, 25, 29)" if dark else "rgb(255, 255, 255)"
    )
    assert page.ask(OUTSIDE) == []
    assert page.ask(CONTRAST) == [], "below the ratio of 4.5 that WCAG 2 demands for text"


def test_it_is_printed_on_a4_with_all_details(browser: chromium.Browser, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, sample_report(), media="print")
    assert page.ask("document.querySelector('details:not([open]) table').getBoundingClientRect().height") > 0
    assert page.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
    page.pdf(tmp_path / "report.pdf")
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", (tmp_path / "report.pdf").read_bytes())
    assert boxes
    for width, height in boxes:
        assert (float(width), float(height)) == pytest.approx((595, 842), abs=1)  # points of 210 x 297 mm, rounded
