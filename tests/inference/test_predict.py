"""Predictions stream in order, with error rows and true probabilities, bounded memory, and no thread left behind."""

from __future__ import annotations

import math
import threading
import tracemalloc
from collections.abc import Iterator
from itertools import count, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.contract import MAX_SIDE, Preprocessing
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.find import find_images
from alexnet_deploy.inference.batches import read_batches, require_batch
from alexnet_deploy.inference.predict import predict
from alexnet_deploy.inference.prediction import BATCH, Prediction
from alexnet_deploy.inference.rows import top_answers
from alexnet_deploy.probabilities import kl_nats
from tests.helpers.runners import FakeRunner, numbered_contract

SIDE = 8
CONTRACT = numbered_contract(256, SIDE)


def decoding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.fixture(autouse=True)
def _no_thread_survives() -> Iterator[None]:
    yield
    assert decoding_threads() == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seventy pictures of brightness 0..69; number 3, 40 and 41 are damaged."""
    for i in range(70):
        path = tmp_path / f"{i:03}.png"
        Image.new("RGB", (SIDE + i % 3, SIDE), (i, 0, 0)).save(path)
        if i in (3, 40, 41):
            path.write_bytes(path.read_bytes()[:50])
    return tmp_path


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("batch", [1, 2, 32, 70, 100])
def test_one_row_a_file_in_order_with_errors_in_place(folder: Path, batch: int, workers: int) -> None:
    runner = FakeRunner(CONTRACT)
    rows = list(predict(runner, find_images([folder]), batch=batch, workers=workers))
    assert [Path(row.file).name for row in rows] == [f"{i:03}.png" for i in range(70)]
    for i, row in enumerate(rows):
        if i in (3, 40, 41):
            assert row.top == ()
            assert row.error is not None
            assert row.error.startswith(row.file)
        else:
            assert row.error is None
            assert row.top[0].index == i
    assert sum(runner.sizes) == 67


def test_a_row_is_what_the_manual_says(folder: Path) -> None:
    good, *_, bad = (row.as_row() for row in islice(predict(FakeRunner(CONTRACT), find_images([folder]), top_k=2), 4))
    probability = math.exp(10) / (math.exp(10) + 255)
    assert good == {
        "file": str(folder / "000.png"),
        "top": [
            {"index": 0, "label": "0", "probability": pytest.approx(probability)},
            {"index": 1, "label": "1", "probability": pytest.approx(math.exp(-10) * probability)},
        ],
        "error": None,
        "unknown": None,
    }
    assert list(good) == ["file", "top", "error", "unknown"]
    assert bad == {"file": str(folder / "003.png"), "top": [], "error": bad["error"], "unknown": None}


def test_the_runner_gets_the_pixels_of_load_pixels(folder: Path) -> None:
    files = [path for path in find_images([folder]) if path.name not in ("003.png", "040.png", "041.png")]
    pre = CONTRACT.preprocessing
    seen = np.concatenate([batch.pixels_NHWC.copy() for batch in read_batches(files, pre, batch=7)])
    np.testing.assert_array_equal(seen, np.stack([load_pixels(path, pre) for path in files]))


def test_a_batch_of_damaged_files_does_not_reach_the_runner(tmp_path: Path) -> None:
    runner = FakeRunner(CONTRACT)
    rows = list(predict(runner, [tmp_path / "gone.png"] * 5, batch=2))
    assert [row.error is not None for row in rows] == [True] * 5
    assert runner.sizes == []


def test_no_files_no_rows() -> None:
    assert list(predict(FakeRunner(CONTRACT), [])) == []


@pytest.mark.parametrize("parameter", ["top_k", "batch", "workers"])
def test_numbers_out_of_range_are_named_at_the_call(parameter: str) -> None:
    with pytest.raises(UsageError, match=f"^`{parameter}` 0: must be 1 or more"):
        predict(FakeRunner(CONTRACT), [], **{parameter: 0})


def test_a_batch_whose_pixels_fit_no_memory_is_refused_at_the_call() -> None:
    most = (2 << 30) // (SIDE * SIDE * 3)
    predict(FakeRunner(CONTRACT), [], batch=most)
    with pytest.raises(UsageError, match=f"^`batch` {most + 1}: .* in 2 GiB; choose {most} or less$"):
        predict(FakeRunner(CONTRACT), [], batch=most + 1)
    largest = Preprocessing(MAX_SIDE, MAX_SIDE, "stretch", None)
    require_batch(BATCH, largest)  # the default is for every contract


def test_output_that_is_not_finite_is_an_error_of_its_file_only(folder: Path) -> None:
    class Overflowing(FakeRunner):
        def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
            logits_NK = super().__call__(pixels_NHWC)
            logits_NK[1, 5] = np.nan
            logits_NK[2, 5] = np.inf
            return logits_NK

    rows = list(predict(Overflowing(CONTRACT), [folder / f"{i:03}.png" for i in range(10, 15)]))
    assert [row.error is None for row in rows] == [True, False, False, True, True]
    assert "not finite" in str(rows[1].error)
    assert rows[3].top[0].index == 13


@given(
    logits_NK=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 9)),
        elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
    ),
    temperature=st.floats(0.05, 20),
    top_k=st.integers(1, 12),
)
def test_probabilities_are_a_distribution_in_the_order_of_the_logits(
    logits_NK: NDArray[np.float32], temperature: float, top_k: int
) -> None:
    before = logits_NK.copy()
    classes = logits_NK.shape[1]
    contract = numbered_contract(classes, temperature=temperature)
    for logits_K, answers in zip(logits_NK, top_answers(logits_NK, contract, top_k), strict=True):
        assert len(answers) == min(top_k, classes)
        ranking = [(-logits_K[answer.index], answer.index) for answer in answers]
        assert ranking == sorted((-logit, k) for k, logit in enumerate(logits_K))[:top_k]
        total = sum(answer.probability for answer in answers)
        assert total == pytest.approx(1.0) if top_k >= classes else 0.0 < total <= 1.0 + 1e-12
    np.testing.assert_array_equal(logits_NK, before)  # the caller owns its logits


def test_temperature_divides_the_logits() -> None:
    ((answer,),) = top_answers(np.array([[2.0, 0.0]], np.float32), numbered_contract(2, temperature=2.0), 1)
    assert answer.probability == pytest.approx(1 / (1 + math.exp(-1)))


LOGITS = hnp.arrays(np.float32, (2, 5), elements=st.floats(-50, 50, width=32))


@given(LOGITS, LOGITS, st.floats(-100, 100, width=32))
def test_kl_is_that_of_the_textbook(p: np.ndarray, q: np.ndarray, shift: float) -> None:
    def softmax(x: np.ndarray) -> Any:
        powers = np.exp(x.astype(np.float64))
        return powers / powers.sum(axis=1, keepdims=True)

    expected = (softmax(p) * np.log(softmax(p) / softmax(q))).sum(axis=1)
    assert kl_nats(p, q, "softmax") == pytest.approx(expected, abs=1e-9)
    assert (kl_nats(p, q, "softmax") >= 0).all()
    # Adding a number to all logits changes no probability; float32 rounds the sum to some 1e-5.
    assert kl_nats(p, p + np.float32(shift), "softmax") == pytest.approx(0, abs=1e-8)


def test_reading_ahead_is_bounded_and_close_ends_it(folder: Path) -> None:
    taken = count()
    rows = predict(FakeRunner(CONTRACT), (folder / "000.png" for _ in taken), batch=4)
    for _ in range(41):
        next(rows)
    assert next(taken) <= 44 + 2 * 4  # eleven batches begun, two ahead
    rows.close()  # type: ignore[attr-defined]
    assert decoding_threads() == []


@pytest.mark.parametrize("error", [RuntimeError("device lost"), KeyboardInterrupt()])
def test_a_failing_runner_ends_the_run_and_its_threads(folder: Path, error: BaseException) -> None:
    class Failing(FakeRunner):
        def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
            if len(self.sizes) == 2:
                raise error
            return super().__call__(pixels_NHWC)

    rows: list[Prediction] = []
    with pytest.raises(type(error)):
        rows.extend(predict(Failing(CONTRACT), repeat(folder / "001.png"), batch=4))
    assert decoding_threads() == []


def test_a_failing_source_ends_the_run_and_its_threads(folder: Path) -> None:
    def source() -> Iterator[Path]:
        yield from repeat(folder / "001.png", 50)
        raise InputError("list.txt: line 51 is no path")

    with pytest.raises(InputError, match="line 51"):
        list(predict(FakeRunner(CONTRACT), source(), batch=4))
    assert decoding_threads() == []


def test_memory_does_not_grow_with_the_number_of_files(folder: Path) -> None:
    def peak_bytes(files: int) -> int:
        tracemalloc.start()
        try:
            assert sum(1 for _ in predict(FakeRunner(CONTRACT), repeat(folder / "000.png", files), batch=16)) == files
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(64)  # caches fill
    few, many = peak_bytes(1000), peak_bytes(4000)
    # Pillow's reference cycles wait for the collector: some 200 kB come and go. Three thousand rows kept anywhere,
    # as pixels (192 bytes) or as a Prediction (over 500), would be more than twice that.
    assert many < few + 250_000
