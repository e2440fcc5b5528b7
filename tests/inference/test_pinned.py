"""Decoders of ``predict`` fill page-locked memory that a GPU copies as it is; on fake GPUs, which read it late."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.errors import UnavailableError, UsageError
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.inference.engine import OpenEngine, open_engine
from alexnet_deploy.inference.prediction import Prediction
from alexnet_deploy.inference.side_by_side import SideBySide
from alexnet_deploy.runtime import openers
from alexnet_deploy.runtime.cuda import memory
from alexnet_deploy.runtime.cuda.memory import is_shared, shared_pixels
from tests.helpers.cards import Cards
from tests.helpers.fake_device import FakeDevice
from tests.helpers.fake_tensorrt import expected_logits
from tests.helpers.host_device import HostDevice, cuda_runner_on_host
from tests.helpers.models.onnx_models import CLASSES, SIDE, TINY_CONTRACT, tiny_model
from tests.helpers.photos import save_photo

PHOTOS = 17


class Watched(FakeDevice):
    """Counts the copies of pixels, and those of them that come straight from where they were decoded."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.copies = self.direct = 0

    def upload(self, pointer: int, source: NDArray[Any], stream: int) -> None:
        self.copies += 1
        self.direct += is_shared(source)
        super().upload(pointer, source, stream)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("engine") / "tiny.onnx")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{i:02}.jpg" for i in range(PHOTOS)]
    for i, path in enumerate(paths):
        save_photo(path, (15 * i, 255 - 10 * i, 7 * i), i)
    return paths


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cards:
    made = Cards(monkeypatch, tmp_path, count=2)
    made.devices[:] = [Watched(index=index, count=2) for index in range(2)]
    made.take_over()
    return made


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    assert not memory._shared


def opened(model: Path, runtime: Any = "tensorrt", device: Any = None) -> OpenEngine:
    return open_engine(model, runtime=runtime, device=device, verify=False)


def require_right(rows: list[Prediction], photos: list[Path]) -> None:
    """The logits that the fake GPU makes of each photo's own pixels."""
    assert [row.file for row in rows] == list(map(str, photos))
    for row, photo in zip(rows, photos, strict=True):
        pixels = load_pixels(photo, TINY_CONTRACT.preprocessing)[np.newaxis]
        np.testing.assert_array_equal(np.float32(row.values or ()), expected_logits(pixels, CLASSES)[0])


