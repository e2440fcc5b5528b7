"""The run on a GPU: parts that fail, the end of the time, and every pass on a tiny network without a card."""

from __future__ import annotations

import fcntl
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from alexnet_deploy.model.checkpoint import Checkpoint, save_checkpoint
from benchmarks.gpu import __main__ as program
from benchmarks.gpu import page, passes
from benchmarks.gpu.parts import MARK, TIME_IS_UP, Outcome, Part, outcome_of, run_parts, run_pass
from benchmarks.gpu.result import GpuResult, PartResult
from benchmarks.rounds import ROOT


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def told(**found: object) -> str:
    return f"echo '{MARK}{json.dumps(found)}'; "


class TestOnePass:
    def test_what_it_marks_is_read_whatever_else_is_printed(self) -> None:
        script = "echo a library; " + told(ran="X 1") + told(cases={"a": {"ms": 1}}) + told(cases={"b": {"ms": 2}})
        assert run_pass(shell(script), 60) == Outcome("X 1", {"a": {"ms": 1}, "b": {"ms": 2}})

    def test_its_own_words_are_kept(self) -> None:
        assert run_pass(shell(told(failed="no card")), 60).failed == "no card"

    @pytest.mark.parametrize(
        ("script", "words"),
        [
            ("echo 'libcuda.so.1: not found' >&2; exit 3", "exit 3: libcuda.so.1: not found"),
            ("kill -SEGV $$", "exit -11: it printed no reason"),
        ],
    )
    def test_a_crash_has_its_code_and_its_last_words(self, script: str, words: str) -> None:
        outcome = run_pass(shell(told(cases={"a": {"ms": 1}}) + script), 60)
        assert outcome == Outcome("", {"a": {"ms": 1}}, words)

    def test_at_its_limit_it_is_killed_with_its_children_and_what_it_told_is_kept(self, tmp_path: Path) -> None:
        (lock := tmp_path / "lock").touch()
        # The lock belongs to the open file, which the child inherits: it is free once both have ended.
        script = f"exec 9>{lock}; flock 9; {told(cases={'a': {'ms': 1}})} (sleep 600) & sleep 600"
        outcome = run_pass(shell(script), 3)
        assert outcome == Outcome("", {"a": {"ms": 1}}, "out of time after 3 s")
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)

    def test_no_folder_of_this_machine_is_in_its_words(self, tmp_path: Path) -> None:
        words = [str(tmp_path / "engines"), str(ROOT / "benchmarks"), f"{sys.prefix}/lib/x.py"]
        for script in (told(failed=" ".join(words)), f"echo {' '.join(words)} >&2; exit 1"):
            failed = run_pass(shell(script), 60).failed
            assert failed.endswith("/engines ./benchmarks PYTHON/lib/x.py")
            assert str(Path(tempfile.gettempdir())) not in failed

    def test_a_line_that_was_cut_off_is_left_out(self) -> None:
        assert outcome_of(f'{MARK}{{"cases": {{"a": {{"ms": 1}}}}}}\n{MARK}{{"cas') == Outcome("", {"a": {"ms": 1}})


PARTS = [Part("engine", "fp16", way, [way], 60) for way in ("a", "b", "c")]


def run_all(
    took_s: dict[str, float], rounds: int, limit_s: float, bad: str = ""
) -> tuple[list[PartResult], list[tuple[str, float]]]:
    """All of ``PARTS`` with a clock that only they move: the results, and each start with its time limit."""
    clock_s = 0.0
    started: list[tuple[str, float]] = []

    def one(command: Sequence[str], at_most_s: float) -> Outcome:
        nonlocal clock_s
        (way,) = command
        started.append((way, at_most_s))
        clock_s += min(took_s[way], at_most_s)
        return Outcome(failed="bad") if way == bad else Outcome(way, {"case": {"images_per_s": clock_s}})

    return run_parts(PARTS, rounds, limit_s, run=one, now=lambda: clock_s), started


class TestAllParts:
    def test_one_that_fails_ends_nothing_and_is_not_tried_again(self) -> None:
        found, started = run_all({"a": 1, "b": 1, "c": 1}, 2, 100, bad="b")
        assert [way for way, _ in started] == ["a", "b", "c", "c", "a"]
        assert [(part.way, part.failed, sum(map(bool, part.rounds))) for part in found] == [
            ("a", "", 2),
            ("b", "bad", 0),
            ("c", "", 2),
        ]

    def test_what_no_longer_fits_is_left_out_and_says_so(self) -> None:
        found, started = run_all({"a": 50, "b": 48, "c": 1}, 2, 100)
        assert started == [("a", 60), ("b", 50)]
        assert [part.failed for part in found] == ["", "", TIME_IS_UP]

    def test_no_part_gets_more_than_its_limit_or_than_what_is_left(self) -> None:
        _, started = run_all({"a": 1000, "b": 1000, "c": 1000}, 1, 130)
        assert started == [("a", 60), ("b", 60), ("c", 10)]

    def test_what_is_known_is_handed_on_after_each_pass(self) -> None:
        """A hired machine may be gone before the last one."""
        known: list[list[str]] = []
        run_parts(
            PARTS,
            1,
            100,
            run=lambda command, at_most_s: Outcome(failed="bad"),
            on_result=lambda found: known.append([part.failed for part in found]),
        )
        assert known == [["bad"], ["bad"] * 2, ["bad"] * 3]

    def test_a_round_without_time_is_no_failure_of_one_that_has_readings(self) -> None:
        found, _ = run_all({"a": 30, "b": 30, "c": 30}, 3, 100)
        assert [part.failed for part in found] == ["", "", ""]
        assert found[2].readings("case", "images_per_s") == [90, 100, None]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Checkpoint, tiny_onnx: Path) -> Path:
    """A store with the checkpoint, its ONNX and its fp32 engine."""
    folder = tmp_path_factory.mktemp("gpu")
    save_checkpoint(tiny_checkpoint, folder / "tiny.safetensors")
    shutil.copy(tiny_onnx, folder / "alexnet.onnx")
    passes.main(["build", "--precision", "fp32", *common(folder)])
    return folder


