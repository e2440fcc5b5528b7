"""``report`` as a user meets it, on tiny engines, and ``report.json``, which is read as a stranger's file."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alexnet_deploy.report.parts import layers_of
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.bundle.manifest import CONFIDENCE, load_manifest, save_manifest
from alexnet_deploy.errors import ArtifactError, UnavailableError
from alexnet_deploy.evaluation.temperature_record import ConfidenceRecord, Quality
from alexnet_deploy.files import sha256_of
from alexnet_deploy.images.choose import choose_images
from alexnet_deploy.profiling.engine import profile_engine
from alexnet_deploy.profiling.layers.roofline import Bandwidth, Peak, Roofline
from alexnet_deploy.profiling.layers.profile import LayerProfile, LayerRow
from alexnet_deploy.report.data import Layer, Roof, runs
from alexnet_deploy.report.file import MAX_REPORT_BYTES, read_report, to_json, write_report
from tests.helpers.bundles import build_bundle
from tests.helpers.colour_models import hostile_classifier
from tests.helpers.command import Command
from tests.helpers.photos import CLASSES, save_photo
from tests.helpers.report_sample import sample_report


@pytest.fixture
def run(command: Command) -> Command:
    return partial(command, "report")


QUICK = ("--data", "photos/val", "--runtime", "onnxruntime", "--threads", 1, "--batch", "1", "--duration", 0.05)
ONLY_ACCURACY = (*QUICK, "--without", "latency,stages,layers,environment")


def test_everything_is_measured_and_drawn(run: Command, here: Path) -> None:
    ran = run(*QUICK, "--photos", "photos/train", "--without", "layers,environment")
    assert ran.code == 0, ran.err
    assert "wrote report.html and report.json" in ran.err
    found = read_report(here / "report.json")
    assert found.gaps == ()
    exact, ruined = found.engines
    assert (exact.name, exact.result.precision, ruined.name) == ("exact", "fp32", "ruined"), "the most precise one first"
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
    assert str(here) not in html, "the page tells where things lie"


def test_the_page_is_drawn_again_from_the_data(run: Command, here: Path) -> None:
    write_report(sample_report(), here / "old.json")
    assert run("--from", "old.json", "-o", "again/page.html").code == 0
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
    ran = run(*QUICK, "--batch", "1,64", "--without", "layers,environment")
    assert ran.code == 0, ran.err
    found = read_report(here / "report.json")
    assert [(gap.part, gap.engine) for gap in found.gaps] == [
        ("latency", "exact"),
        ("latency", "ruined"),
        ("latency", "ruined"),
        ("stages", "exact"),
    ]
    assert "--batch 64: exact has a profile of 1..32" in found.gaps[0].reason
    assert [row.latency.batch for row in found.engines[0].rows] == [1]
    assert "ZeroDivisionError: a bug of ours" in found.gaps[3].reason
    assert ran.err.count("gap: ") == 4
    assert "gap: latency of ruined: ruined: the process that measured it was killed" in ran.err
    assert "the process that measured it was killed" in (here / "report.html").read_text(encoding="utf-8")


def test_an_engine_of_other_classes_is_a_gap(run: Command, here: Path) -> None:
    from alexnet_deploy.bundle.manifest import load_manifest, save_manifest

    manifest, _ = load_manifest(here / "engines/ruined")
    contract = dataclasses.replace(manifest.contract, class_ids=("x", "y", "z"))
    save_manifest(dataclasses.replace(manifest, contract=contract), here / "engines/ruined")
    assert run(*ONLY_ACCURACY).code == 0
    found = read_report(here / "report.json")
    assert [engine.name for engine in found.engines] == ["exact"]
    (gap,) = found.gaps
    assert gap.reason == "its classes or its preprocessing are not those of exact; give it a report of its own"


def test_images_that_calibrated_are_refused_and_told(run: Command, here: Path) -> None:
    shutil.copytree(here / "photos/train", here / "photos/val", dirs_exist_ok=True)
    refused = run(*ONLY_ACCURACY)
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert "calibrated ruined, like" in refused.err
    assert run(*ONLY_ACCURACY, "--allow-calibration-images").code == 0
    assert read_report(here / "report.json").engines[1].result.calibration_images
    assert "of the images calibrated it" in (here / "report.html").read_text(encoding="utf-8")


def test_images_that_a_temperature_was_fitted_on_are_refused_and_told(run: Command, here: Path) -> None:
    """A record as calibrate-confidence writes it, of one of the photos."""
    bundle, photo = here / "engines/exact", here / "photos/val/n01_red/0.jpg"
    manifest, _ = load_manifest(bundle)
    some = Quality(0.5, 5.0, ())
    record = ConfidenceRecord(manifest.contract.temperature, 3, (sha256_of(photo),), some, some, "fake", {})
    (bundle / CONFIDENCE).write_text(record.to_json())
    save_manifest(manifest, bundle)
    refused = run(*ONLY_ACCURACY)
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert "0.jpg: fitted the temperature of exact; on these its probabilities look better" in refused.err
    assert run(*ONLY_ACCURACY, "--allow-calibration-images").code == 0
    assert [engine.result.temperature_images for engine in read_report(here / "report.json").engines] == [1, None]
    assert "Its temperature was fitted on 1 of the images" in (here / "report.html").read_text(encoding="utf-8")


def test_a_folder_name_that_is_no_text(run: Command, here: Path) -> None:
    odd = here / "photos/\udcff<b>"
    (here / "photos/val").rename(odd)
    ran = run("--data", odd, *ONLY_ACCURACY[2:])
    assert ran.code == 0, ran.err
    assert read_report(here / "report.json").data.name == "\\udcff<b>"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "report measures --data FOLDER, or draws --from report.json; give one of them"),
        (("--data", "photos/val", "--from", "x.json"), 2, "give one of them"),
        (("--data", "photos/val", "-o", "page.pdf"), 2, "--output page.pdf: is an HTML page"),
        (("--data", "photos/val", "-o", "photos.html"), 2, "--output photos.html: is not a plain file"),
        (("--data", "photos/val", "-o", "/proc/no/page.html"), 1, "--output /proc/no/page.html: cannot be written"),
        (("--data", "photos/val", "--engines", "none"), 1, "none/ holds no engine; build one"),
        (("--data", "photos/val", "--engine", "other"), 1, "other: no such engine in engines/; there is"),
        ((*QUICK, "--engine", "exact", "--engine", "engines/exact"), 2, "--engine engines/exact: is named twice"),
        (("--data", "photos"), 1, "photos: folder 'train' is no class of this model"),
        (("--data", "nowhere"), 1, "nowhere: no such"),
        (("--data", "photos/val", "--photos", "nowhere"), 1, "nowhere: no such"),
        (("--data", "photos/val", "--batch", "1,x"), 2, "--batch 1,x: takes whole numbers with commas between"),
        (("--data", "photos/val", "--batch", "0"), 2, "--batch 0: takes 1 or more"),
        (("--data", "photos/val", "--without", "accuracy"), 2, "--without accuracy: unknown; choose one of latency"),
        (("--data", "photos/val", "--runtime", "abacus"), 2, "--runtime abacus: unknown"),
        (("--from", "missing.json"), 1, "missing.json: there is no such report"),
    ],
)
def test_bad_input_is_one_line(run: Command, here: Path, arguments: tuple[Any, ...], code: int, said: str) -> None:
    (here / "photos.html").mkdir()
    ran = run(*arguments)
    assert (ran.code, ran.err.count("\n")) == (code, 1), ran.err
    assert said in ran.err
    assert not (here / "report.html").exists()
    assert not (here / "report.json").exists()


def test_not_finite_answers_leave_a_report(run: Command, here: Path) -> None:
    found = sample_report()
    result = found.engines[0].result
    accuracy = dataclasses.replace(result.accuracy, not_finite=7, confidence=None, uncalibrated=None)
    broken = dataclasses.replace(
        found.engines[0], reliability=(), result=dataclasses.replace(result, accuracy=accuracy)
    )
    write_report(dataclasses.replace(found, engines=(broken, *found.engines[1:])), here / "r.json")
    assert run("--from", "r.json").code == 0
    html = (here / "report.html").read_text(encoding="utf-8")
    assert "7 answers are not finite and count as wrong" in html
    assert "so there is no confidence to measure" in html
