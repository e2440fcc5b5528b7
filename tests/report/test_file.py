"""``report.json``, which is read as a stranger's file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.errors import ArtifactError
from alexnet_deploy.report.file import FORMAT, read_report, to_json, write_report
from alexnet_deploy.report.page import page_of
from tests.helpers.command import Command
from tests.helpers.report_sample import sample_report


def test_a_report_survives_the_disk(tmp_path: Path) -> None:
    write_report(sample_report(), tmp_path / "new/report.json")
    assert read_report(tmp_path / "new/report.json") == sample_report()


@pytest.fixture
def run(command: Command) -> Command:
    return partial(command, "report")


Edit = Callable[[dict[str, Any]], object]


def row(report: dict[str, Any]) -> dict[str, Any]:
    """The first latency of the second engine."""
    found: dict[str, Any] = report["engines"][1]["profile"]["rows"][0]
    return found


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda r: r.update(schema=1), "report schema 1, this version reads 2; measure again"),
        (lambda r: r.pop("schema"), "report schema None, this version reads 2"),
        (lambda r: r.update(extra=1), "unknown field 'extra'"),
        (lambda r: r.update(engines=[]), "`$.engines`"),
        (lambda r: r["engines"][0]["result"].update(model_bytes="1"), "`$.engines[0].result.model_bytes`"),
        (lambda r: r["engines"][0].update(file_sha256="A" * 64), "`$.engines[0].file_sha256`"),
        (lambda r: r["engines"][1]["result"]["accuracy"].update(images=True), "`$.engines[1].result.accuracy.images`"),
        (lambda r: row(r)["latency"].update(median_ms=0), "quick: median_ms is 0.0"),
        (lambda r: row(r)["latency"]["samples_ns"].pop(), "quick: its 100 samples are not 101 rising quantiles"),
        (lambda r: row(r)["latency"]["samples_ns"].reverse(), "quick: its 101 samples are not 101 rising quantiles"),
        (lambda r: row(r)["latency"].update(batch=8), "two rows have one batch size"),
        (lambda r: r["engines"][1]["result"].update(name="exact"), "two engines have one name"),
        (lambda r: r["engines"][1].update(delta=None), "only the first engine is not compared"),
        (lambda r: r["engines"][1]["delta"]["classes"][0].update(target=3), "a class has no label"),
        (lambda r: r["labels"].pop(), "2 labels, 3 class ids"),
        (lambda r: r["engines"][0]["layers"]["rows"][0].update(flops=-1), "a number of layer features.0 is out of range"),
        (lambda r: r["engines"][0]["reliability"][14].update(accuracy_percent=None), "a bin has percentages without"),
        (lambda r: r["gaps"][0].update(part="weather"), "`$.gaps[0].part`"),
    ],
)
def test_a_damaged_report_is_one_line(run: Command, tmp_path: Path, edit: Edit, said: str) -> None:
    raw = json.loads(to_json(sample_report()))
    edit(raw)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(raw), encoding="utf-8")
    ran = run("--from", path, "-o", tmp_path / "page.html")
    assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err
    assert said in ran.err
    assert "measure again: alexnet-deploy report --data FOLDER" in ran.err
    assert not (tmp_path / "page.html").exists()


def test_a_huge_report_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with path.open("wb") as stream:
        stream.truncate(FORMAT.max_bytes + 1)
    with pytest.raises(ArtifactError, match="too large for a report"):
        read_report(path)


TEXT = to_json(sample_report()).encode()


@given(st.integers(0, len(TEXT) - 1), st.binary(max_size=3))
def test_any_damage_is_an_artifact_error_or_harmless(tmp_path_factory: Any, at: int, instead: bytes) -> None:
    path = tmp_path_factory.mktemp("damage") / "report.json"
    path.write_bytes(TEXT[:at] + instead + TEXT[at + 1 :])
    try:
        read_report(path)
    except ArtifactError as exc:
        assert "\n" not in str(exc)


def numbers(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each number below ``value``, as the list or dict that holds it and its place there."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            if type(each) in (int, float):
                yield value, key
            yield from numbers(each)


RAW = json.loads(TEXT)
PLACES = list(numbers(RAW))


@given(st.sampled_from(range(len(PLACES))), st.sampled_from([0, -1, 10**6, 1e-300, 1e300]))
def test_a_report_that_can_be_read_can_be_drawn(tmp_path_factory: Any, place: int, number: float) -> None:
    path = tmp_path_factory.mktemp("numbers") / "report.json"
    holder, key = PLACES[place]
    was, holder[key] = holder[key], number
    path.write_text(json.dumps(RAW))
    holder[key] = was
    try:
        report = read_report(path)
    except ArtifactError:
        return
    assert page_of(report)
