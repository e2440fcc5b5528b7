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
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.options import EngineOptions
from alexnet_deploy.bundle.manifest import CONFIDENCE, load_manifest, save_manifest
from alexnet_deploy.errors import ArtifactError, UnavailableError
from alexnet_deploy.evaluation.temperature_record import ConfidenceRecord, Quality
from alexnet_deploy.files import sha256_of
from alexnet_deploy.images.choose import choose_images
from alexnet_deploy.profiling.isolated import profile_engine
from alexnet_deploy.profiling.layers.roofline import Bandwidth, Peak, Roofline
from alexnet_deploy.profiling.layers.times import LayerProfile, LayerRow
from alexnet_deploy.report.data import Layer, Roof, runs
from alexnet_deploy.report.file import MAX_REPORT_BYTES, read_report, to_json, write_report
from alexnet_deploy.report.parts import layers_of
from tests.helpers.colour_models import hostile_classifier
from tests.helpers.command import Command
from tests.helpers.photos import CLASSES, save_photo
from tests.helpers.report_sample import sample_report


@pytest.fixture
def run(command: Command) -> Command:
    return partial(command, "report")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    """Photos by class, a float32 engine that is right on all of them, and an int8 one that answers one class."""
    root = tmp_path_factory.mktemp("report")
    shutil.copytree(photo_folder, root / "photos")
    onnx = hostile_classifier(root / "colours.onnx")
    chosen = choose_images(root / "photos/train", count=6)
    build_engine(onnx, root / "engines/ruined", EngineOptions("int8", targets=("sm89",), calibration=chosen))
    build_engine(onnx, root / "engines/exact", EngineOptions("fp32", targets=("sm89",)))
    return root