def common(store: Path) -> list[str]:
    sizes = ["--batches", "1,3", "--seconds", "0.02", "--photos", "15", "--steps", "1", "--train-batch", "2"]
    weights = ["--store", str(store), "--weights", str(store / "tiny.safetensors")]
    return ["--device", "cpu", "--hidden", "32", *sizes, *weights]


def run(store: Path, capfd: pytest.CaptureFixture[str], *arguments: str) -> Outcome:
    capfd.readouterr()
    passes.main([*arguments, *common(store)])
    return outcome_of(capfd.readouterr().out)


@pytest.mark.parametrize("way", ["TensorRT", "ONNX Runtime CUDA", "torch eager"])
def test_every_engine_measures_each_batch_size(way: str, store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = run(store, capfd, "engine", "--precision", "fp32", "--way", way)
    assert outcome.failed == ""
    assert outcome.ran.endswith("on CPU"), "a dry run says what ran in place of a card"
    assert list(outcome.cases) == ["batch 1", "batch 3"]
    assert all(reading["images_per_s"] > 0 and reading["median_ms"] > 0 for reading in outcome.cases.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("engine", "--precision", "int8", "--way", "TensorRT"), "int8: is not an engine bundle"),
        (("engine", "--precision", "int8", "--way", "torch eager"), "torch has no int8 convolution for CUDA"),
        (("engine", "--precision", "fp32", "--way", "torch CUDA graph"), "requires CUDA"),
        (("infer", "--precision", "fp16", "--way", "TensorRT"), "infer: exit 1: error: "),
    ],
)
def test_a_pass_that_cannot_run_says_why(
    arguments: tuple[str, ...], words: str, store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run(store, capfd, *arguments)
    assert words in outcome.failed
    assert outcome.cases == {}


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="needs a system with devices")
def test_on_a_card_that_is_not_there_the_run_names_the_dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit, match=r"^no GPU to measure: .*--device cpu$"):
        program.main([])


def test_infer_is_measured_on_as_many_photos_as_asked_for(
    store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        Image.new("RGB", (40, 30), (number * 60, 0, 0)).save(tmp_path / f"{number}.png")
    arguments = ("infer", "--precision", "fp32", "--way", "ONNX Runtime CPU", "--images", str(tmp_path))
    assert run(store, capfd, *arguments).cases["infer"]["photos"] == 15


@pytest.mark.parametrize("way", ["from files", "decoded once"])
def test_training_is_measured_beside_the_bare_loop(way: str, store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = run(store, capfd, "training", "--precision", "bf16", "--way", way)
    assert outcome.failed == ""
    assert set(outcome.cases["training"]) == {"images_per_s", "bare_images_per_s"}


def test_no_peer_is_timed_on_other_weights(
    store: Path, tiny_checkpoint: Checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = {name: value.flip(0) for name, value in tiny_checkpoint.weights.items()}
    save_checkpoint(
        Checkpoint(tiny_checkpoint.arch, tiny_checkpoint.contract, other, {"source": "other"}),
        path := tmp_path / "o.safetensors",
    )
    capfd.readouterr()
    arguments = ["engine", "--precision", "fp32", "--way", "torch eager", *common(store), "--weights", str(path)]
    passes.main(arguments)
    outcome = outcome_of(capfd.readouterr().out)
    assert "it is not timed on other work" in outcome.failed
    assert outcome.cases == {}


def test_a_run_has_every_engine_in_every_precision_and_the_whole_command_and_training(tmp_path: Path) -> None:
    args = program.parser().parse_args([])
    for name, value in program.FULL_RUN.items():
        setattr(args, name, value)
    names = {part.name for part in program.measurements(args, tmp_path)}
    torch_ways = {"torch eager", "torch.compile", "torch CUDA graph"}
    for precision in ("fp32", "tf32", "fp16", "int8"):
        assert {f"engine {precision} {way}" for way in {"TensorRT", "ONNX Runtime CUDA"} | torch_ways} <= names
    assert {f"infer fp16 {way}" for way in ("TensorRT", "ONNX Runtime CUDA", "ONNX Runtime CPU")} <= names
    assert {"training bf16 from files", "training bf16 decoded once"} <= names
    builds = program.builds(args, tmp_path)
    assert [part.name for part in program.wanted([*builds, *program.measurements(args, tmp_path)], ["infer"])] == [
        *(part.name for part in builds),
        *sorted((name for name in names if name.startswith("infer")), reverse=True),
    ]


@pytest.mark.slow
def test_a_dry_run_passes_through_every_part_and_changes_no_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = page.PAGE.read_bytes()
    output = tmp_path / "dry.json"
    limits = ["--limit", "3000", "--part-limit", "600"]
    program.main(["--device", "cpu", "--output", str(output), "--store", str(tmp_path / "store"), *limits])
    result = GpuResult.load(output)
    assert result.dry_run
    assert "NO RESULT OF A GPU" in capsys.readouterr().out
    assert page.PAGE.read_bytes() == before
    failed = {f"{part.kind} {part.title}": part.failed for part in result.parts if part.failed}
    for name, words in failed.items():
        assert "CUDA" in words, f"{name}: {words}"
    ran = {part.kind for part in result.parts if any(part.rounds)}
    assert ran == {"build", "engine", "infer", "training"}
