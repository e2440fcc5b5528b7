"""Stage times are of the run whose total is reported, and add up to it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, set_contract
from alexnet_deploy.profiling import stages
from alexnet_deploy.profiling.stages import profile_stages
from alexnet_deploy.runtime.select import open_runner
from alexnet_deploy.runtime.stage_timer import Laps
from tests.helpers.command import Command
from tests.helpers.onnx_models import CLASSES, SIDE, tiny_classifier
from tests.helpers.photos import save_photo

LABELS = tuple(f"class {k}" for k in range(CLASSES))
CONTRACT = ModelContract("tiny", LABELS, LABELS, Preprocessing(SIDE, SIDE, "stretch", None))
ON_A_CPU = {"decode", "resize", "batch", "compute", "top-k", "output", "waiting"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tiny_classifier(tmp_path / "tiny.onnx")
    loaded = load_onnx(path)
    set_contract(loaded, CONTRACT)
    loaded.graph.output[0].type.tensor_type.shape.dim[1].dim_value = CLASSES
    onnx.save(loaded, path)
    return path


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr(stages, "ENGINE_S", 0.05)
    monkeypatch.setattr(stages, "RUN_S", 0.05)
    files = [tmp_path / "photos" / f"{i:02}.jpg" for i in range(60)]
    for i, file in enumerate(files):
        save_photo(file, (4 * i, 90, 120), i)
    return files


def test_the_stages_of_a_real_run_add_up_to_its_total(model: Path, photos: list[Path]) -> None:
    runner = open_runner(Engine("tiny", model, CONTRACT, "fp32", None), "openvino", threads=1).runner
    told: list[tuple[int, int]] = []
    found = profile_stages(
        runner, photos, batch=8, workers=2, on_progress=lambda done, total: told.append((done, total))
    )
    assert {stage.name for stage in found.stages} == ON_A_CPU
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
    assert told[-1][0] == told[-1][1] == 60 + 4 * images
    assert json.loads(json.dumps(found.to_dict()))["stages"][0]["name"] == "decode"
    assert dataclasses.asdict(found) == found.to_dict()


def test_a_small_folder_goes_through_until_a_run_is_long_enough(
    model: Path, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else starting and ending would be measured, of batches that are not full beside an engine whose are."""
    monkeypatch.setattr(stages, "MAX_PASSES", 40)
    runner = open_runner(Engine("tiny", model, CONTRACT, "fp32", None), "openvino", threads=1).runner
    sizes: list[int] = []

    class Seen:
        contract, description, batch, lap = runner.contract, runner.description, runner.batch, runner.lap

        def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
            sizes.append(len(pixels_NHWC))
            return runner(pixels_NHWC)

        def fork(self) -> Seen:
            raise AssertionError("one request is enough")

        def close(self) -> None:
            runner.close()

    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    found = profile_stages(Seen(), [photos[0], broken], batch=8, workers=1)
    assert (found.images, found.failed) == (2, 1)
    assert 1 < found.passes <= 40
    assert found.images_per_s == pytest.approx(found.passes / found.total_s), "what cannot be read is no image"
    assert sizes.count(4) >= 4 * (found.passes * 2 // 8), "batches of eight files, of which every other one is read"


def test_a_run_beside_others_does_not_count(
    model: Path, photos: list[Path], somebody_else_works: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "ENGINE_S", 0.3)  # long enough to be counted in ticks of the kernel
    runner = open_runner(Engine("tiny", model, CONTRACT, "fp32", None), "openvino", threads=1).runner
    assert any("other processes took" in cause for cause in profile_stages(runner, photos, workers=1).invalid)


def test_a_thread_pays_each_stage_with_the_time_since_its_last(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 3, 5, 11, 20])
    monkeypatch.setattr("alexnet_deploy.runtime.stage_timer.time.perf_counter_ns", lambda: next(clock) * 10**9)
    laps = Laps()
    for stage in ("decode", "resize", "decode"):
        laps(stage)
    laps.stop("waiting")
    assert laps.seconds() == {"decode": 3 + 6, "resize": 2, "waiting": 9}
    assert (laps.threads, laps.total_s) == (1, 20)


def test_numbers_out_of_range_and_nothing_to_read(model: Path, photos: list[Path], tmp_path: Path) -> None:
    runner = open_runner(Engine("tiny", model, CONTRACT, "fp32", None), "openvino", threads=1).runner
    with pytest.raises(UsageError, match="--batch 0 is out of range"):
        profile_stages(runner, photos, batch=0)
    with pytest.raises(InputError, match="cannot be used, nor can any other of the 1 files"):
        profile_stages(runner, [tmp_path / "gone.jpg"])


def test_the_command(command: Command, model: Path, photos: list[Path]) -> None:
    folder = photos[0].parent
    ran = command("profile-stages", folder, "--engine", model, "--runtime", "onnxruntime", "--threads", 1)
    assert ran.code == 0
    assert all(f"\n{stage} " in ran.out for stage in ON_A_CPU)
    assert re.search(r"^60 images( \d+ times)? through tiny \(fp32\)", ran.out)
    photos[7].write_bytes(b"no photo")
    ran = command("profile-stages", folder, "--engine", model, "--runtime", "onnxruntime", "--threads", 1, "--json")
    assert ran.code == 3
    assert json.loads(ran.out)["failed"] == 1
    assert "1 of 60 images cannot be used" in ran.err
    ran = command("profile-stages", folder, "--engine", model, "--workers", 0)
    assert (ran.code, ran.err.count("error: --workers 0 is out of range")) == (2, 1)