@pytest.fixture
def here(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workplace, as the current folder."""
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


QUICK = ("--data", "photos/val", "--runtime", "onnxruntime", "--threads", 1, "--batch", "1", "--duration", 0.05)
ONLY_ACCURACY = (*QUICK, "--without", "latency,stages,layers,environment")


def test_everything_is_measured_and_drawn(run: Command, here: Path) -> None:
    ran = run(*QUICK, "--photos", "photos/train", "--without", "layers,environment")
    assert ran.code == 0, ran.err
    assert "wrote report.html and report.json" in ran.err
    found = read_report(here / "report.json")
    assert found.gaps == ()
    exact, ruined = found.engines
    assert (exact.name, exact.precision, ruined.name) == ("exact", "fp32", "ruined"), "the most precise one first"
    assert (exact.accuracy.top1_percent, ruined.accuracy.top1_percent) == (100, pytest.approx(100 / 3))
    assert exact.beside_first is None
    assert ruined.beside_first is not None
    assert (ruined.beside_first.lost, ruined.beside_first.points) == (4, pytest.approx(-200 / 3))
    assert sum(row.images for row in exact.reliability) == found.data.images == 6
    assert exact.file_sha256 == sha256_of(here / "engines/exact/model.onnx")
    assert (found.data.name, found.data.naming, found.photos) == ("val", "class id", "train")
    assert (found.class_ids, exact.calibration) == (tuple(CLASSES), None)
    assert ruined.calibration is not None
    assert (ruined.calibration.method, ruined.calibration.images) == ("entropy", 6)
    for engine in found.engines:
        (timed,) = runs(engine)
        assert timed.quantiles_ms[0] == timed.min_ms <= timed.median_ms <= timed.quantiles_ms[100] == timed.max_ms
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
    assert [run.batch for run in runs(found.engines[0])] == [1]
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
    assert "calibrated ruined, as did" in refused.err
    assert run(*ONLY_ACCURACY, "--allow-calibration-images").code == 0
    assert read_report(here / "report.json").engines[1].calibration_images
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
    assert "0.jpg: the temperature of exact was fitted on it; on these its probabilities look better" in refused.err
    assert run(*ONLY_ACCURACY, "--allow-calibration-images").code == 0
    assert [engine.temperature_images for engine in read_report(here / "report.json").engines] == [1, None]
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


def test_layers_come_with_the_roofs_that_they_were_judged_by() -> None:
    conv = LayerRow("features.0", False, "Conv", ("features.1",), None, "int8", "brgconv", 500.0, 50.0, 8000, 100,
                    limit_us=250.0, bound="compute")  # fmt: skip
    reorder = LayerRow("reorder", True, "Reorder", (), "features.0", "fp32", "jit", 0.0, 0.0, 0, None)
    roofline = Roofline("openvino", 2, (Peak("int8", 900.0, "brgemm"),), Bandwidth(40.0, 200.0, 32 << 20, True))
    profile = LayerProfile("e", "int8", "openvino", "OpenVINO", 8, 2, 60, 1000.0, 900.0, 100.0, 990.0, (conv, reorder),
                           roofline, ("a note",))  # fmt: skip
    found = layers_of(profile)
    assert (found.batch, found.total_ms, found.remainder_ms, found.memory_gb_per_s) == (8, 1.0, 0.1, 40.0)
    assert found.roofs == (Roof("int8", 900.0),)
    fused = ("features.1",)
    assert found.rows[0] == Layer("features.0", "Conv", False, fused, "int8", 0.5, 50.0, 8000, 100, "compute", 0.25)
    assert found.rows[1].limit_ms is None
    without = layers_of(dataclasses.replace(profile, roofline=None))
    assert (without.roofs, without.memory_gb_per_s, without.notes) == ((), None, ("a note",))


def test_a_report_survives_the_disk(tmp_path: Path) -> None:
    write_report(sample_report(), tmp_path / "new/report.json")
    assert read_report(tmp_path / "new/report.json") == sample_report()


Edit = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda r: r.update(schema=2), "report schema 2, this version reads 1; measure again"),
        (lambda r: r.pop("schema"), "is not a valid report (schema: "),
        (lambda r: r.update(extra=1), "is not a valid report (extra: "),
        (lambda r: r.update(engines=[]), "is not a valid report (engines: "),
        (lambda r: r["engines"][0].update(file_bytes="1"), "is not a valid report (engines.0.file_bytes: "),
        (lambda r: r["engines"][0].update(file_sha256="A" * 64), "is not a valid report (engines.0.file_sha256: "),
        (lambda r: r["engines"][1]["accuracy"].update(images=True), "(engines.1.accuracy.images: "),
        (lambda r: r["engines"][1]["timing"]["runs"][0].update(median_ms=0), "runs.0.median_ms: "),
        (lambda r: r["engines"][1]["timing"]["runs"][0]["quantiles_ms"].pop(), "runs.0.quantiles_ms: "),
        (lambda r: r["engines"][1]["timing"]["runs"][0]["quantiles_ms"].reverse(), "quantiles do not rise"),
        (lambda r: r["engines"][1].update(name="exact"), "two engines have one name"),
        (lambda r: r["engines"][1].update(beside_first=None), "only the first engine is not compared"),
        (lambda r: r["engines"][1]["beside_first"]["classes"][0].update(target=3), "a class has no label"),
        (lambda r: r["labels"].pop(), "2 labels, 3 class ids"),
        (lambda r: r["engines"][1]["timing"]["runs"][0].update(batch=8), "two runs have one batch size"),
        (lambda r: r["engines"][0]["reliability"][14].update(accuracy_percent=None), "a share without images"),
        (lambda r: r["gaps"][0].update(part="weather"), "is not a valid report (gaps.0.part: "),
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
        stream.truncate(MAX_REPORT_BYTES + 1)
    with pytest.raises(ArtifactError, match="too large for a report"):
        read_report(path)


TEXT = to_json(sample_report(), indent=None)


@given(st.integers(0, len(TEXT) - 1), st.binary(max_size=3))
def test_any_damage_is_an_artifact_error_or_harmless(tmp_path_factory: Any, at: int, instead: bytes) -> None:
    path = tmp_path_factory.mktemp("damage") / "report.json"
    path.write_bytes(TEXT[:at] + instead + TEXT[at + 1 :])
    try:
        read_report(path)
    except ArtifactError as exc:
        assert "\n" not in str(exc)


def test_not_finite_answers_leave_a_report(run: Command, here: Path) -> None:
    save_photo(here / "photos/val/n01_red/black.jpg", (0, 0, 0), seed=1)
    found = sample_report()
    broken = dataclasses.replace(
        found.engines[0],
        reliability=(),
        accuracy=dataclasses.replace(found.engines[0].accuracy, not_finite=7, confidence=None, uncalibrated=None),
    )
    write_report(dataclasses.replace(found, engines=(broken, *found.engines[1:])), here / "r.json")
    assert run("--from", "r.json").code == 0
    html = (here / "report.html").read_text(encoding="utf-8")
    assert "7 answers are not finite and count as wrong" in html
    assert "there is no confidence to speak of" in html
    assert np.isfinite(found.engines[0].accuracy.top1_percent)
