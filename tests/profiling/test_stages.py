"""Stage times are of the run whose total is reported, and add up to it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.profiling import stages
from alexnet_deploy.profiling.stages import StageTimer, profile_stages
from alexnet_deploy.runtime.runner import Runner, Steps
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.command import Command
from tests.helpers.models.onnx_models import TINY_CONTRACT, tiny_engine, tiny_model
from tests.helpers.photos import save_photo
from tests.helpers.runners import FakeRunner

ON_A_CPU = {"decode", "resize", "batch", "compute", "top-k", "output", "waiting"}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    engine = tiny_engine(tmp_path_factory.mktemp("tiny") / "tiny.onnx")
    with closing(open_runner(engine, "openvino", threads=1).runner) as opened:
        yield opened


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr(stages, "ENGINE_S", 0.05)
    monkeypatch.setattr(stages, "RUN_S", 0.05)
    files = [tmp_path / "photos" / f"{i:02}.jpg" for i in range(60)]
    for i, file in enumerate(files):
        save_photo(file, (4 * i, 90, 120), i)
    return files


def test_the_stages_of_a_real_run_add_up_to_its_total(runner: Runner, photos: list[Path]) -> None:
    reported: list[tuple[str, int, int]] = []
    found = profile_stages(runner, photos, batch=8, workers=2, on_progress=lambda *step: reported.append(step))
    assert {stage.name for stage in found.stages} == ON_A_CPU
    assert found.threads == 3, "two decode, and the caller's computes"
    thread_s = found.threads * found.total_s
    assert sum(stage.thread_s for stage in found.stages) == pytest.approx(thread_s, rel=0.05)  # what is promised
    assert sum(stage.share_percent for stage in found.stages) + found.unaccounted_percent == pytest.approx(100)
    assert abs(found.unaccounted_percent) < 5
    images = 60 * found.passes
    assert found.images_per_s == pytest.approx(images / found.total_s)
    by_name = {stage.name: stage for stage in found.stages}
    assert by_name["decode"].images_per_s == pytest.approx(2 * images / by_name["decode"].thread_s)  # two threads do it
    assert by_name["compute"].images_per_s == pytest.approx(images / by_name["compute"].thread_s)
    halves = 1 / found.decode_images_per_s + 1 / found.engine_images_per_s
    assert found.additive_limit_images_per_s == pytest.approx(1 / halves)
    assert found.of_limit == pytest.approx(found.clockless_images_per_s * halves)
    assert reported[-1] == ("images", 60 + 4 * images, 60 + 4 * images)
    assert json.loads(json.dumps(dataclasses.asdict(found)))["stages"][0]["name"] == "decode"


def test_a_small_folder_goes_through_until_a_run_is_long_enough(
    runner: Runner, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else starting and ending would be measured, of batches that are not full beside an engine whose are."""
    monkeypatch.setattr(stages, "MAX_PASSES", 40)
    seen = FakeRunner(TINY_CONTRACT)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    found = profile_stages(seen, [photos[0], broken], batch=8, workers=1)
    assert (found.images, found.failed) == (2, 1)
    assert 1 < found.passes <= 40
    assert found.images_per_s == pytest.approx(found.passes / found.total_s), "what cannot be read is no image"
    assert seen.sizes.count(4) >= 4 * (found.passes * 2 // 8), "batches of eight files, every other one is read"


def test_the_copies_of_a_gpu_are_stages(photos: list[Path]) -> None:
    class Gpu(FakeRunner):
        def steps(self, pixels_NHWC: NDArray[np.uint8]) -> Steps:
            yield "host-to-device"
            logits_NK = self(pixels_NHWC)
            yield "compute"
            yield "device-to-host"
            return logits_NK

    found = profile_stages(Gpu(TINY_CONTRACT), photos, workers=1)
    assert {stage.name for stage in found.stages} == {*ON_A_CPU, "host-to-device", "device-to-host"}


def test_a_run_beside_others_does_not_count(
    runner: Runner, photos: list[Path], somebody_else_works: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "ENGINE_S", 0.3)  # long enough to be counted in ticks of the kernel
    assert any("other processes took" in cause for cause in profile_stages(runner, photos, workers=1).invalid)


def test_a_thread_pays_each_stage_with_the_time_since_its_last(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 3, 5, 11, 20])
    monkeypatch.setattr(stages.time, "perf_counter_ns", lambda: next(clock) * 10**9)
    timer = StageTimer()
    for stage in ("decode", "resize", "decode"):
        timer.end(stage)
    timer.stop("waiting")
    assert timer.seconds() == {"decode": 3 + 6, "resize": 2, "waiting": 9}
    assert (timer.threads, timer.total_s) == (1, 20)


def test_numbers_out_of_range_and_nothing_to_read(runner: Runner, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`batch` 0: must be 1 or more"):
        profile_stages(runner, [], batch=0)
    with pytest.raises(InputError, match="cannot be used, nor can any other of the 1 files"):
        profile_stages(runner, [tmp_path / "gone.jpg"])


def test_the_command(command: Command, tmp_path: Path, photos: list[Path]) -> None:
    folder, model = photos[0].parent, tiny_model(tmp_path / "tiny.onnx")
    given = ("profile-stages", model, "--data", folder, "--runtime", "onnxruntime", "--threads", 1)
    ran = command(*given)
    assert ran.code == 0
    assert all(f"\n{stage} " in ran.out for stage in ON_A_CPU)
    assert re.search(r"^60 images( \d+ times)? through tiny \(fp32\)", ran.out)
    photos[7].write_bytes(b"no photo")
    ran = command(*given, "--json")
    assert ran.code == 3
    assert json.loads(ran.out)["failed"] == 1
    assert "1 of 60 images cannot be used" in ran.err
    ran = command(*given, "--workers", 0)
    assert (ran.code, ran.error) == (2, "error: --workers 0: must be 1 or more")
