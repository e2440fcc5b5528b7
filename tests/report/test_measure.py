"""``report`` as a user meets it, on tiny engines, and ``report.json``, which is read as a stranger's file."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.bundle.manifest import CONFIDENCE, MODEL, load_manifest, save_manifest
from alexnet_deploy.errors import ArtifactError, UnavailableError
from alexnet_deploy.evaluation.confidence.record import ConfidenceRecord, Quality
from alexnet_deploy.files import sha256_of
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, save_onnx, set_contract
from alexnet_deploy.profiling.engine import profile_engine
from alexnet_deploy.report.file import FORMAT, read_report, to_json, write_report
from tests.helpers.command import Command
from tests.helpers.photos import CLASSES
from tests.helpers.report_sample import sample_report


@pytest.fixture
def run(command: Command) -> Command:
    return partial(command, "report")


QUICK = ("--data", "photos/val", "--runtime", "onnxruntime", "--threads", 1, "--batch-sizes", 1, "--duration", "50ms")
NO_LAYERS = ("--without", "layers", "--without", "environment")
ONLY_ACCURACY = (*QUICK, *NO_LAYERS, "--without", "latency", "--without", "stages")


def test_everything_is_measured_and_drawn(run: Command, here: Path) -> None:
    ran = run(*QUICK, "--photos", "photos/train", *NO_LAYERS)
    assert ran.code == 0, ran.err
    assert "wrote report.html and report.json" in ran.err
    found = read_report(here / "report.json")
    assert found.gaps == ()
    exact, ruined = found.engines
    assert (exact.name, exact.result.precision, ruined.name) == ("exact", "fp32", "ruined"), (
        "the most precise one first"
    )
    assert (exact.result.accuracy.top1_percent, ruined.result.accuracy.top1_percent) == (100, pytest.approx(100 / 3))
    assert exact.delta is None
    assert ruined.delta is not None
    assert (ruined.delta.lost, ruined.delta.points) == (4, pytest.approx(-200 / 3))
    assert sum(row.images for row in exact.reliability) == found.data.readable.count == 6
    assert exact.file_sha256 == sha256_of(here / "engines/exact/model.onnx")
    assert (found.data.name, found.data.naming, found.photos) == ("val", "class id", "train")
    assert (found.class_ids, exact.calibration) == (tuple(CLASSES), None)
    assert ruined.calibration is not None
    assert (ruined.calibration.record.method, ruined.calibration.images.count) == ("entropy", 6)
    for engine in found.engines:
        (row,) = engine.rows
        timed, ms = row.latency, [ns / 1e6 for ns in row.latency.samples_ns]
        assert len(ms) == 101
        assert ms[0] == timed.min_ms <= timed.median_ms <= ms[100] == timed.max_ms
    assert exact.stages is not None, "of the most precise one, and of the fastest, whichever of the two that is"
    assert exact.stages.images == 18
    assert "--photos" in found.command
    html = (here / "report.html").read_text(encoding="utf-8")
    assert "2 engines on val" in html
    assert str(here) not in html, "the page says where things lie"


def test_a_report_survives_the_disk_and_is_drawn_again(run: Command, here: Path) -> None:
    write_report(sample_report(), here / "new/old.json")
    assert read_report(here / "new/old.json") == sample_report()
    assert run("--from", "new/old.json", "-o", "again/page.html").code == 0
    assert "3 engines on val" in (here / "again/page.html").read_text(encoding="utf-8")
    assert not (here / "again/page.json").exists()


def test_what_fails_for_one_engine_is_a_gap(run: Command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = profile_engine

    def dies(engine: Any, settings: Any) -> Any:
        if engine.name == "ruined":
            raise UnavailableError("ruined: the process that measured it was killed")
        return real(engine, settings)

    def breaks(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr("alexnet_deploy.report.measure.profile_engine", dies)
    monkeypatch.setattr("alexnet_deploy.report.measure.profile_stages", breaks)
    ran = run(*QUICK, "--batch-sizes", "1,64", *NO_LAYERS)
    assert ran.code == 0, ran.err
    found = read_report(here / "report.json")
    assert [(gap.part, gap.engine) for gap in found.gaps] == [
        ("latency", "exact"),
        ("latency", "ruined"),
        ("latency", "ruined"),
        ("stages", "exact"),
    ]
    reason = found.gaps[0].reason
    assert "--batch-sizes 64: exact has a profile of 1..32; choose one" in reason
    assert reason.endswith(" min_batch or max_batch")  # of build-engine: this command has no such flags
    assert reason in (here / "report.html").read_text(encoding="utf-8")
    assert [row.latency.batch for row in found.engines[0].rows] == [1]
    assert "ZeroDivisionError: a bug of ours" in found.gaps[3].reason
    assert ran.err.count("gap: ") == 4
    assert "gap: latency of ruined: ruined: the process that measured it was killed" in ran.err
    assert "the process that measured it was killed" in (here / "report.html").read_text(encoding="utf-8")


def test_an_engine_of_other_classes_is_a_gap(run: Command, here: Path) -> None:
    manifest, _ = load_manifest(here / "engines/ruined")
    contract = dataclasses.replace(manifest.contract, class_ids=("x", "y", "z"))
    model = load_onnx(here / "engines/ruined" / MODEL)
    set_contract(model, contract)
    save_onnx(model, here / "engines/ruined" / MODEL)
    save_manifest(dataclasses.replace(manifest, contract=contract), here / "engines/ruined")
    assert run(*ONLY_ACCURACY).code == 0
    found = read_report(here / "report.json")
    assert [engine.name for engine in found.engines] == ["exact"]
    (gap,) = found.gaps
    assert gap.reason == "its classes or its preprocessing are not those of exact; make a separate report for it"


def test_images_that_made_an_engine_are_refused_and_told(run: Command, here: Path) -> None:
    for file in (here / "photos/train").rglob("*.jpg"):
        shutil.copy(file, here / "photos/val" / file.parent.name / f"train-{file.name}")
    refused = run(*ONLY_ACCURACY)
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert "calibrated ruined, along with" in refused.err
    bundle = here / "engines/exact"
    manifest, _ = load_manifest(bundle)
    photo, some = sha256_of(here / "photos/val/n01_red/0.jpg"), Quality(0.5, 5.0, ())
    record = ConfidenceRecord(manifest.contract.temperature, 3, (photo,), some, some, "fake", {})
    (bundle / CONFIDENCE).write_text(record.to_json())  # as calibrate-confidence writes it
    save_manifest(manifest, bundle)
    refused = run(*ONLY_ACCURACY)
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert "0.jpg: fitted the temperature of exact; its probabilities would fit them" in refused.err
    assert run(*ONLY_ACCURACY, "--allow-calibration-images").code == 0
    exact, ruined = (engine.result for engine in read_report(here / "report.json").engines)
    assert (exact.temperature_images, ruined.temperature_images) == (1, None)
    assert ruined.calibration_images
    html = (here / "report.html").read_text(encoding="utf-8")
    assert "of the images calibrated it" in html
    assert "Its probabilities were calibrated on 1 of the images" in html


def test_a_folder_name_that_is_no_text(run: Command, here: Path) -> None:
    odd = here / "photos/\udcff<b>"
    (here / "photos/val").rename(odd)
    ran = run("--data", odd, *ONLY_ACCURACY[2:])
    assert ran.code == 0, ran.err
    assert read_report(here / "report.json").data.name == "\\udcff<b>"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "report needs either --data, to measure, or --from, to draw an earlier report.json"),
        (("--data", "photos/val", "--from", "x.json"), 2, "report needs either --data"),
        (
            ("exact", "--from", "x.json"),
            2,
            "BUNDLE: measures, and --from draws what was measured; leave one of the two",
        ),
        (("--from", "x.json", "--batch-sizes", "99"), 2, "--batch-sizes: measures, and --from draws what was"),
        (("--data", "photos/val", "-o", "page.pdf"), 2, "--output page.pdf: does not end in one of .html, .htm"),
        (("--data", "photos/val", "-o", "photos.html"), 2, "--output photos.html: is not a plain file"),
        (("--data", "photos/val", "-o", "/proc/no/page.html"), 1, "--output /proc/no/page.html: cannot be written"),
        (("--data", "photos/val", "--store", "none"), 1, "none/ holds no engine; build one"),
        (("other", "--data", "photos/val"), 1, "other: no such engine in engines/; it contains"),
        (("exact", "engines/exact", *QUICK), 2, "engines/exact: is named twice; name each bundle once"),
        (("--data", "photos"), 1, "photos: folder 'train' is not a class of "),
        (("--data", "nowhere"), 1, "nowhere: no such"),
        (("--data", "photos/val", "--photos", "nowhere"), 1, "nowhere: no such"),
        (("--data", "photos/val", "--batch-sizes", "0"), 2, "--batch-sizes 0: must be 1 or more"),
        (("--from", "missing.json"), 1, "missing.json: no such report"),
    ],
)
def test_bad_input_is_one_line(run: Command, here: Path, arguments: tuple[Any, ...], code: int, words: str) -> None:
    (here / "photos.html").mkdir()
    ran = run(*arguments)
    assert (ran.code, ran.err.count("\n")) == (code, 1), ran.err
    assert words in ran.err
    assert not (here / "report.html").exists()
    assert not (here / "report.json").exists()


Edit = Callable[[dict[str, Any]], object]


def latency(report: dict[str, Any]) -> Any:
    """The first of the second engine."""
    return report["engines"][1]["profile"]["rows"][0]["latency"]


def layers(report: dict[str, Any]) -> Any:
    """Those of the second engine."""
    return report["engines"][1]["layers"]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda r: r.update(schema=1), "report schema 1, but this version reads schema 2; measure again"),
        (lambda r: r.pop("schema"), "report schema None, but this version reads schema 2"),
        (lambda r: r.update(extra=1), "unknown field 'extra'"),
        (lambda r: r.update(engines=[]), "'$.engines'"),
        (lambda r: r["engines"][0]["result"].update(model_bytes="1"), "'$.engines[0].result.model_bytes'"),
        (lambda r: r["engines"][0].update(file_sha256="A" * 64), "'$.engines[0].file_sha256'"),
        (lambda r: r["engines"][1]["result"]["accuracy"].update(images=True), "'$.engines[1].result.accuracy.images'"),
        (lambda r: latency(r).update(median_ms=0), "quick: median_ms is 0.0"),
        (lambda r: latency(r).update(median_ms=1e300), "quick: median_ms is 1e+300"),
        (lambda r: layers(r)["rows"][0].update(flops=-1), "a number of layer features.0 is out of range"),
        (lambda r: layers(r)["rows"][0].update(median_us=1e-300), "a number of layer features.0 is out of range"),
        (lambda r: layers(r)["roofline"]["peaks"][0].update(gflop_per_s=1e300), "quick: gflop_per_s is 1e+300"),
        (lambda r: layers(r)["roofline"]["bandwidth"].update(memory_gb_per_s=0), "quick: memory_gb_per_s is 0.0"),
        (lambda r: latency(r)["samples_ns"].pop(), "quick: its 100 samples are not 101 rising quantiles"),
        (lambda r: latency(r)["samples_ns"].reverse(), "quick: its 101 samples are not 101 rising quantiles"),
        (lambda r: latency(r).update(batch=8), "two rows have the same batch size"),
        (lambda r: r["engines"][1]["result"].update(name="exact"), "two engines have the same name"),
        (lambda r: r["engines"][1].update(delta=None), "only the first engine is not compared"),
        (lambda r: r["engines"][1]["delta"]["classes"][0].update(target=3), "a class has no label"),
        (lambda r: r["labels"].pop(), "2 labels, 3 class ids"),
        (lambda r: r["engines"][0]["reliability"][14].update(accuracy_percent=None), "a bin has percentages without"),
        (lambda r: r["gaps"][0].update(part="weather"), "'$.gaps[0].part'"),
    ],
)
def test_a_damaged_report_is_one_line(run: Command, tmp_path: Path, edit: Edit, words: str) -> None:
    raw = json.loads(to_json(sample_report()))
    edit(raw)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(raw), encoding="utf-8")
    ran = run("--from", path, "-o", tmp_path / "page.html")
    assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err
    assert words in ran.err
    assert "measure again: alexnet-deploy report" in ran.err
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
