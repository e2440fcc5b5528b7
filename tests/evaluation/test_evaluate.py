"""``evaluate`` as a user meets it, on engines of which one is ruined, and the gate."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_deploy.errors import ProofError, UsageError
from alexnet_deploy.evaluation.accuracy import accuracy_delta
from alexnet_deploy.evaluation.evaluate import evaluate, gate
from alexnet_deploy.evaluation.max_drop import check_max_drop, holds_max_drop
from alexnet_deploy.evaluation.results import AccuracyDelta
from tests.helpers.answers import given_answers
from tests.helpers.command import Command
from tests.helpers.photos import CLASSES, save_photo


@pytest.fixture
def run(command: Command) -> Command:
    return partial(command, "evaluate")


BOTH = ("--engine", "exact", "--engine", "ruined", "--runtime", "onnxruntime")


def test_json_tells_everything(run: Command, here: Path) -> None:
    (here / "photos/val/n02_green/broken.jpg").write_bytes(b"no image")
    ran = run("photos/val", *BOTH, "--json")
    assert ran.code == 3
    assert "1 of 7 images cannot be read" in ran.err
    report = json.loads(ran.out)
    assert report["copies"] == 0
    assert (report["data"], report["folders_named_by"], report["images"]) == ("photos/val", "class id", 6)
    assert len(report["unreadable"]) == 1
    exact, ruined = report["engines"]
    assert (exact["engine"], exact["top1_percent"], exact["precision"]) == ("exact", 100, "fp32")
    # With one answer for all, a class of three is right; among the first five are all three.
    assert (ruined["top1_percent"], ruined["top5_percent"]) == (pytest.approx(100 / 3), 100)
    assert ruined["top1_interval"]["low"] < 100 / 3 < ruined["top1_interval"]["high"]
    assert exact["model_bytes"] == Path("engines/exact/model.onnx").stat().st_size
    assert exact["latency_ms"] > 0
    assert exact["confidence"]["temperature"] == 1
    assert (exact["calibration_images"], ruined["calibration_images"]) == (None, 0)
    (pair,) = report["pairs"]
    assert (pair["reference"], pair["engine"], pair["lost"], pair["won"]) == ("exact", "ruined", 4, 0)
    assert pair["points"] == pytest.approx(-200 / 3)
    assert pair["mcnemar_p"] == pytest.approx(2 / 2**4)
    assert {row["class_id"] for row in pair["classes"]} == set(CLASSES)
    assert [row["points"] for row in pair["classes"]] == [-100, -100, 0]


def test_tables_and_markdown_say_the_same(run: Command, here: Path) -> None:
    table = run("photos/val", *BOTH, "--no-latency").out
    markdown = run("photos/val", *BOTH, "--no-latency", "--markdown").out
    for cells in (
        ("exact", "100.00 (60.97..100.00)"),
        ("ruined", "33.33 (9.68..70.00)"),
        ("ruined", "33.33", "4", "0", "-66.67"),
    ):
        for shown in (table, markdown):
            assert any(all(cell in line for cell in cells) for line in shown.splitlines()), shown
    assert "| engine | top-1 % |" in markdown
    assert "classes whose top-1 differs in ruined" in table
    assert " ms" not in table


def test_copies_are_told(run: Command, here: Path) -> None:
    photos = here / "photos/val"
    shutil.copy(photos / "n01_red/0.jpg", photos / "n01_red/again.jpg")
    once = run("photos/val", *BOTH, "--no-latency")
    assert "1 image is a copy of another (same content)" in once.out
    shutil.copy(photos / "n01_red/0.jpg", photos / "n02_green/wrong.jpg")
    shutil.copy(photos / "n03_blue/0.jpg", photos / "n03_blue/again.jpg")
    assert "3 images are copies of others (same content)" in run("photos/val", *BOTH, "--no-latency").out
    assert json.loads(run("photos/val", *BOTH, "--no-latency", "--json").out)["copies"] == 3


def test_a_whole_store_starts_with_float32_and_folders_may_be_named_by_label(run: Command, here: Path) -> None:
    (here / "engines/ruined").rename(here / "engines/a-ruined")
    for class_id, label in zip(CLASSES, ("red", "green", "blue"), strict=True):
        (here / "photos/val" / class_id).rename(here / "photos/val" / label)
    report = json.loads(run("photos/val", "--runtime", "openvino", "--no-latency", "--json").out)
    assert report["folders_named_by"] == "label"
    assert [(row["engine"], row["latency_ms"]) for row in report["engines"]] == [("exact", None), ("a-ruined", None)]


def test_images_that_calibrated_are_refused(run: Command, here: Path) -> None:
    ran = run("photos/train", *BOTH, "--no-latency")
    assert ran.code == 1
    assert not ran.out
    assert "calibrated ruined, along with 5 more of these images" in ran.err
    allowed = run("photos/train", *BOTH, "--no-latency", "--allow-calibration-images", "--json")
    assert allowed.code == 0
    assert [row["calibration_images"] for row in json.loads(allowed.out)["engines"]] == [None, 6]
    shown = run("photos/train", *BOTH, "--no-latency", "--allow-calibration-images")
    assert "ruined: 6 of these images calibrated it, so its accuracy is too high" in shown.out


def test_the_gate_ends_with_1_after_the_results(run: Command, here: Path) -> None:
    (here / "photos/val/n02_green/broken.jpg").write_bytes(b"no image")  # 3, but for the gate
    failed = run("photos/val", *BOTH, "--no-latency", "--max-drop", "0.3", "--json")
    assert failed.code == 1
    assert json.loads(failed.out)["pairs"]
    assert "--max-drop 0.3: ruined is 66.67 points of top-1 below exact" in failed.err
    assert "Traceback" not in failed.err
    assert run("photos/val", *BOTH, "--no-latency", "--max-drop", "70").code == 3
    unsure = run("photos/val", *BOTH, "--no-latency", "--max-drop", "70", "--confident")
    assert unsure.code == 1
    assert "use more images, or keep the worst layers in float" in unsure.err


def test_the_gallery_is_written_beside_the_results(run: Command, here: Path) -> None:
    ran = run("photos/val", *BOTH, "--no-latency", "--gallery", "out/flips.html", "--gallery-images", 3)
    assert ran.code == 0, ran.err
    page = (here / "out/flips.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 3 * 3, "flips of one engine, and the highest losses of each"
    assert "4 of 6 images flip; the first 3 of them." in page
    assert "wrote out/flips.html" in ran.err
    alone = run("photos/val", "--engine", "ruined", "--runtime", "openvino", "--no-latency", "--gallery", "one.html")
    assert alone.code == 0, alone.err
    assert "Most confused pairs" in (here / "one.html").read_text(encoding="utf-8")


def test_json_holds_the_confusion_matrix_without_its_zeros(run: Command, here: Path) -> None:
    exact, ruined = json.loads(run("photos/val", *BOTH, "--no-latency", "--json").out)["engines"]
    assert [row["right"] for row in exact["classes"]] == [2, 2, 2]
    assert exact["confusions"] == []
    assert [(row["class_id"], row["label"], row["images"]) for row in ruined["classes"]] == [
        ("n01_red", "red", 2),
        ("n02_green", "green", 2),
        ("n03_blue", "blue", 2),
    ]
    (answer,) = {row["answer_class_id"] for row in ruined["confusions"]}
    assert {row["class_id"] for row in ruined["confusions"]} == set(CLASSES) - {answer}
    assert [row["images"] for row in ruined["confusions"]] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("photos/val", *BOTH, "--json", "--markdown"), 2, "--json and --markdown cannot be combined"),
        (("photos/val", *BOTH, "--confident"), 2, "--confident needs --max-drop"),
        (("photos/val", *BOTH, "--max-drop", "nan"), 2, "--max-drop nan: must be points"),
        (("photos/val", "--engine", "exact", "--max-drop", "1"), 2, "a comparison needs two; add another to --engine"),
        (("photos/val", *BOTH, "--gallery", "g.html", "--gallery-images", 0), 2, "--gallery-images 0: must be 1 or"),
        (("photos/val", *BOTH, "--gallery-images", 3), 2, "--gallery-images needs --gallery; add it"),
        (("photos/val", *BOTH, "--gallery", "photos"), 2, "--gallery photos: does not end in one of .html, .htm"),
        (
            ("photos", *BOTH),
            1,
            "photos: folder 'train' is not a class of exact, but holds class folders; give photos/",
        ),
        (("photos/val", "--engine", "absent"), 1, "absent: no such engine in engines/; it contains exact, ruined"),
        (("photos/val", "--store", "photos"), 1, "photos/ holds no engine"),
    ],
)
def test_a_wrong_request_is_one_line_and_leaves_nothing(
    run: Command, here: Path, arguments: tuple[object, ...], code: int, message: str
) -> None:
    before = sorted(here.rglob("*"))
    ran = run(*arguments)
    assert ran.code == code, ran.err
    (line,) = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not ran.out
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("engine", ["exact", "engines/exact", Path("engines/exact"), ["exact"]])
def test_one_engine_and_one_runtime_need_no_list(here: Path, engine: Any) -> None:
    found = evaluate(engine, "photos/val", runtimes="openvino", latency_s=None)
    assert [result.runner.partition(" ")[0] for result in found.engines] == ["OpenVINO"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engines": []}, "^`engines`: none is given; name at least one$"),
        ({"runtimes": []}, "^`runtimes`: none is given; choose auto, all, "),
        ({"runtimes": "abacus"}, "^`runtimes` abacus: unknown; choose auto, all, "),
        ({"latency_s": -1}, "^`latency_s` -1s: must be above 0s"),
        ({"min_engines": 2}, "add another to `engines`, or "),
    ],
)
def test_an_error_names_the_parameters_of_evaluate(here: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate(**{"engines": "exact", "data": "photos/val", "latency_s": None} | arguments)


def test_odd_names_do_not_stop_the_tables(run: Command, here: Path) -> None:
    odd = here / "va\x1b[31m|\udcff"
    for k, (name, colour) in enumerate(CLASSES.items()):
        save_photo(odd / name / "1.jpg", colour, seed=k)
    for flags in ((), ("--markdown",), ("--json",)):
        ran = run(odd, *BOTH, "--no-latency", *flags)
        assert ran.code == 0, ran.err
        assert "\x1b" not in ran.out
    assert json.loads(ran.out)["data"] == str(odd)


def table(both: int, lost: int, won: int, neither: int) -> AccuracyDelta:
    """What is found of two engines with these counts of right answers."""
    first = [[True, False]] * (both + lost) + [[False, True]] * (won + neither)
    second = [[True, False]] * both + [[False, True]] * lost + [[True, False]] * won + [[False, True]] * neither
    return accuracy_delta(given_answers([0] * len(first), first, second), 0, 1)


def test_the_gate_compares_what_was_measured_or_its_bound() -> None:
    found = table(900, 40, 10, 50)  # 3 points, and an interval around them
    gate(found, "a", "b", 3.0)
    with pytest.raises(ProofError, match=r"`max_drop` 2\.9: b is 3\.00 points of top-1 below a; measured -3\.00, "):
        gate(found, "a", "b", 2.9)
    bound = -found.points_interval.low
    assert 4 < bound < 5
    gate(found, "a", "b", bound, confident=True)
    with pytest.raises(
        ProofError, match=r"b may be \d\.\d\d points of top-1 below a \(the bound of the 95 % interval\)"
    ):
        gate(found, "a", "b", 4.0, confident=True)


@given(st.tuples(*[st.integers(0, 30)] * 4).filter(any), st.floats(0, 100))
@settings(max_examples=40)
def test_who_passes_with_confidence_passes_without(counts: tuple[int, int, int, int], bound: float) -> None:
    found = table(*counts)
    try:
        gate(found, "a", "b", bound, confident=True)
    except ProofError:
        return
    gate(found, "a", "b", bound)


@pytest.mark.parametrize("bound", [-0.1, 100.5, float("nan"), float("inf")])
def test_what_is_no_bound(bound: float) -> None:
    with pytest.raises(UsageError, match=r"must be points of top-1 accuracy within 0\.\.100, such as 0\.3"):
        check_max_drop(bound)


def test_the_rounding_of_points_breaks_no_bound() -> None:
    """In binary 57.1 - 56.8 is more than 0.3; an image more, of any number, is not rounding."""
    assert 57.1 - 56.8 > 0.3
    assert holds_max_drop(57.1 - 56.8, 0.3)
    assert not holds_max_drop(0.3 + 100 / 10_000_000, 0.3)


def test_a_photo_is_decoded_once_for_all_engines(here: Path) -> None:
    counted = """
