"""LoadGen's logs by example, and what a result must be to count."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.errors import ArtifactError, ProofError
from alexnet_deploy.profiling.mlperf.log import ACCURACY, SUMMARY, encode_answers, read_answers, read_summary
from alexnet_deploy.profiling.mlperf.results import MlperfReport, OpenSystem, RateTrial, ScenarioResult, require_valid

INVALID = """\
================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 92.38
Result is : INVALID
  Performance constraints satisfied : NO
  Min duration satisfied : Yes
  Min queries satisfied : Skipped
  Early stopping satisfied: NO
Recommendations:
 * Reduce target QPS to improve latency.
Early Stopping Result:
 * Run unsuccessful.
 * Processed 100 queries.
 * Would need to run at least 359 more queries,
 with the run being successful if every additional
 query were under latency.

================================================
Additional Stats
================================================
Scheduled samples per second : 92.57
Mean latency (ns)               : 2362376
99.00 percentile latency (ns)   : 5243484

================================================
Test Parameters Used
================================================
target_qps : 100
target_latency (ns): 15000000

1 warning encountered. See detailed log.

2 ERRORS encountered. See detailed log.
"""
"""As LoadGen 6.0.17 writes it, some statistics and parameters left out."""


def summary_of(text: str, folder: Path) -> Path:
    (folder / SUMMARY).write_text(text, encoding="utf-8")
    return folder


def test_a_summary_is_read_under_its_own_names(tmp_path: Path) -> None:
    found = read_summary(summary_of(INVALID, tmp_path))
    assert (found.scenario, found.mode, found.valid) == ("Server", "PerformanceOnly", False)
    assert (found.metric, found.value) == ("Completed samples per second", 92.38)
    assert found.checks == {
        "Performance constraints satisfied": False,
        "Min duration satisfied": True,
        "Min queries satisfied": None,
        "Early stopping satisfied": False,
    }
    assert found.stats == {
        "Scheduled samples per second": 92.57,
        "Mean latency (ns)": 2362376,
        "99.00 percentile latency (ns)": 5243484,
    }
    assert found.parameters == {"target_qps": 100, "target_latency (ns)": 15_000_000}
    assert (found.warnings, found.errors, found.unknown) == (1, 2, ())
    assert found.reasons == (
        "Performance constraints satisfied: NO",
        "Early stopping satisfied: NO",
        "Reduce target QPS to improve latency.",
        "Run unsuccessful.",
        "Processed 100 queries.",
        "Would need to run at least 359 more queries, with the run being successful if every additional query were "
        "under latency.",
    )


def test_the_other_rate_leads_in_other_versions_of_loadgen(tmp_path: Path) -> None:
    text = INVALID.replace("Completed samples per second    : 92.38\n", "")
    assert read_summary(summary_of(text, tmp_path)).metric == "Scheduled samples per second"


def test_lines_that_nobody_knows_are_kept(tmp_path: Path) -> None:
    text = INVALID.replace("SUT name", "Moon phase : full\nSUT name").replace("target_qps", "A line.\ntarget_qps")
    assert read_summary(summary_of(text, tmp_path)).unknown == ("A line.", "Moon phase : full")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Result is : INVALID\n", "", "no 'Result is'"),
        ("Result is : INVALID", "Result is : SPLENDID", "no 'Result is'"),
        ("Scenario : Server", "Scenario : Zoo", "no 'Zoo'"),
        ("Scenario : Server", "Scenario : Offline", "no 'metric of its scenario'"),
        ("2 ERRORS encountered. See detailed log.", "", "no 'error'"),
        ("target_qps : 100\n", "target_qps : 100\ntarget_qps : 100\n", "'target_qps' twice"),
    ],
)
def test_a_summary_without_what_must_be_there_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        read_summary(summary_of(INVALID.replace(old, new), tmp_path))


@given(cut=st.integers(0, len(INVALID)), line=st.text(max_size=40), at=st.integers(0, 40))
def test_no_damage_makes_an_invalid_result_valid(
    tmp_path_factory: pytest.TempPathFactory, cut: int, line: str, at: int
) -> None:
    lines = INVALID[:cut].splitlines()
    lines.insert(at, line)
    try:
        found = read_summary(summary_of("\n".join(lines), tmp_path_factory.getbasetemp()))
    except ArtifactError:
        return
    assert not found.valid


def accuracy_log(folder: Path, *rows: tuple[int, str]) -> Path:
    raw = [{"seq_id": i, "qsl_idx": index, "data": data} for i, (index, data) in enumerate(rows)]
    (folder / ACCURACY).write_text(json.dumps(raw), encoding="utf-8")
    return folder


def test_answers_come_back_as_they_were_encoded(tmp_path: Path) -> None:
    logits_NK = np.array([[0, 3, 3], [np.nan, 9, 0], [0, 0, 1], [np.inf, 0, 0]], np.float32)
    answers = encode_answers(logits_NK)
    assert answers.tolist() == [1, -1, 2, -1]  # equal logits: the lower class number, as in evaluate
    rows = [(i, answer.tobytes().hex()) for i, answer in enumerate(answers)]
    folder = accuracy_log(tmp_path, *reversed(rows), (2, rows[0][1]), (4, ""))
    assert read_answers(folder, 5).tolist() == [1, -1, 2, -1, -2]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(0, "00000000")], "answers for 1 of 2 images"),
        ([(0, "00000000"), (2, "00000000")], "is not LoadGen's accuracy log"),
        ([(0, "00000000"), (-1, "00000000")], "is not LoadGen's accuracy log"),
        ([(0, "00000000"), (1, "0000")], "is not LoadGen's accuracy log"),
        ([(0, "00000000"), (1, "zz")], "is not LoadGen's accuracy log"),
    ],
)
def test_an_accuracy_log_must_have_an_answer_for_each(tmp_path: Path, rows: list[tuple[int, str]], words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        read_answers(accuracy_log(tmp_path, *rows), 2)
    (tmp_path / ACCURACY).write_text("[{]", encoding="utf-8")
    with pytest.raises(ArtifactError, match="is not LoadGen's accuracy log"):
        read_answers(tmp_path, 2)


def test_a_result_that_does_not_count_is_refused_with_its_reasons(tmp_path: Path) -> None:
    summary = read_summary(summary_of(INVALID, tmp_path))
    tries = (RateTrial(200, False, 30.0), RateTrial(92.5, False, 16.0))
    result = ScenarioResult("Server", 4, tmp_path, (), summary, search=tries)
    system = OpenSystem("a runner", (), False, 1, 1)
    report = MlperfReport(system, "6", 1, (ScenarioResult("Offline", 4, tmp_path, ()), result))
    with pytest.raises(ProofError, match=r"^Server: the result is INVALID: no rate down to 92\.5 queries/s meets"):
        require_valid(report)
    (tmp_path / SUMMARY).write_text(INVALID.replace("INVALID", "VALID"), encoding="utf-8")
    valid = ScenarioResult("Server", 4, tmp_path, (), read_summary(tmp_path))
    require_valid(MlperfReport(system, "6", 1, (valid,)))
