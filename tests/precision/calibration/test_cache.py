"""A cached calibration is the one that would be measured, or it is not used."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.precision.calibration import cache as calibration_cache
from alexnet_deploy.precision.calibration.cache import CalibrationCache, default_folder
from alexnet_deploy.precision.calibration.thresholds import BINS, TensorRange

WEIGHTS = "ab" * 32
RUN: dict[str, Any] = {"preprocessing": {"height": 8}, "images": "cd" * 32, "batch": 16, "tools": {"onnx": "1"}}


def values(seed: int = 0) -> dict[str, TensorRange]:
    random = np.random.default_rng(seed)
    return {n: TensorRange(-random.random(), random.random(), random.integers(0, 9, BINS)) for n in ("x", "relu")}


def plain(found: dict[str, TensorRange] | None) -> object:
    """Ranges that can be compared."""
    return found and {n: (r.lowest, r.highest, np.asarray(r.histogram).tolist()) for n, r in found.items()}


def load(cache: CalibrationCache, *, histograms: bool = True) -> dict[str, TensorRange] | None:
    return cache.load(WEIGHTS, ("x", "relu"), histograms=histograms)


class TestEntry:
    def test_what_is_saved_is_found(self, tmp_path: Path) -> None:
        cache = CalibrationCache(tmp_path / "new" / "folder", RUN)
        assert load(cache) is None
        cache.save(WEIGHTS, values())
        assert plain(load(cache)) == plain(values())
        assert plain(load(cache, histograms=False)) == plain(values())

    def test_another_key_is_another_entry(self, tmp_path: Path) -> None:
        cache = CalibrationCache(tmp_path, RUN)
        cache.save(WEIGHTS, values())
        assert load(CalibrationCache(tmp_path, RUN | {"batch": 1})) is None
        assert cache.load("cd" * 32, ("x", "relu"), histograms=True) is None
        assert cache.load(WEIGHTS, ("x",), histograms=True) is None

    def test_an_entry_under_the_name_of_another_is_not_used(self, tmp_path: Path) -> None:
        """Whoever renames a file, or finds two keys of one hash, gains nothing."""
        mine, other = CalibrationCache(tmp_path, RUN), CalibrationCache(tmp_path, RUN | {"batch": 1})
        mine.save(WEIGHTS, values())
        (entry,) = tmp_path.iterdir()
        other.save(WEIGHTS, values())
        (target,) = set(tmp_path.iterdir()) - {entry}
        target.write_bytes(entry.read_bytes())
        assert load(other) is None


class TestDamage:
    @given(data=st.data())
    def test_any_changed_byte_counts_as_no_entry(
        self, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        cache = CalibrationCache(tmp_path_factory.mktemp("cache"), RUN)
        cache.save(WEIGHTS, values())
        (entry,) = cache.folder.iterdir()
        text = bytearray(entry.read_bytes())
        position = data.draw(st.integers(0, len(text) - 1))
        text[position] ^= data.draw(st.integers(1, 255))
        cut = data.draw(st.sampled_from([len(text), position]))
        entry.write_bytes(text[:cut])
        assert load(cache) is None
        cache.save(WEIGHTS, values(1))
        assert plain(load(cache)) == plain(values(1))

    @pytest.mark.parametrize(
        "row",
        [
            None,
            [1, 2],
            [2, 1, None],
            [1, float("nan"), None],
            [1, "2", None],
            [1, 2, [1, 2]],
            [1, 2, [0] * BINS],
            [1, 2, [-1] * BINS],
            [1, 2, [0.5] * BINS],
            [1, 2, [2**70] * BINS],
        ],
    )
    def test_values_that_no_run_gives_are_not_used(self, row: object, tmp_path: Path) -> None:
        """With a checksum that fits: a file of someone who knows how."""
        cache = CalibrationCache(tmp_path, RUN)
        cache.save(WEIGHTS, values())
        (entry,) = tmp_path.iterdir()
        content = json.loads(entry.read_bytes().partition(b"\n")[2])
        content["values"]["relu"] = row
        raw = json.dumps(content).encode()
        entry.write_bytes(hashlib.sha256(raw).hexdigest().encode() + b"\n" + raw)
        assert load(cache) is None

    def test_a_large_file_is_not_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cache = CalibrationCache(tmp_path, RUN)
        cache.save(WEIGHTS, values())
        monkeypatch.setattr(calibration_cache, "MAX_ENTRY_BYTES", 1000)
        assert load(cache) is None

    def test_a_cache_that_cannot_be_written_is_done_without(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        cache = CalibrationCache(tmp_path / "file" / "cache", RUN)
        cache.save(WEIGHTS, values())
        assert load(cache) is None


def _save_often(folder: Path, seed: int) -> None:
    for _ in range(20):
        CalibrationCache(folder, RUN).save(WEIGHTS, values(seed))


def test_processes_that_write_at_once_leave_a_whole_entry(tmp_path: Path) -> None:
    cache = CalibrationCache(tmp_path, RUN)
    cache.save(WEIGHTS, values(0))
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_save_often, args=(tmp_path, seed)) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert load(cache) is not None
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert plain(load(cache)) in [plain(values(seed)) for seed in (1, 2)]
    assert len(list(tmp_path.iterdir())) == 1


def test_it_lies_in_the_users_cache_if_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path))
    assert default_folder() == tmp_path / "calibration"

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("ALEXNET_DEPLOY_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert default_folder() is None
