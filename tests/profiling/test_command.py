"""``profile`` as a user meets it, typed and from Python: bundles, ONNX files, and everything that can be wrong."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.bundle.manifest import MODEL
from alexnet_deploy.cli.commands.measure import profile as profile_command
from alexnet_deploy.cli.output import terminal
from alexnet_deploy.contract import BatchProfile, Preprocessing
from alexnet_deploy.errors import InputError, UnavailableError, UsageError
from alexnet_deploy.profiling import engine
from alexnet_deploy.profiling.engine import BatchResult, peak_rss_bytes, profile, profile_engine
from alexnet_deploy.profiling.settings import ProfileSettings
from alexnet_deploy.runtime.select import PassedOver
from tests.helpers.command import Command, RunResult
from tests.helpers.models.foreign_models import foreign_classifier
from tests.helpers.models.onnx_models import tiny_engine, tiny_model
from tests.helpers.report_sample import batch_result, engine_profile

SHORT = ("--duration", "1ms", "--warmup", "0s", "--threads", "1")


def test_a_table_of_every_engine_and_batch(command: Command, here: Path) -> None:
    ran = command("profile", "--batch-sizes", "1,4", "--runtime", "openvino", *SHORT)
    assert ran.code == 0, ran.err
    heading, *rows = ran.out.splitlines()
    times = ["min", "mean", "median", "p90", "p95", "p99", "p99.9", "max", "stdev"]
    assert heading.split() == ["ms", "per", "call", "batch", *times, "calls", "images/s"]
    assert [row.split()[:2] for row in rows[:4]] == [[f"tiny-{p}", b] for p in ("int8", "fp32") for b in ("1", "4")]
    assert "tiny-int8 (int8): OpenVINO" in ran.out
    assert "peak memory" in ran.out
    assert "-: too few calls for that percentile (p90 29, p95 59, p99 299, p99.9 2995)" in ran.out


def test_json_and_exported_times_agree(command: Command, here: Path) -> None:
    given = ("--iterations", 40, "--concurrency", 2, "--threads", 2, "--export-times", "times.json", "--json")
    ran = command("profile", "tiny-fp32", "--batch-sizes", "4,1,4", "--runtime", "onnxruntime", *SHORT, *given)
    assert ran.code == 0, ran.err
    (found,) = json.loads(ran.out)
    assert (found["engine"], found["precision"]) == ("tiny-fp32", "fp32")
    assert found["runner"].startswith("ONNX Runtime")
    assert (found["concurrency"], found["threads"], found["runtime"]) == (2, 2, "onnxruntime")
    assert found["passed_over"] == []
    assert {"load_s", "first_call_ms", "peak_rss_bytes"} < found.keys()
    assert [batch["batch"] for batch in found["batches"]] == [4, 1]

    exported = json.loads(Path("times.json").read_text())
    assert exported["schema"] == 1
    assert exported["machine"]["cores"] == found["batches"][0]["machine"]["cores"]
    (times,) = exported["engines"]
    for batch, told in zip(times["batches"], found["batches"], strict=True):
        samples = batch.pop("samples_ns")
        assert batch == told
        assert batch["mark"] in ("ok", "unstable", "invalid")
        assert len(samples) == told["iterations"] >= 40
        assert min(samples) / 1e6 == told["min_ms"]
        assert told["p90_ms"] is not None
    assert sorted(p.name for p in Path().iterdir()) == ["engines", "frozen.onnx", "times.json"]


@pytest.mark.parametrize("unused_gpu", [False, True])
def test_what_was_passed_over_is_shown_unasked_only_beside_a_gpu(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch, unused_gpu: bool
) -> None:
    report = replace(
        engine_profile(row()),
        passed_over=(PassedOver("tensorrt", "no plan; try `runtime` openvino"),),
        unused_gpu=unused_gpu,
    )
    monkeypatch.setattr(engine, "profile_engine", lambda *_: report)
    ran = command("profile", "tiny-fp32")
    assert ran.code == 0
    assert ("not used: tensorrt: no plan; try --runtime openvino" in ran.err) == unused_gpu
    (told,) = json.loads(command("profile", "tiny-fp32", "--json").out)
    assert told["passed_over"] == ["tensorrt: no plan; try --runtime openvino"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--batch-sizes", "1,x"], 2, "'1,x' is not a list of whole numbers with commas, such as 1,8,32"),
        (["--batch-sizes", "1,5"], 2, "--batch-sizes 5: tiny-int8 has a profile of 1..4; choose one within it, or"),
        (["tiny-fp32", "frozen.onnx", "--batch-sizes", "4"], 2, "--batch-sizes 4: frozen has a profile of 2..2"),
        (["--duration", 3], 2, "'--duration': '3' is not a time with its unit, such as 3s, 200ms or 800us"),
        (["--warmup", "2h"], 2, "--warmup 7200s: must be within 0s..3600s"),
        (["--threads", 0], 2, "--threads 0: must be 1 or more"),
        (["tiny-fp32", "nope"], 1, "nope: no such engine in engines/; it contains tiny-int8, tiny-fp32"),
        (["none.onnx"], 1, "none.onnx: no such ONNX file"),
        (["--export-times", "engines"], 2, "--export-times engines: does not end in one of .json"),
        (["--export-times", "/proc/no/times.json"], 1, "/proc/no/times.json: cannot be written"),
        (["tiny-fp32", "--runtime", "tensorrt"], 1, "tiny-fp32 holds no TensorRT plan"),
        (["tiny-int8", "--runtime", "tensorrt"], 1, "tiny-int8: no plan for this machine (sm89.plan: "),
    ],
)
def test_bad_input_is_one_clear_line(
    command: Command, here: Path, arguments: list[object], code: int, message: str
) -> None:
    before = sorted(Path().rglob("*"))
    ran = command("profile", *SHORT, "--export-times", "times.json", *arguments)
    assert ran.code == code, ran.err
    assert message in ran.error
    assert ran.out == ""
    assert sorted(Path().rglob("*")) == before


def test_an_edited_bundle_is_refused_before_any_is_measured(command: Command, here: Path) -> None:
    model = here / "engines/tiny-fp32" / MODEL
    model.write_bytes(model.read_bytes()[:-1])
    ran = command("profile", *SHORT)
    assert (ran.code, "measuring" in ran.err) == (1, False)
    assert "the manifest records" in ran.error


def test_an_engine_that_crashes_does_not_take_the_others_along(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Popen(subprocess.Popen[str]):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[call-overload]
            if not started:
                self.kill()
            started.append(self.pid)

    started: list[int] = []
    monkeypatch.setattr(subprocess, "Popen", Popen)
    ran = command("profile", "tiny-int8", "tiny-fp32", *SHORT, "--export-times", "times.json")
    assert ran.code == 1
    assert ran.error.startswith("error: tiny-int8: the process that measured it was killed (SIGKILL)")
    assert "tiny-fp32 (fp32): " in ran.out
    assert [row["engine"] for row in json.loads(Path("times.json").read_text())["engines"]] == ["tiny-fp32"]
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def row(*, steady: bool = True, invalid: tuple[str, ...] = (), median_ms: float = 1.5) -> BatchResult:
    made = batch_result(1, median_ms, invalid=invalid)
    return replace(made, latency=replace(made.latency, steady=steady, p99_9_ms=3.0, window_spread_percent=7.25))


@pytest.fixture
def shown(command: Command, here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunResult]:
    """What the command ends with, on a screen of a given width, if these rows are measured."""

    def show(*rows: BatchResult, width: int = 160, options: Sequence[str] = ()) -> RunResult:
        measured = replace(engine_profile(*rows), name="tiny-fp32")
        monkeypatch.setattr(engine, "profile_engine", lambda *_: measured)
        monkeypatch.setattr(terminal.out, "width", width)
        return command("profile", "tiny-fp32", *options)

    return show


def test_marks_come_with_their_cause(shown: Callable[..., RunResult]) -> None:
    rows = (row(), row(steady=False), row(steady=False, invalid=("it was hot; cool it", "it was shared; wait")))
    assert [r.mark for r in rows] == ["ok", "unstable", "invalid"]
    out = shown(*rows).out
    assert [line.split()[-1] for line in out.splitlines()[1:4]] == ["ok", "unstable", "invalid"]
    assert "unstable: tiny-fp32 batch 1: the medians of its last windows differ by 7.2 %; measure " in out
    assert "invalid: tiny-fp32 batch 1: it was hot; cool it\n" in out
    assert "invalid: tiny-fp32 batch 1: it was shared; wait\n" in out
    assert "fewer calls" not in out


@pytest.mark.parametrize("width", [80, 160])
def test_a_narrow_terminal_gets_fewer_columns_and_no_broken_ones(width: int, shown: Callable[..., RunResult]) -> None:
    heading, line, *_ = shown(row(median_ms=12345.0), width=width).out.splitlines()
    assert ("p99.9" in heading) == (width == 160)
    assert "median" in heading
    assert "…" not in heading + line
    assert "tiny-fp32" in line
    assert "12345" in line


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ((row(), row(steady=False)), "is unstable: the medians of its last windows differ by 7.2 %; measure on an "),
        ((row(invalid=("it was hot; cool it",)),), "is invalid: it was hot; cool it"),
        ((row(invalid=("hot",)), row(), row(steady=False)), "is invalid: hot (and 1 more of 3 rows)"),
    ],
)
def test_strict_fails_with_the_reason_where_a_row_is_marked(
    shown: Callable[..., RunResult], rows: tuple[BatchResult, ...], why: str
) -> None:
    assert shown(*rows).code == 0
    assert shown(row(), options=["--strict"]).code == 0
    for form in ([], ["--json"]):
        ran = shown(*rows, options=["--strict", *form])
        assert ran.code == 1
        assert "tiny-fp32" in ran.out
        assert ran.error.startswith(f"error: --strict: tiny-fp32 batch 1 {why}")


def test_a_full_disk_leaves_the_old_times(command: Command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> dict[str, str | int]:
        raise UnavailableError("times.json: no room left on the disk")

    old = '{"schema": 1, "machine": {}, "engines": []}'
    Path("times.json").write_text(old)
    monkeypatch.setattr(engine, "describe_machine", full)
    assert command("profile", "tiny-fp32", *SHORT, "--export-times", "times.json").code == 1
    assert Path("times.json").read_text() == old


def test_an_onnx_of_another_tool_takes_what_it_cannot_tell(command: Command, here: Path) -> None:
    foreign_classifier(Path("foreign.onnx"), batch=2)
    assert "--mean" in command("profile", "foreign.onnx", *SHORT).error
    said = ("--mean", "0,0,0", "--std", "1,1,1", "--batch-sizes", 2)
    assert command("profile", "foreign.onnx", "tiny-fp32", *SHORT, *said).code == 0


SHORT_SETTINGS = ProfileSettings(duration_s=0.001, warm_up_s=0)


def test_the_memory_is_that_of_the_other_process(tmp_path: Path) -> None:
    """ru_maxrss would be passed on to it: the most that the process which started it has held."""
    np.ones(2**29, np.uint8)  # this one has held 512 MiB more than it otherwise would
    mine = peak_rss_bytes()
    measured = profile(str(tiny_model(tmp_path / "tiny.onnx")), SHORT_SETTINGS)
    assert measured.peak_rss_bytes is not None
    assert mine is not None
    assert 2**24 < measured.peak_rss_bytes < mine - 2**28
    assert measured.load_s > 0
    assert measured.first_call_ms > 0
    assert (measured.name, measured.settings) == ("tiny", SHORT_SETTINGS)
    assert all(": " in reason for reason in measured.to_dict()["passed_over"])


def test_an_engine_is_found_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: no such engine in"):
        profile("absent", SHORT_SETTINGS, store=tmp_path)


@pytest.mark.parametrize(
    ("frozen", "batches", "message"),
    [
        (False, (1, 5), r"`batch_sizes` 5: tiny has a profile of 1\.\.4; choose one within it, or build it again with"),
        (False, (1, 1000), r"`batch_sizes` 1000: tiny has a profile of 1\.\.4"),
        (True, (2, 4), r"`batch_sizes` 4: tiny has a profile of 2\.\.2; choose one within it, or export it for any"),
    ],
)
def test_a_batch_outside_the_profile_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool, batches: tuple[int, ...], message: str
) -> None:
    monkeypatch.setattr(engine, "IsolatedProcess", None)
    found = tiny_engine(tmp_path / "tiny.onnx", batch=2 if frozen else "N")
    with pytest.raises(UsageError, match=message):
        profile_engine(replace(found, batch=None if frozen else BatchProfile(1, 2, 4)), ProfileSettings(batches))


@pytest.mark.slow  # it fills what memory there is
def test_more_than_the_memory_holds_is_one_line(tmp_path: Path) -> None:
    found = tiny_engine(tmp_path / "tiny.onnx", side="S")
    contract = replace(found.contract, preprocessing=Preprocessing(4096, 4096, "stretch", None))
    with pytest.raises(UnavailableError, match="tiny: batch 100000000 does not fit into memory; choose smaller"):
        profile_engine(replace(found, contract=contract), ProfileSettings((100_000_000,)))


@pytest.mark.parametrize(
    ("energy_j", "memory", "said"),
    [
        (None, None, None),
        (80.0, 3 << 30, "any batch 8: the whole GPU: 5 mJ per image, 3072 MiB of its memory in use"),
        (None, 3 << 20, "any batch 8: the whole GPU: 3 MiB of its memory in use"),
        (80.0, None, "any batch 8: the whole GPU: 5 mJ per image"),
    ],
)
def test_what_a_gpu_reports_of_energy_and_memory_is_told(
    energy_j: float | None, memory: int | None, said: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    row = batch_result(8, 2.0)
    assert row.latency.batch * row.latency.iterations == 16_000
    machine = replace(row.machine, gpu_energy_j=energy_j, gpu_memory_used_bytes_max=memory)
    row = replace(row, machine=machine)
    assert row.gpu_energy_j_per_image == (None if energy_j is None else 0.005)
    assert row.to_dict()["gpu_energy_j_per_image"] == row.gpu_energy_j_per_image
    profile_command._print_profiles([engine_profile(row)])
    printed = " ".join(capsys.readouterr().out.split())
    assert (said or "any (int8)") in printed
    assert ("the whole GPU" in printed) == (said is not None)
