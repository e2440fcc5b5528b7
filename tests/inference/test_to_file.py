"""Runs that go on: which images get a row, which rows stay, in every format."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_deploy.errors import UsageError
from alexnet_deploy.inference.journal import journal_of
from alexnet_deploy.inference.prediction import Answer, Prediction
from alexnet_deploy.inference.run_settings import settings_of
from alexnet_deploy.inference.to_file import FileResult, predict_to_file
from alexnet_deploy.onnx_graph.weights_data import onnx_sha256
from tests.helpers.models.onnx_models import TINY_CONTRACT, tiny_model, weights_beside


class Classifier:
    """Answers each name with itself, fails for those in ``bad``, and is killed (as by Ctrl-C) after ``rows`` rows."""

    def __init__(self, rows: int | None = None, bad: str = "") -> None:
        self.rows, self.bad, self.asked = rows, bad, list[str]()

    def __call__(self, names: Iterator[str]) -> Iterator[Prediction]:
        for name in names:
            if len(self.asked) == self.rows:
                raise KeyboardInterrupt
            self.asked.append(name)
            if name in self.bad:
                yield Prediction(name, (), f"{name}: cannot be read")
            else:
                yield Prediction(name, (Answer(0, f"label of {name}", 0.5),))


def run(output: Path, names: str, classifier: Classifier, **options: Any) -> FileResult | None:
    """The result, None for a run that ended early; an image is one letter."""
    try:
        return predict_to_file(classifier, [iter(names)], output, settings={}, top_k=1, **options)
    except KeyboardInterrupt:
        return None


def rows(output: Path) -> str:
    """One letter per row; capital if it is an error."""
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert all(row["error"] or row["top"][0]["label"] == f"label of {row['file']}" for row in found)
    return "".join(row["file"].upper() if row["error"] else row["file"] for row in found)


@settings(max_examples=40)  # each flushes to the disk
@given(
    names=st.text("abcde", max_size=12),
    ends=st.lists(st.integers(0, 6), max_size=4),
    bad=st.sampled_from(["", "a", "bd"]),
)
def test_however_a_run_is_cut_each_image_has_one_row_in_its_place(
    tmp_path_factory: pytest.TempPathFactory, names: str, ends: list[int], bad: str
) -> None:
    """Also an image that is named several times."""
    output = tmp_path_factory.mktemp("runs") / "rows.jsonl"
    for end in ends:
        if run(output, names, Classifier(end, bad), resume=True) is not None:
            output.unlink()
    last = Classifier(bad=bad)
    result = run(output, names, last, resume=True)
    assert result is not None
    assert rows(output) == "".join(name.upper() if name in bad else name for name in names)
    assert result == FileResult(len(names), sum(name in bad for name in names), result.resumed, 0)
    assert len(last.asked) == len(names) - result.resumed + sum(n in bad for n in names[: result.resumed])
    assert os.listdir(output.parent) == ["rows.jsonl"]


@settings(max_examples=40)
@given(first=st.text("abcdef", max_size=8), then=st.text("abcdef", max_size=8), end=st.integers(1, 8))
def test_a_changed_list_adds_new_images_and_keeps_old_rows(
    tmp_path_factory: pytest.TempPathFactory, first: str, then: str, end: int
) -> None:
    output = tmp_path_factory.mktemp("runs") / "rows.jsonl"
    if run(output, first, Classifier(end)) is not None:
        output.unlink()
    old = first[:end] if journal_of(output).exists() else ""
    classifier = Classifier()
    result = run(output, then, classifier, resume=True)
    assert result is not None
    found = rows(output)
    assert found[: len(old)] == old
    assert sorted(classifier.asked) == sorted(found[len(old) :])
    assert result.gone == sum(max(0, old.count(name) - then.count(name)) for name in set(old))
    assert all(found.count(name) == max(old.count(name), then.count(name)) for name in set(found + then))


def test_what_failed_is_tried_again_in_its_place(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    run(output, "abcdef", Classifier(4, bad="bc"))
    for bad, end in (("b", 1), ("bc", 1)):
        assert run(output, "abcdef", Classifier(end, bad), resume=True) is None
    again = Classifier(bad="f")
    assert run(output, "abcdef", again, resume=True) == FileResult(6, 1, 4, 0)
    assert again.asked == list("bcef")
    assert rows(output) == "abcdeF"


@pytest.mark.parametrize("format_", ["jsonl", "csv", "parquet", "table"])
def test_a_resumed_file_is_that_of_one_run(tmp_path: Path, format_: Any) -> None:
    run(tmp_path / "one", "abcdef", Classifier(bad="b"), format_=format_)
    run(tmp_path / "two", "abcdef", Classifier(3, bad="b"), format_=format_)
    run(tmp_path / "two", "abcdef", Classifier(bad="b"), format_=format_, resume=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_an_old_output_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    run(output, "abc", Classifier())
    run(output, "def", Classifier(1))
    assert rows(output) == "abc"
    run(output, "def", Classifier(), resume=True)
    assert rows(output) == "def"


def test_what_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    run(output, "abc", Classifier())
    with pytest.raises(UsageError, match=r"`resume`: .*rows.jsonl is complete, as no rows.jsonl.journal is beside it"):
        run(output, "abc", Classifier(), resume=True)
    run(output, "abc", Classifier(2))
    with pytest.raises(UsageError, match="keeps 2 rows of a run that did not end"):
        run(output, "abc", Classifier())
    with pytest.raises(UsageError, match="was begun with format jsonl, this run has csv"):
        run(output, "abc", Classifier(), resume=True, format_="csv")
    run(output, "xy", Classifier(), overwrite=True)
    assert rows(output) == "xy"


def test_a_run_without_an_end_goes_on_after_it(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    for names, complete in (("ab", "ab"), ("ba", "ab"), ("acb", "abc")):
        run(output, names, Classifier(), resume=True, keep_journal=True)
        assert rows(output) == complete


def test_settings_tell_engines_and_preprocessing_apart(tmp_path: Path) -> None:
    model = onnx_sha256(tiny_model(tmp_path / "tiny.onnx"))
    mine = settings_of(model, TINY_CONTRACT, top_k=5)
    assert mine == settings_of(model, replace(TINY_CONTRACT), top_k=5)
    pre = replace(TINY_CONTRACT.preprocessing, interpolation="bicubic")
    others = [
        settings_of(onnx_sha256(tiny_model(tmp_path / "other.onnx", "fp16")), TINY_CONTRACT, top_k=5),
        settings_of(model, replace(TINY_CONTRACT, preprocessing=pre), top_k=5),
        settings_of(model, replace(TINY_CONTRACT, temperature=2.0), top_k=5),
        settings_of(model, replace(TINY_CONTRACT, labels=("x", *TINY_CONTRACT.labels[1:])), top_k=5),
        settings_of(model, TINY_CONTRACT, top_k=4),
    ]
    differing = [[key for key in mine if other[key] != mine[key]] for other in others]
    assert differing == [["engine"], ["preprocessing.interpolation"], ["temperature"], ["labels"], ["top_k"]]


def test_settings_tell_weights_beside_a_model_apart(tmp_path: Path) -> None:
    one, two = (
        settings_of(onnx_sha256(weights_beside(tmp_path / "tiny.onnx", scale)), TINY_CONTRACT)["engine"]
        for scale in (1, 2)
    )
    assert one != two