@pytest.mark.parametrize("device", [None, 1, "all"])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_no_buffer_is_filled_anew_before_its_copy_was_made(
    device: Any, batch: int, model: Path, photos: list[Path], cards: Cards
) -> None:
    with opened(model, device=device) as engine:
        rows = engine.predict(photos, batch=batch, outputs="logits", workers=3)
        require_right(list(rows), photos)
    used = [card for card in cards.devices if card.moved]
    assert sum(card.direct for card in used) == sum(card.copies for card in used) == -(-PHOTOS // batch)
    assert not any(card.live for card in cards.devices)


def test_graphs_take_pixels_from_any_buffer(model: Path, photos: list[Path], cards: Cards) -> None:
    """One is captured, and the calls after it have their pixels elsewhere."""
    with opened(model) as engine:
        require_right(list(engine.predict(photos, batch=1, outputs="logits")), photos)
        assert cards.devices[0].calls.count("launch") > 0
        pixels = np.stack([load_pixels(photo, TINY_CONTRACT.preprocessing) for photo in photos[:1]])
        np.testing.assert_array_equal(engine(pixels), expected_logits(pixels, CLASSES))


class WatchedHost(Watched, HostDevice):
    """``Watched``, with memory that ONNX Runtime computes in."""


@pytest.mark.parametrize("batch", [1, 4])
def test_onnxruntime_reads_it_as_well(
    batch: int, model: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(model, "onnxruntime") as engine:
        expected = [row.values for row in engine.predict(photos, batch=batch, outputs="logits")]
        assert engine.make_pixels is None
    card = WatchedHost()

    def on_host(engine: Engine, options: Any) -> Any:
        return cuda_runner_on_host(engine.onnx_path, engine.contract, device=card)[0]

    monkeypatch.setitem(openers.RUNTIMES, "onnxruntime-cuda", on_host)
    with opened(model, "onnxruntime-cuda") as engine:
        found = [row.values for row in engine.predict(photos, batch=batch, outputs="logits")]
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # the same kernels, in sessions with other threads
    # The last of 17 is padded to 4, so it goes through a copy.
    assert (card.copies, card.direct) == ((17, 17) if batch == 1 else (5, 4))
    assert not card.live


def test_what_cannot_go_as_it_is_goes_through_a_copy(
    model: Path, photos: list[Path], cards: Cards, tmp_path: Path
) -> None:
    """A batch with a damaged file has gaps; one that is larger than the engine's is split, which needs no copy."""
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    with opened(model) as engine:
        rows = list(engine.predict([*photos[:3], bad, *photos[3:12]], batch=12, outputs="logits"))
        assert rows[3].error
        require_right([*rows[:3], *rows[4:]], photos[:12])
    (card,) = [each for each in cards.devices if each.moved]
    assert (card.copies, card.direct) == (3, 1)  # 11 images in two calls, then the last one


def test_ten_crops_are_no_whole_pictures(model: Path, photos: list[Path], cards: Cards) -> None:
    with opened(model) as engine:
        assert len(list(engine.predict(photos[:3], batch=10, ten_crop=True))) == 3
    assert [card.direct for card in cards.devices] == [0, 0]


class TestWithoutRoom:
    def test_pixels_are_decoded_elsewhere(
        self, model: Path, photos: list[Path], cards: Cards, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Small(Watched):
            def allocate_pinned(self, nbytes: int) -> NDArray[np.uint8]:
                if sum(kind == "pinned" for kind, _ in self.live) == 5:  # two of each of two contexts, and one
                    self.last_error = "cudaErrorMemoryAllocation"
                    raise UnavailableError("cudaMallocHost: the system refuses more", "close other programs")
                return super().allocate_pinned(nbytes)

        cards.devices[0] = card = Small()
        with caplog.at_level("INFO", "alexnet_deploy"), opened(model) as engine:
            require_right(list(engine.predict(photos, batch=2, outputs="logits")), photos)
        assert card.last_error == "", "the next library would take it for its own"
        assert 0 < card.direct < card.copies
        assert "the system refuses more" in caplog.text
        assert not card.live

    def test_it_is_not_much_of_the_machine(
        self, model: Path, photos: list[Path], cards: Cards, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory, "MOST_SHARED", 2 * SIDE * SIDE * 3)
        with opened(model) as engine:
            require_right(list(engine.predict(photos, batch=1, outputs="logits")), photos)
        card = cards.devices[0]
        assert 0 < card.direct < card.copies  # type: ignore[attr-defined]  # of Watched


class Gated(Watched):
    """Waits for ``gate`` before it does what is enqueued, unless that is about the pixels ``passes``."""

    def __init__(self, passes: NDArray[np.uint8] | None = None) -> None:
        super().__init__()
        self.waits, self.gate, self._passes = threading.Semaphore(0), threading.Event(), passes

    def synchronize(self, stream: int) -> None:
        if self._passes is None or not all(np.array_equal(each[0], self._passes) for each in self.uploads[stream]):
            self.waits.release()
            assert self.gate.wait(60)
        super().synchronize(stream)


def test_memory_is_kept_when_the_last_file_is_read_until_the_last_call_has_ended(
    model: Path, photos: list[Path], cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards.devices[0] = card = Gated()
    result = SideBySide.result

    def when_all_files_are_read(future: Future[NDArray[np.float32]]) -> NDArray[np.float32]:
        card.gate.set()
        return result(future)

    monkeypatch.setattr(SideBySide, "result", staticmethod(when_all_files_are_read))
    with opened(model) as engine:
        require_right(list(engine.predict(photos[:2], batch=1, outputs="logits")), photos[:2])
    assert card.direct == 2
    assert not card.live


def test_an_early_end_waits_for_the_copies_that_run(
    model: Path, photos: list[Path], cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards.devices[0] = card = Gated(passes=load_pixels(photos[0], TINY_CONTRACT.preprocessing))

    def when_the_end_waits(futures: list[Future[NDArray[np.float32]]]) -> None:
        assert memory._shared
        card.gate.set()
        wait(futures)

    monkeypatch.setattr("alexnet_deploy.inference.predict.wait", when_the_end_waits)
    with opened(model) as engine:
        rows = engine.predict(photos, batch=1, outputs="logits")
        require_right([next(rows)], photos[:1])
        for _ in range(2):
            assert card.waits.acquire(timeout=60)
        rows.close()  # type: ignore[attr-defined]  # a generator
        assert not memory._shared
        assert not card.uploads
    assert not card.live


def test_an_engine_that_is_closed_first_leaves_the_memory_to_the_rows(
    model: Path, photos: list[Path], cards: Cards
) -> None:
    """Decoders may be writing into it."""
    engine = opened(model)
    with closing(engine.predict(photos, batch=1)) as rows:  # type: ignore[type-var]  # a generator
        next(rows)
        engine.close()
        assert memory._shared
        with pytest.raises(UsageError, match="is closed"):
            list(rows)
    assert not cards.devices[0].live


@pytest.mark.parametrize("device", [None, 1])
def test_a_gpu_that_is_lost_keeps_its_own_error(device: Any, model: Path, photos: list[Path], cards: Cards) -> None:
    with opened(model, device=device) as engine:
        rows = engine.predict(photos, batch=1)
        next(rows)
        for card in cards.devices:
            card.lost = True
        with pytest.raises(UnavailableError, match="the GPU stopped working in this process"):
            list(rows)
        for card in cards.devices:
            card.lost = False


def test_a_call_that_fails_has_read_its_pixels(model: Path, cards: Cards) -> None:
    """They may be freed right afterwards, which a copy that still waits would read."""
    with opened(model) as engine, ExitStack() as owner:
        assert engine.make_pixels is not None
        pixels = engine.make_pixels(owner, (2, SIDE, SIDE, 3))
        pixels[:] = 5
        card = cards.devices[0]
        card.fail_at = len(card.calls) + 1  # the upload is enqueued, and the call after it fails
        with pytest.raises(UnavailableError, match="injected"):
            engine(pixels)
        owner.close()
        assert not card.uploads


def test_what_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as owner:
        whole = shared_pixels(FakeDevice(), owner, (4, 2, 2, 3))
        assert is_shared(whole)
        assert is_shared(whole[1:3])
        assert not is_shared(whole[:, :1])
        assert not is_shared(whole[[0, 1]])
        assert not is_shared(np.zeros((4, 2, 2, 3), np.uint8))
        assert not is_shared(np.concatenate([whole, whole]))
    assert not is_shared(whole)
