"""Several runners of one engine: rows in the order of the files, pixels that stay while somebody computes with them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import UnavailableError, UsageError
from alexnet_deploy.inference.batches import read_batches
from alexnet_deploy.inference.predict import predict
from alexnet_deploy.inference.side_by_side import SideBySide
from tests.helpers.runners import FakeRunner, numbered_contract

SIDE, FILES = 8, 70
CONTRACT = numbered_contract(256, SIDE)


@pytest.fixture(autouse=True)
def _no_thread_survives() -> Iterator[None]:
    yield
    assert [thread for thread in threading.enumerate() if thread.name.startswith(("decode", "compute"))] == []


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures of brightness 0 and on; every ninth is damaged."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{i:03}.png" for i in range(FILES)]
    for i, path in enumerate(paths):
        Image.new("RGB", (SIDE, SIDE), (i, 0, 0)).save(path)
        if i % 9 == 4:
            path.write_bytes(path.read_bytes()[:50])
    return paths


class Threaded(FakeRunner):
    """Keeps the threads that called it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.threads: set[int] = set()

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.threads.add(threading.get_ident())
        return super().__call__(pixels_NHWC)


class Meeting(Threaded):
    """Each call waits until one of another runner runs as well."""

    barrier = threading.Barrier(2, timeout=60)

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        before = pixels_NHWC.copy()
        self.barrier.wait()
        logits_NK = super().__call__(pixels_NHWC)
        self.barrier.wait()
        np.testing.assert_array_equal(pixels_NHWC, before)
        return logits_NK


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("batch", [1, 4, 9, 32, 100])
def test_the_rows_are_those_of_one_runner_in_the_same_order(count: int, batch: int, files: list[Path]) -> None:
    expected = list(predict(FakeRunner(CONTRACT), files, batch=batch))
    runners = [Threaded(CONTRACT) for _ in range(count)]
    with closing(SideBySide(runners)) as side_by_side:
        assert list(predict(side_by_side, files, batch=batch)) == expected
        assert list(predict(side_by_side, [])) == []
    assert sum(sum(runner.sizes) for runner in runners) == sum(row.error is None for row in expected)
    assert all(len(runner.threads) <= 1 for runner in runners), "each stays with one thread"


def test_two_compute_at_the_same_time_with_pixels_of_their_own(files: list[Path]) -> None:
    runners = [Meeting(CONTRACT), Meeting(CONTRACT)]
    some = [path for i, path in enumerate(files) if i % 9 != 4][:48]
    with closing(SideBySide(runners)) as side_by_side:
        rows = list(predict(side_by_side, some, batch=4))
    assert [row.top[0].label for row in rows] == [str(int(path.stem)) for path in some]
    assert [len(runner.sizes) for runner in runners] == [6, 6]


@pytest.mark.parametrize("held", [1, 2, 4])
def test_the_pixels_of_held_batches_stay_and_their_memory_is_used_again(held: int) -> None:
    loaded = threading.Semaphore(0)
    pre = Preprocessing(SIDE, SIDE, "stretch", None)

    def load(path: Path, pre: Preprocessing, out: NDArray[np.uint8]) -> None:
        out[:] = int(path.name)
        loaded.release()

    paths = (Path(str(i % 256)) for i in range(200))
    with closing(read_batches(paths, pre, batch=2, workers=2, load=load, held=held)) as batches:
        kept = [read.pixels_NHWC for read in islice(batches, held)]
        for _ in range(2 * (held + 2)):  # all that may be decoded ahead is
            assert loaded.acquire(timeout=60)
        assert [int(pixels[i, 0, 0, 0]) for pixels in kept for i in (0, 1)] == list(range(2 * held))
        later = [next(batches).pixels_NHWC for _ in range(held + 2)]
        assert any(np.shares_memory(each, kept[0]) for each in later)
        assert not any(np.shares_memory(a, b) for a in later[-held:] for b in later[-held:] if a is not b)


def test_a_runner_that_fails_ends_the_run_after_all_rows_before_it(files: list[Path]) -> None:
    class Failing(FakeRunner):
        def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
            if 20 in pixels_NHWC[:, 0, 0, 0]:
                raise UnavailableError("GPU 1: it is lost")
            return super().__call__(pixels_NHWC)

    rows = []
    with closing(SideBySide([Failing(CONTRACT), Failing(CONTRACT)])) as side_by_side:
        with pytest.raises(UnavailableError, match="GPU 1: it is lost"):
            for row in predict(side_by_side, files, batch=4):
                rows.append(row)  # those before the error are the point
        assert [row.file for row in rows] == [str(path) for path in files[:20]]


def test_an_early_end_computes_nothing_more(files: list[Path]) -> None:
    runners = [FakeRunner(CONTRACT), FakeRunner(CONTRACT)]
    with closing(SideBySide(runners)) as side_by_side:
        rows = predict(side_by_side, repeat(files[0]), batch=4)
        assert [row.top[0].label for row in islice(rows, 9)] == ["0"] * 9
        rows.close()  # type: ignore[attr-defined]
    assert sum(map(len, (runner.sizes for runner in runners))) <= 3 + 3


def test_rows_that_are_asked_for_after_the_end_are_an_error(files: list[Path]) -> None:
    side_by_side = SideBySide([FakeRunner(CONTRACT), FakeRunner(CONTRACT)])
    rows = predict(side_by_side, repeat(files[0]), batch=1)
    next(rows)
    side_by_side.close()
    side_by_side.close()
    with pytest.raises(UsageError, match="the engine is closed; open it again"):
        list(islice(rows, 100))
