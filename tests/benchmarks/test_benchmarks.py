"""Benchmarks: rounds, ratios, goals and pages on made-up readings, and the passes of every script on a tiny engine."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.bundle.manifest import MODEL, Manifest, save_manifest, write_bundle
from alexnet_deploy.contract import BatchProfile, Preprocessing
from alexnet_deploy.model.checkpoint import Checkpoint
from benchmarks import cold_start, end_to_end, engine_only, phone_photos, render, rounds, scaling
from benchmarks.end_to_end import Checked
from benchmarks.peers.chosen import COMPARED
from benchmarks.rounds import Report, Row

PRECISIONS = ("fp32", "int8")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path, tiny_checkpoint: Checkpoint) -> Path:
    """The two bundles that the benchmarks look for. Both are float32, since their speed is not tested."""
    folder = tmp_path_factory.mktemp("engines")
    for precision in PRECISIONS:
        with write_bundle(folder / f"alexnet-{precision}") as bundle:
            shutil.copy(tiny_onnx, bundle / MODEL)
            save_manifest(Manifest(precision, tiny_checkpoint.contract, BatchProfile(), {}), bundle)
    return folder


@pytest.fixture(scope="module")
def photos(photo_folder: Path) -> Path:
    return photo_folder / "val"


def test_every_other_round_runs_in_reverse_order() -> None:
    called: list[str] = []

    def way(name: str) -> float:
        called.append(name)
        return len(called)

    readings = rounds.in_turn({"a": lambda: way("a"), "b": lambda: way("b")}, 3)
    assert called == ["a", "b", "b", "a", "a", "b"]
    assert readings == {"a": [1, 4, 5], "b": [2, 3, 6]}


def test_a_ratio_is_taken_within_each_round() -> None:
    row = Row("a machine that slows down", "images/s", [100, 50, 10], "peer", [50, 50, 20])
    assert row.ratio() == rounds.Spread(1.0, 0.5, 2.0)
    assert Row("no peer", "s", [1.0]).ratio() is None


@pytest.mark.parametrize(
    ("ours", "theirs", "goal", "met"),
    [
        ([30, 31], [10, 10], "≥ 3.0", True),
        ([29, 29], [10, 10], "≥ 3.0", False),
        ([0.996], [1], "≥ 1.0", True),
        ([0.994], [1], "≥ 1.0", False),
        ([1.05], [1], "≤ 1.05", True),
        ([1.06], [1], "≤ 1.05", False),
        ([0.3], [], "≤ 0.3", True),
        ([0.31], [], "≤ 0.3", False),
        ([1], [1], "", None),
    ],
)
def test_the_median_has_to_meet_the_goal(ours: list[float], theirs: list[float], goal: str, met: bool | None) -> None:
    assert Row("case", "s", ours, "peer" if theirs else "", theirs, goal).meets_goal() is met


def test_a_report_comes_back_from_its_json(tmp_path: Path) -> None:
    report = Report("Question", [Row("case", "ms", [1.0, 2.0], "peer", [2.0, 2.0], "≤ 1.05")], ["Note."])
    report.save(path := tmp_path / "new" / "report.json")
    assert Report.load(path) == report
    assert json.loads(path.read_text(encoding="utf-8"))["environment"]["Python"] == sys.version.split()[0]


def test_the_table_shows_medians_spreads_and_whether_goals_are_met() -> None:
    rows = [
        Row("fast", "images/s", [1234.5, 1200, 1300], "peer", [400, 400, 400], "≥ 3.0"),
        Row("near", "ms", [1.0, 1.2, 1.1], "peer", [1, 1, 1], "≤ 1.05"),
        Row("slow", "images/s", [10, 10], "peer", [20, 20], "≥ 1.0"),
        Row("alone", "s", [0.14, 0.16], goal="≤ 0.3"),
    ]
    assert render.table(Report("Question", rows)).splitlines()[2:] == [
        "| fast | 1,234 images/s (1,200..1,300) | peer | 400 images/s (400..400) | 3.09 (3.00..3.25) | ≥ 3.0 | yes |",
        "| near | 1.10 ms (1.00..1.20) | peer | 1.00 ms (1.00..1.00) | 1.10 (1.00..1.20) | ≤ 1.05 "
        "| **no**, within the spread |",
        "| slow | 10.0 images/s (10.0..10.0) | peer | 20.0 images/s (20.0..20.0) | 0.50 (0.50..0.50) | ≥ 1.0 "
        "| **no** |",
        "| alone | 0.15 s (0.14..0.16) |  |  |  | ≤ 0.3 s | yes |",
    ]


def test_the_page_shows_an_environment_once_until_it_changes() -> None:
    here, there = {"date": "2026-01-02", "CPU": "One", "cores": "2", "onnx": "1"}, {"date": "2026-01-03", "CPU": "Two"}
    page = render.page(
        {
            "cold_start": Report("Third?", [], environment=there),
            "engine_only": Report("First?", [], ["A note."], here),
            "end_to_end": Report("Second?", [], environment=here),
        }
    )
    assert page.count("*2026-01-02, One, 2 cores, onnx 1*") == page.count("*2026-01-03, Two*") == 1
    assert page.index("First?") < page.index("- A note.") < page.index("Second?") < page.index("Third?")


def test_the_page_says_on_how_many_rounds_a_section_rests() -> None:
    read_once = Row("ours, peak memory", "MiB", [100.0])
    page = render.page({"end_to_end": Report("First?", [Row("ours", "images/s", [1.0, 2.0]), read_once])})
    assert "\n\nRounds: 2.\n\n| case |" in page


def test_the_page_says_what_was_corrected_after_the_notes() -> None:
    page = render.page({"cold_start": Report("First?", [], ["A note."], corrected="Raised by 2.")})
    assert "\n- A note.\n- Raised by 2.\n" in page


def test_the_page_in_docs_is_rendered_from_the_results() -> None:
    reports = {name: Report.load(rounds.RESULTS / f"{name}.json") for name in render.NAMES}
    assert (rounds.ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8") == render.page(reports)


def test_a_pass_that_fails_ends_the_benchmark_and_shows_its_error() -> None:
    command = [sys.executable, "-c", "import sys; print('why', file=sys.stderr); sys.exit(7)"]
    with pytest.raises(SystemExit, match=r"(?s)exit 7\n.*why"):
        rounds.in_process(command)
    with pytest.raises(SystemExit, match=r"(?s)exit 1\n.*nowhere"):
        scaling.run(["infer", "nowhere"])


def test_benchmark_apps_report_is_read() -> None:
    report = {"execution_results": {"latency (ms)": "1.59", "throughput": "421.15", "first inference time (ms)": "3"}}
    assert engine_only.parse_app(report) == {"median_ms": 1.59, "images_per_s": 421.15}


@pytest.mark.parametrize("way", engine_only.WAYS)
def test_every_engine_pass_measures(store: Path, way: str) -> None:
    reading = engine_only.one_pass(way, store / "alexnet-int8", 2, 0.05)
    assert set(reading) == {"median_ms", "images_per_s"}
    assert min(reading.values()) > 0


def test_timed_counts_every_call_of_every_thread() -> None:
    calls: dict[str, int] = {"a": 0, "b": 0}

    def call(name: str) -> None:
        calls[name] += 1

    reading = engine_only.timed([lambda: call("a"), lambda: call("b")], batch=10, seconds=0.05)
    assert min(calls.values()) > 0
    # The calls of 0.05 s out of 0.25 s are measured, the others are warm-up. A thread may start late, but not early.
    assert reading["images_per_s"] * 0.05 <= 10 * sum(calls.values())


def test_photos_are_enlarged_to_the_size_of_a_phone_once(photos: Path, tmp_path: Path) -> None:
    folder = phone_photos.enlarged(photos, tmp_path / "large", 0.5, 4)
    made = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert len(made) == 4
    for file in made:
        with Image.open(file) as image:
            assert (image.format, round(image.width * image.height / 1e6, 2)) == ("JPEG", 0.5)
    (folder / "other.jpg").touch()
    phone_photos.enlarged(photos, folder, 0.5, 4)
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == made


@pytest.mark.parametrize("way", ["ours", "decode", "engine"])
def test_every_way_through_a_folder_measures(
    store: Path, photos: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_only, "SECONDS", 0.05)
    files = sorted(photos.rglob("*.jpg"))
    done = end_to_end.one_pass(way, store / "alexnet-int8", files)
    assert done.images_per_s > 0
    assert len(done.top1) == (len(files) if way == "ours" else 0)


def test_decoding_is_timed_warm(store: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted(photos.rglob("*.jpg")) * 10
    events: list[str] = []

    def decoded(_file: Path, _pre: Preprocessing, out: np.ndarray) -> np.ndarray:
        events.append("decode")
        return out

    def clock() -> float:
        events.append("clock")
        return float(len(events))

    monkeypatch.setattr(end_to_end, "load_pixels", decoded)
    monkeypatch.setattr(end_to_end, "time", SimpleNamespace(perf_counter=clock))
    end_to_end.one_pass("decode", store / "alexnet-int8", files)
    assert events.index("clock") == end_to_end.BATCH
    assert events.count("decode") == end_to_end.BATCH + len(files)


def test_no_core_waits_for_the_photos_of_a_slower_one(monkeypatch: pytest.MonkeyPatch) -> None:
    others, files = threading.Semaphore(0), [Path(str(number)) for number in range(6)]

    def decoded(file: Path, _pre: Preprocessing, out: np.ndarray) -> np.ndarray:
        if file == files[0]:  # as slow as all others together
            assert all(others.acquire(timeout=5) for _ in files[1:])
        else:
            others.release()
        return out

    monkeypatch.setattr(end_to_end, "load_pixels", decoded)
    monkeypatch.setattr(end_to_end, "cores", lambda: 2)
    assert end_to_end.decode(files, Preprocessing()) == [0] * 6


def test_a_way_that_does_not_answer_all_files_ends_the_benchmark(store: Path, tmp_path: Path, photos: Path) -> None:
    (broken := tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(SystemExit, match="ours: answered 1 of 2 files"):
        end_to_end.one_pass("ours", store / "alexnet-int8", [next(photos.rglob("*.jpg")), broken])


def test_the_limit_is_the_time_of_decoder_plus_engine() -> None:
    report = end_to_end.summarise(*made_up())
    limits = {row.case: row for row in report.rows if row.peer == "the limit"}
    assert limits["ours, int8"].theirs == pytest.approx([75.0])
    assert limits["ours, fp32"].theirs == pytest.approx([50.0])
    assert report.notes == [
        "Pillow + ONNX Runtime loop, int8: the limit of our decoder and int8 engine is 1.50 times this peer."
    ]


def test_every_peer_has_its_memory_its_answers_and_how_it_was_run() -> None:
    rates, found = made_up()
    report = end_to_end.summarise(rates, found)
    memory = {row.peer: row for row in report.rows if row.unit == "MiB"}
    peers = [f"{name}, {precision}" for name, precision in COMPARED]
    assert list(memory) == peers
    assert memory["timm's inference.py, fp32"].case == "ours, fp32, peak memory"
    assert memory["timm's inference.py, fp32"].ratio() == rounds.Spread(0.5, 0.5, 0.5)
    assert list(report.how) == ["ours, int8", *peers]
    assert report.how["timm's inference.py, fp32"].endswith("Our float32 answer on 99.0% of the photos.")
    page = render.page({"end_to_end": report})
    assert page.count("\n| Ultralytics predict, fp32 | `YOLO(") == 1


def made_up() -> tuple[dict[str, list[float]], dict[str, Checked]]:
    """Readings of one round, and what the check found."""
    rates = {"decode, fp32": [100.0], "engine, fp32": [100.0], "engine, int8": [300.0]}
    rates |= {"ours, fp32": [45.0], "ours, int8": [60.0]}
    rates |= {f"{peer}, {precision}": [10.0] for peer, precision in COMPARED}
    rates["Pillow + ONNX Runtime loop, int8"] = [50.0]
    found = {"ours, fp32": Checked(1.0, 200.0), "ours, int8": Checked(0.97, 100.0)}
    return rates, found | {f"{peer}, {precision}": Checked(0.99, 400.0) for peer, precision in COMPARED}


def test_scaling_runs_the_command_through_links(store: Path, photos: Path, tmp_path: Path) -> None:
    links = [link.resolve() for link in sorted(scaling.link(photos, tmp_path / "links", 9).iterdir())]
    assert (len(set(links)), links[0]) == (6, links[6])
    report = scaling.compare(photos, store / "alexnet-int8", [2, 9], 1)
    assert [row.case for row in report.rows] == [
        *("2 files", "9 files", "2 files, peak memory", "9 files, peak memory", "peak memory, 9 files"),
    ]
    assert report.rows[-1].ours == report.rows[3].ours
    assert report.rows[-1].theirs == report.rows[2].ours
    assert report.rows[2].ours[0] > 20, "a Python with NumPy and a runtime takes more than 20 MiB"


def test_cold_start_times_both_commands(store: Path, photos: Path) -> None:
    report = cold_start.compare(next(photos.rglob("*.jpg")), store / "alexnet-int8", 1)
    assert {row.case: row.goal for row in report.rows} == cold_start.GOALS
    assert all(row.ours[0] > 0 for row in report.rows)
