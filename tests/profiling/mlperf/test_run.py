"""LoadGen's logs by example, the search and the queue by hand, and real runs of LoadGen on a tiny model."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.contract import BatchProfile, ModelContract, Preprocessing
from alexnet_deploy.errors import ArtifactError, InputError, ProofError, UnavailableError, UsageError
from alexnet_deploy.profiling.mlperf.log import ACCURACY, LOGS, SUMMARY, encoded, read_answers, read_summary
from alexnet_deploy.profiling.mlperf.results import Report, Result, Try, refuse_invalid
from alexnet_deploy.profiling.mlperf.run import Options, run_scenarios
from alexnet_deploy.profiling.mlperf.search import MAX_RATES, PRECISION, highest_passing
from alexnet_deploy.profiling.mlperf.system import MAX_SAMPLE_BYTES, PERFORMANCE_SAMPLES, Samples, Streams, batch_sizes
from alexnet_deploy.profiling.mlperf.worker import SCENARIOS, LoadGen, Run, System
from tests.helpers.onnx_models import CLASSES, SIDE, Graph, tiny_classifier
from tests.helpers.photos import save_photo

PRE = Preprocessing(SIDE, SIDE, "stretch", None)
LABELS = tuple(f"class {k}" for k in range(CLASSES))

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


def test_lines_that_nobody_knows_are_kept(tmp_path: Path) -> None:
    text = INVALID.replace("SUT name", "Moon phase : full\nSUT name").replace("target_qps", "A line.\ntarget_qps")
    assert read_summary(summary_of(text, tmp_path)).unknown == ("A line.", "Moon phase : full")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("Result is : INVALID\n", "", "no 'Result is'"),
        ("Result is : INVALID", "Result is : SPLENDID", "no 'Result is'"),
        ("Scenario : Server", "Scenario : Zoo", "no 'Zoo'"),
        ("Completed samples per second    : 92.38\n", "", "x"),
        ("2 ERRORS encountered. See detailed log.", "", "no 'error'"),
        ("target_qps : 100\n", "target_qps : 100\ntarget_qps : 100\n", "'target_qps' twice"),
    ],
)
def test_a_summary_without_what_must_be_there_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = INVALID.replace(old, new)
    if words == "x":  # the other rate leads in other versions of LoadGen
        assert read_summary(summary_of(text, tmp_path)).metric == "Scheduled samples per second"
        text, words = text.replace("Scheduled samples per second : 92.57\n", ""), "no 'metric of its scenario'"
    with pytest.raises(ArtifactError, match=words):
        read_summary(summary_of(text, tmp_path))


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


def test_no_summary_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="LoadGen left no such log"):
        read_summary(tmp_path)


def accuracy_log(folder: Path, *rows: tuple[int, str]) -> Path:
    raw = [{"seq_id": i, "qsl_idx": index, "data": data} for i, (index, data) in enumerate(rows)]
    (folder / ACCURACY).write_text(json.dumps(raw), encoding="utf-8")
    return folder


def test_answers_come_back_as_they_were_encoded(tmp_path: Path) -> None:
    logits_NK = np.array([[0, 3, 3], [np.nan, 9, 0], [0, 0, 1], [np.inf, 0, 0]], np.float32)
    answers = encoded(logits_NK)
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


@given(limit=st.floats(20, 5000), start=st.floats(10, 10_000))
def test_the_search_ends_close_below_the_limit(limit: float, start: float) -> None:
    calls: list[float] = []

    def passes(rate: float) -> bool:
        calls.append(rate)
        return rate <= limit

    found = highest_passing(passes, start=start, floor=10)
    assert len(calls) <= MAX_RATES
    if start / 64 <= limit <= start * 10:  # what 14 rates reach, and bisect
        assert found is not None
        assert found <= limit < found * (1 + PRECISION) ** 1.01  # a float's rounding


def test_the_search_gives_up_at_the_floor_and_at_its_last_rate() -> None:
    calls: list[float] = []
    assert highest_passing(lambda rate: bool(calls.append(rate)), start=70, floor=10) is None
    assert calls == [70, 35, 17.5, 10]
    endless = highest_passing(lambda rate: True, start=1, floor=1)
    assert endless == pytest.approx(1.5 ** (MAX_RATES - 1))


@given(st.integers(1, 1000))
def test_batch_sizes_are_few_and_start_at_one(most: int) -> None:
    sizes = batch_sizes(most)
    assert (sizes[0], sizes[-1]) == (1, most)
    assert all(a < b <= 2 * a for a, b in pairwise(sizes))


def test_random_samples_are_bounded_and_repeat() -> None:
    samples, again = Samples((), PRE, 7), Samples((), PRE, 7)
    assert samples.total == samples.at_once == PERFORMANCE_SAMPLES
    for each in (samples, again):
        each.load([4, 2, 4])
    assert (samples.pixels([4, 2]) == again.pixels([4, 2])).all()
    large = Samples([Path("any")] * 5000, Preprocessing(1024, 1024, "stretch", None), 0)
    assert large.total == 5000
    assert large.at_once * large.image_bytes <= MAX_SAMPLE_BYTES


def test_loaded_images_are_given_in_any_order_and_neighbours_without_a_copy(tmp_path: Path) -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    for k, colour in enumerate(colours):
        save_photo(tmp_path / f"{k}.jpg", colour, seed=k)
    (tmp_path / "3.jpg").write_bytes(b"no image")
    samples = Samples([tmp_path / f"{k}.jpg" for k in range(4)], PRE, 0)
    samples.load([2, 0, 1, 3, 2, 0])  # MultiStream's padding: the first ones again
    for order in ([2, 0, 1], [0, 2], [1], [1, 1]):
        means = samples.pixels(order).mean(axis=(1, 2))
        assert means.argmax(axis=1).tolist() == order
    assert np.shares_memory(samples.pixels([2, 0]), samples.pixels([0, 1]))
    assert list(samples.unreadable) == [3]
    assert "3.jpg: is not an image" in samples.unreadable[3]
    assert not samples.pixels([3]).any()
    with pytest.raises(InputError, match=r"is not an image of a known format, .*; of 1 images none can be read"):
        samples.load([3, 3])


class Held:
    """A runner that notes its batches, waits to be released, then fails."""

    contract = ModelContract("held", LABELS, LABELS, PRE)
    description = "held"
    batch: BatchProfile | None = None

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.entered = threading.Event()
        self.released = threading.Event()

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.sizes.append(len(pixels_NHWC))
        if threading.current_thread() is threading.main_thread():  # prepare
            return np.zeros((len(pixels_NHWC), CLASSES), np.float32)
        self.entered.set()
        self.released.wait()
        raise InputError("it broke")

    def fork(self) -> Held:
        return self

    def close(self) -> None:
        pass


def queries(count: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(id=i, index=i) for i in range(count)]


def test_streams_share_what_waits_and_tell_what_fails() -> None:
    samples = Samples((), PRE, 0)
    samples.load(range(64))
    failures: list[BaseException] = []
    failed = threading.Semaphore(0)

    def on_failure(exc: BaseException) -> None:
        failures.append(exc)
        failed.release()

    first, second = Held(), Held()
    streams = Streams([first, second], samples, on_failure)
    streams.prepare(6)
    assert first.sizes == second.sizes == [1, 2, 4, 6]
    streams.issue(queries(1))  # to one of the two; the other is alone with the rest
    while not (first.entered.is_set() or second.entered.is_set()):
        first.entered.wait(0.01)
    busy, idle = (first, second) if first.entered.is_set() else (second, first)
    streams.issue(queries(5))
    idle.entered.wait()
    assert (busy.sizes[4:], idle.sizes[4:]) == ([1], [4])
    for held in (first, second):
        held.released.set()
        assert failed.acquire(timeout=60)
    assert [str(exc) for exc in failures] == ["it broke"] * 2


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"streams": 0}, "--concurrency 0: takes 1 or more"),
        ({"max_batch": 0}, "--max-batch 0: takes 1 or more"),
        ({"min_duration_s": float("nan")}, "--duration-s nan: takes"),
        ({"min_duration_s": 0.0}, "--duration-s 0: takes"),
        ({"latency_bound_ms": -1.0}, "--latency-bound-ms -1: takes"),
        ({"seed": -1}, "--seed -1: takes"),
        ({"seed": 2**32}, "--seed 4294967296: takes"),
        ({"accuracy": True}, "--accuracy needs --data"),
    ],
)
def test_options_check_themselves(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Options(**wrong)  # type: ignore[arg-type]


def test_a_result_that_does_not_count_is_refused_with_its_reasons(tmp_path: Path) -> None:
    summary = read_summary(summary_of(INVALID, tmp_path))
    tries = (Try(200, False, 30.0), Try(92.5, False, 16.0))
    result = Result("Server", 4, tmp_path, (), summary, search=tries)
    report = Report("a runner", (), "6", 1, 1, (Result("Offline", 4, tmp_path, ()), result))
    with pytest.raises(ProofError, match=r"^Server: LoadGen says INVALID: no rate down to 92\.5 queries/s meets the b"):
        refuse_invalid(report)
    (tmp_path / SUMMARY).write_text(INVALID.replace("INVALID", "VALID"), encoding="utf-8")
    valid = Result("Server", 4, tmp_path, (), read_summary(tmp_path))
    refuse_invalid(Report("a runner", (), "6", 1, 1, (valid,)))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tiny_classifier(tmp_path_factory.mktemp("mlperf") / "tiny.onnx")
    return Engine("tiny", path, ModelContract("tiny", LABELS, LABELS, PRE), "fp32", None)


QUICK = Options(runtime="onnxruntime", threads=1, streams=2, max_batch=4, min_duration_s=0.1, latency_bound_ms=8)


def test_all_scenarios_on_real_loadgen(engine: Engine, tmp_path: Path) -> None:
    said: list[str] = []
    report = run_scenarios(engine, SCENARIOS, QUICK, tmp_path, on_progress=said.append)
    assert [result.scenario for result in report.results] == list(SCENARIOS)
    assert report.images == PERFORMANCE_SAMPLES
    assert [result.max_batch for result in report.results] == [1, 4, 4, 4]
    assert report.description.startswith("ONNX Runtime")
    single, multi, server, offline = report.results
    for result in report.results:
        assert result.summary is not None
        assert (result.summary.scenario, result.summary.mode) == (result.scenario, "PerformanceOnly")
        assert result.summary.unknown == ()
        assert result.summary.parameters["qsl_rng_seed"] == 0
        assert sorted(path.name for path in (tmp_path / result.scenario).iterdir()) == sorted(LOGS)
    for result in (single, multi, offline):  # nothing but their length can fail them, and that is seen to
        assert result.reasons == ()
    assert multi.summary is not None
    assert multi.summary.parameters["samples_per_query"] == 8
    assert server.summary is not None
    assert server.summary.valid == any(tried.valid for tried in server.search)
    assert server.summary.parameters["target_latency (ns)"] == 8e6
    passed = [tried.rate for tried in server.search if tried.valid]
    expected = max(passed) if passed else server.search[-1].rate
    assert server.summary.parameters["target_qps"] == pytest.approx(expected, rel=1e-4)  # printed with six digits
    assert sum(line.startswith("Server: ") for line in said) == len(server.search)


def test_an_image_that_takes_longer_than_the_bound_ends_it_at_once(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(ProofError, match=r"--latency-bound-ms 1e-06: no rate meets it, one image alone takes "):
        run_scenarios(engine, ["Server"], Options(latency_bound_ms=1e-6, max_batch=1), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_logs_do_not_replace_what_is_not_theirs(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "Offline").mkdir()
    (tmp_path / "Offline/thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match=r"Offline: holds thesis\.tex, which is no log of LoadGen's"):
        run_scenarios(engine, ["Offline"], QUICK, tmp_path)


def test_the_end_of_its_process_and_of_its_disk_are_one_line(engine: Engine, tmp_path: Path) -> None:
    run = Run("Offline", False, 100, 1, 0.1, 15, tmp_path / "missing")
    with LoadGen(System(engine, "onnxruntime", threads=1)) as loadgen:
        loadgen.run(run)  # says nothing of a log that it cannot write
        with pytest.raises(ArtifactError, match="LoadGen left no such log"):
            read_summary(run.output)
        for child in multiprocessing.active_children():
            child.kill()
        with pytest.raises(UnavailableError, match="LoadGen's process ended with code -9"):
            loadgen.run(run)


def test_what_the_process_fails_with_is_raised_here(engine: Engine, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    system = System(Engine("broken", broken, engine.contract, "fp32", None), "onnxruntime")
    with pytest.raises(InputError, match="ONNX Runtime refuses it"), LoadGen(system):
        pass
    with pytest.raises(UsageError, match="--threads 0: takes 1 or more"), LoadGen(System(engine, threads=0)):
        pass


def test_a_model_that_fails_under_load_is_one_line(engine: Engine, tmp_path: Path) -> None:
    """Inside LoadGen: a table of 100 rows, looked up by the lightest pixel; black, before the run, is in it."""
    g = Graph()
    lightest = g.node("ReduceMax", g.node("Cast", "pixels", to=onnx.TensorProto.INT32), g.constant(np.array([1, 2, 3])))
    rows = g.node("Reshape", lightest, g.constant(np.array([-1])))
    table = g.node("Gather", g.weight(100, CLASSES), rows)
    path = g.save(table, tmp_path / "table.onnx", ["N", SIDE, SIDE, 3], onnx.TensorProto.UINT8)
    system = System(dataclasses.replace(engine, onnx_path=path), "onnxruntime", threads=1)
    run = Run("Offline", False, 100, 4, 0.1, 15, tmp_path)
    with LoadGen(system) as loadgen, pytest.raises(InputError, match=r"table\.onnx: fails on pixels"):
        loadgen.run(run)
