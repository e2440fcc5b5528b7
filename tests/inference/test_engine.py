"""``open_engine``: how an engine is named, what it answers, and when it is closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.errors import InputError, UnavailableError, UsageError
from alexnet_deploy.inference.engine import OpenEngine, open_engine
from alexnet_deploy.inference.predict import predict
from alexnet_deploy.profiling.latency import measure
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.models.foreign_models import random_pixels
from tests.helpers.models.onnx_models import CLASSES, SIDE, TINY_CONTRACT, tiny_engine, tiny_model
from tests.helpers.photos import save_photo
from tests.helpers.runners import run_steps


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("engine") / "tiny.onnx")


@pytest.fixture
def engine(model: Path) -> Iterator[OpenEngine]:
    with open_engine(model, runtime="openvino", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(5):
        save_photo(folder / f"{i}.jpg", (40 * i, 90, 120), i)
    (folder / "5.jpg").write_bytes(b"no image")
    return folder


PIXELS = random_pixels(3, SIDE)


def test_its_fields_name_what_runs(engine: OpenEngine) -> None:
    assert (engine.name, engine.precision, engine.runtime, engine.device) == ("tiny", "fp32", "openvino", "cpu")
    assert engine.description.startswith("OpenVINO ")
    assert engine.contract == TINY_CONTRACT
    assert (engine.passed_over, engine.unused_gpu) == ((), False)


def test_it_answers_as_its_runner_however_often(engine: OpenEngine, tmp_path: Path) -> None:
    runner = open_runner(tiny_engine(tmp_path / "tiny.onnx"), "openvino", threads=1).runner
    for _ in range(2):
        logits_NK = engine(PIXELS)
        assert (logits_NK.shape, logits_NK.dtype) == ((3, CLASSES), np.float32)
        np.testing.assert_array_equal(logits_NK, runner(PIXELS))
    np.testing.assert_array_equal(run_steps(engine.steps(PIXELS))[1], logits_NK)
    with engine.fork() as fork:
        np.testing.assert_array_equal(fork(PIXELS), logits_NK)
        assert (fork.name, fork.runtime, fork.description) == (engine.name, engine.runtime, engine.description)
    assert measure(engine, duration_s=1e-9, warm_up_s=0, concurrency=2).concurrency == 2, "it is a Runner"


@pytest.mark.parametrize(
    "pixels",
    [
        *(PIXELS.astype(np.float32), PIXELS.astype(np.int64), PIXELS[:0], PIXELS[0], PIXELS[:, :8], PIXELS[..., :1]),
        *(np.uint8(1), PIXELS.tolist(), None),
    ],
)
@pytest.mark.parametrize("how", ["call", "steps", "fork", "steps of a fork"])
def test_other_pixels_are_refused_with_what_it_takes(engine: OpenEngine, pixels: Any, how: str) -> None:
    used = engine.fork() if "fork" in how else engine
    use = used.steps if "steps" in how else used
    with pytest.raises(UsageError, match=rf"^`pixels_NHWC` \w+( \[.*\])?: tiny needs uint8 \[N, {SIDE}, {SIDE}, 3\]"):
        use(pixels)
    assert used(PIXELS).shape == (3, CLASSES), "and it stays usable"


@pytest.mark.parametrize("how", ["folder", "pattern", "list", "iterator"])
def test_predictions_are_those_of_the_files_in_order(engine: OpenEngine, photos: Path, how: str) -> None:
    files = sorted(photos.iterdir())
    sources = {"folder": str(photos), "pattern": f"{photos}/*.jpg", "list": files, "iterator": iter(files)}[how]
    found = list(engine.predict(sources, top_k=2, batch=2))
    assert found == list(predict(engine, files, top_k=2, batch=2))
    assert [Path(row.file).name for row in found] == [f"{i}.jpg" for i in range(6)]
    assert [len(row.top) for row in found] == [2] * 5 + [0]
    assert "is not an image" in str(found[5].error)


@pytest.mark.parametrize(("batch", "used"), [("N", 32), (5, 30), (64, 64)])
def test_the_default_batch_is_what_an_engine_of_a_fixed_size_fills(tmp_path: Path, batch: Any, used: int) -> None:
    """By 32, an engine of 64 computed as many repeated images as real ones."""
    with open_engine(tiny_model(tmp_path / "tiny.onnx", batch=batch), runtime="onnxruntime", verify=False) as engine:
        assert engine.default_batch() == used


def test_what_a_fixed_size_answers_is_what_any_size_answers(engine: OpenEngine, photos: Path, tmp_path: Path) -> None:
    with open_engine(tiny_model(tmp_path / "tiny.onnx", batch=4), runtime="openvino", threads=1) as fixed:
        rows = list(fixed.predict(photos))
    for row, expected in zip(rows, engine.predict(photos), strict=True):
        assert (row.file, row.error) == (expected.file, expected.error)
        assert [answer.label for answer in row.top] == [answer.label for answer in expected.top]
        # another batch size, another order of float32 sums
        np.testing.assert_allclose(
            [answer.probability for answer in row.top], [answer.probability for answer in expected.top], atol=1e-6
        )


def test_what_is_not_there_or_out_of_range_is_raised_at_the_call(engine: OpenEngine, photos: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        engine.predict(photos / "gone")
    with pytest.raises(UsageError, match="`top_k` 0: must be 1 or more"):
        engine.predict(photos, top_k=0)


def test_after_close_it_says_so(model: Path, photos: Path) -> None:
    engine = open_engine(str(model), runtime="onnxruntime")
    rows = engine.predict(photos, batch=1)
    next(rows)
    fork, closed_alone = engine.fork(), engine.fork()
    closed_alone.close()
    assert engine(PIXELS).shape == fork(PIXELS).shape
    engine.close()
    engine.close()
    uses: list[Callable[[], object]] = [lambda: list(rows), engine.__enter__]
    for each in (engine, fork):
        uses += [partial(each, PIXELS), partial(each.predict, photos), partial(each.steps, PIXELS), each.fork]
    for use in uses:
        with pytest.raises(UsageError, match=r"^the engine tiny is closed; open it again with open_engine$"):
            use()


def test_what_cannot_be_opened(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: no such engine in"):
        open_engine("absent", store=tmp_path)
    with pytest.raises(UnavailableError, match="tiny holds no TensorRT plan"):
        open_engine(model, runtime="tensorrt")
    with pytest.raises(UsageError, match="has its own contract"):
        open_engine(model, import_options=ImportOptions(labels=tmp_path / "labels.txt"))