import collections, json, sys
from alexnet_deploy.evaluation.evaluate import evaluate

opened = collections.Counter()
sys.addaudithook(lambda event, args: opened.update([str(args[0])]) if event == "open" else None)
evaluate(sys.argv[1:], "photos/val", latency_s=None, full_decode=True)
print(json.dumps({name: count for name, count in opened.items() if name.endswith(".jpg")}))
"""

    def opened_by(*engines: str) -> dict[str, int]:
        done = subprocess.run([sys.executable, "-c", counted, *engines], capture_output=True, text=True, check=True)
        found: dict[str, int] = json.loads(done.stdout)
        return found

    one = opened_by("ruined@openvino")
    assert len(one) == 6
    # The images are also read to look for those that calibrated an engine, and for copies: once each, as well.
    assert opened_by("exact@openvino", "exact@onnxruntime", "ruined@openvino", "ruined@onnxruntime") == one


@pytest.mark.parametrize(
    ("modules", "unneeded"),
    [
        ("evaluation.evaluate, alexnet_deploy.report.gallery", ()),
        ("report.recommend, alexnet_deploy.report.file", ("scipy", "jinja2")),
    ],
)
def test_importing_it_loads_no_heavy_library(modules: str, unneeded: tuple[str, ...]) -> None:
    heavy = ("torch", "matplotlib", "onnxruntime", "openvino", "onnx", *unneeded)
    code = f"import sys, alexnet_deploy.{modules}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
