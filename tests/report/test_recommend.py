"""``recommend``: the rule, the units, and a report that is not of what lies in the store."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import pytest

from alexnet_deploy.bundle.manifest import MODEL, Manifest, save_manifest
from alexnet_deploy.contract import BatchProfile, ModelContract
from alexnet_deploy.errors import ArtifactError, InputError, ProofError, UsageError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.machine.cpu import describe_machine
from alexnet_deploy.report.data import EngineReport, Machine, Report
from alexnet_deploy.report.file import write_report
from alexnet_deploy.report.recommend import machine_warning, recommend
from alexnet_deploy.report.settings import Bounds
from tests.helpers.command import Command
from tests.helpers.report_sample import MIB, batch_result, engine_profile, engine_report, sample_report

SOURCE = Path("report.json")
CONTRACT = ModelContract("any", ("a", "b"), ("n0", "n1"))


def store_of(root: Path, *engines: EngineReport) -> Report:
    """A store of a bundle each, whose model is a few bytes, and the report that was measured of them."""
    for engine in engines:
        bundle = root / "engines" / engine.name
        bundle.mkdir(parents=True)
        (bundle / MODEL).write_bytes(engine.name.encode())
        save_manifest(Manifest(engine.result.precision, CONTRACT, BatchProfile(), {}), bundle)
    fresh = [dataclasses.replace(e, file_sha256=sha256_of(root / "engines" / e.name / MODEL)) for e in engines]
    return sample_report(*fresh)


def exact(ms: float = 4.0) -> EngineReport:
    return engine_report("exact", top1=81.0, points=None, ms=ms, size=22 * MIB, precision="fp32")


def best(root: Path, report: Report, **bounds: object) -> str:
    return recommend(report, root / "engines", Bounds(**bounds), SOURCE).engine.name  # type: ignore[arg-type]


def test_the_fastest_within_all_bounds(tmp_path: Path) -> None:
    report = store_of(
        tmp_path,
        exact(),
        engine_report("half", points=-0.1, ms=2.0, size=11 * MIB),
        engine_report("quick", points=-0.7, ms=1.0, size=6 * MIB),
    )
    choose = partial(best, tmp_path, report)
    assert choose() == "quick"
    assert choose(max_drop=0.7) == "quick", "a drop of the bound itself is within"
    assert choose(max_drop=0.5) == "half"
    assert choose(max_drop=0.05) == "exact"
    assert choose(max_drop=0.5, max_ms=2.5) == "half"
    assert choose(max_bytes=8 * MIB, max_ms=2.5) == "quick"
    assert choose(max_drop=1.0, confident=True) == "exact", "half may lose 1.3 points, quick 1.9"
    assert choose(max_drop=1.3, confident=True) == "half"
    # a batch of 8 takes 8 ** 0.9 = 6.5 times as long
    assert choose(max_ms=7.0, batch=8) == "quick"
    with pytest.raises(ProofError, match="the closest is quick"):
        choose(max_ms=6.0, batch=8)
    with pytest.raises(UsageError, match=r"`batch` 4: report.json measured 1, 8; choose one of them"):
        choose(batch=4)


def test_a_report_without_latencies_is_to_be_measured_again(tmp_path: Path) -> None:
    report = store_of(tmp_path, dataclasses.replace(exact(), profile=None))
    with pytest.raises(InputError, match=r"^report.json: was measured without latencies, .*: alexnet-deploy report$"):
        best(tmp_path, report)


def test_the_percentile_that_counts_can_be_chosen(tmp_path: Path) -> None:
    report = store_of(tmp_path, exact(), engine_report("quick", ms=1.0))
    latency = report.engines[1].rows[0].latency
    assert latency.p99_ms is not None
    bound = (latency.median_ms + latency.p99_ms) / 2
    assert best(tmp_path, report, max_ms=bound) == "quick"
    with pytest.raises(ProofError):
        best(tmp_path, report, max_ms=bound, statistic="p99")


def test_of_equally_fast_ones_the_smallest(tmp_path: Path) -> None:
    report = store_of(
        tmp_path,
        exact(),
        engine_report("large", ms=1.0, size=9 * MIB),
        engine_report("small", ms=1.04, size=5 * MIB),
        engine_report("smaller but slower", ms=1.06, size=4 * MIB),
    )
    found = recommend(report, tmp_path / "engines", Bounds(), SOURCE)
    assert found.engine.name == "small"
    assert "smallest of 2 equally fast ones, of " in found.reason
    why = {other.name: other.reason for other in found.passed_over}
    assert why["large"] == "as fast (1 ms) and no smaller (9 MiB)"
    assert why["smaller but slower"] == "slower: 1.06 ms"


def test_each_other_one_is_told_with_its_reason(tmp_path: Path) -> None:
    untimed = dataclasses.replace(engine_report("untimed"), profile=None)
    report = store_of(tmp_path, exact(), engine_report("rough", points=-3.0, size=40 * MIB), untimed)
    gone = engine_report("gone")
    report = dataclasses.replace(report, engines=(*report.engines, gone))
    new = tmp_path / "new"
    store_of(new, engine_report("newcomer"))
    (new / "engines/newcomer").rename(tmp_path / "engines/newcomer")
    (tmp_path / "engines/broken").mkdir()
    (tmp_path / "engines/broken/bundle.json").write_text("{")
    found = recommend(report, tmp_path / "engines", Bounds(max_drop=0.5, max_bytes=30 * MIB), SOURCE)
    assert found.engine.name == "exact"
    assert {other.name: other.reason for other in found.passed_over} == {
        "rough": "loses 3.00 points of top-1, the bound is 0.5; too large: 40 MiB, the bound is 30 MiB",
        "untimed": "was not timed at batch 1",
        "gone": f"is no longer in {tmp_path}/engines/",
        "newcomer": "is not in report.json; measure again",
        "broken": "cannot be read",
    }


def test_nothing_within_the_bounds_names_the_closest(tmp_path: Path) -> None:
    """With what makes its latency doubtful: that must not rule an engine out in silence."""
    row = batch_result(1, 9.0, invalid=("other processes took 80 % of the cores; stop them",))
    busy = dataclasses.replace(engine_report("busy", points=-0.6), profile=engine_profile(row))
    report = store_of(tmp_path, exact(40.0), busy, engine_report("far", points=-9.0, ms=0.5))
    none = "none of the 3 measured bundles meets the bounds; the closest is"
    for bounds, closest in (
        ({"max_drop": 0.5, "max_ms": 10.0}, "busy (loses 0.60 points of top-1, the bound is 0.5)"),
        (
            {"max_drop": 0.6, "max_ms": 5.0},
            "busy (too slow: 9 ms, the bound is 5 ms; its latency cannot be trusted: other processes took 80 % of the "
            "cores; stop them)",
        ),
    ):
        with pytest.raises(ProofError) as caught:
            best(tmp_path, report, **bounds)
        assert str(caught.value) == f"{none} {closest}: widen that bound, or build another engine"


def test_a_report_of_other_files_is_refused(tmp_path: Path) -> None:
    report = store_of(tmp_path, exact(), engine_report("quick", ms=1.0))
    model = tmp_path / "engines/quick" / MODEL
    model.write_bytes(b"QUICK")
    with pytest.raises(ArtifactError, match="was edited: its SHA-256 differs from the manifest"):
        best(tmp_path, report)
    save_manifest(Manifest("int8", CONTRACT, BatchProfile(), {}), model.parent)
    with pytest.raises(ArtifactError, match=r"report.json: quick was built again since it was measured \(model.onnx"):
        best(tmp_path, report)


def test_doubtful_numbers_are_told(tmp_path: Path) -> None:
    engine = exact()
    result = dataclasses.replace(engine.result, calibration_images=3)
    shaky = dataclasses.replace(
        engine, result=result, profile=engine_profile(batch_result(1, 4.0, invalid=("the CPU was too hot",)))
    )
    found = recommend(store_of(tmp_path, shaky), tmp_path / "engines", Bounds(), SOURCE)
    latency, accuracy = found.warnings
    assert "the CPU was too hot" in latency
    assert accuracy.startswith("3 of the report's images calibrated it")


def test_another_machine_is_told() -> None:
    shown = machine_warning(sample_report(), SOURCE)
    assert shown is not None
    assert shown.startswith("report.json was measured on A processor, 2 cores; this is ")
    here = describe_machine()
    machine = Machine(str(here["cpu"]), int(here["cores"]), "any system", "3.11")
    assert machine_warning(dataclasses.replace(sample_report(), machine=machine), SOURCE) is None


def test_the_command(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    missing = command("recommend")
    assert (missing.code, missing.err.count("\n")) == (1, 1)
    assert "report.json: no such report; measure one: alexnet-deploy report" in missing.err
    write_report(store_of(tmp_path, exact(), engine_report("quick", ms=1.0)), SOURCE)
    ran = command("recommend", "--max-latency", "5ms", "--max-drop", "0.5")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[0] == "quick"
    assert (
        "the fastest of 2 that meet the bounds (median within 5 ms at batch 1, top-1 drop within 0.5 points)" in ran.out
    )
    assert "exact       slower: 4 ms" in ran.out
    assert "report.json was measured on A processor" in ran.err
    shown = json.loads(command("recommend", "--max-size", "10MiB", "--json").out)
    assert (shown["engine"], shown["latency"]["median_ms"], shown["points"]) == ("quick", 1.0, -0.5)
    assert shown["passed_over"] == [{"name": "exact", "reason": "too large: 22 MiB, the bound is 10 MiB"}]
    none = command("recommend", "--max-latency", "1us")
    assert (none.code, none.err.count("\n")) == (1, 1)
    assert "the closest is quick" in none.err
    for arguments, words in (
        (("--confident",), "--confident needs --max-drop"),
        (("--max-drop", "101"), "--max-drop 101: must be points of top-1"),
        (("--max-latency", "0ms"), "--max-latency 0: must be above 0"),
    ):
        wrong = command("recommend", *arguments)
        assert (wrong.code, wrong.err.count("\n")) == (2, 1)
        assert words in wrong.err
