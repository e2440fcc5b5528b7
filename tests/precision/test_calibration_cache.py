"""A cached calibration is the one that would be measured, or it is not used."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

from alexnet_deploy.build import engine, typed_onnx
from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.options import EngineOptions
from alexnet_deploy.bundle.manifest import CALIBRATION, MODEL
from alexnet_deploy.images.choose import CalibrationSet, choose_images
from alexnet_deploy.onnx_graph.adopt import adopt
from alexnet_deploy.onnx_graph.import_options import ImportOptions
from alexnet_deploy.precision import calibration_cache
from alexnet_deploy.precision.calibration_cache import CalibrationCache, default_folder
from alexnet_deploy.precision.calibration_record import read_record
from alexnet_deploy.precision.thresholds import BINS, METHODS, Method, Values
from tests.helpers.foreign_models import MEAN, SIDE, STD, foreign_classifier, random_pixels

WEIGHTS = "ab" * 32
RUN: dict[str, Any] = {"preprocessing": {"height": 8}, "images": "cd" * 32, "batch": 16, "tools": {"onnx": "1"}}


def values(seed: int = 0, *, histogram: bool = True) -> dict[str, Values]:
    random = np.random.default_rng(seed)
    return {
        name: Values(-random.random(), random.random(), random.integers(0, 9, BINS) if histogram else None)
        for name in ("x", "relu")
    }


def same(found: dict[str, Values] | None, expected: dict[str, Values]) -> bool:
    return found is not None and all(
        (found[name].lowest, found[name].highest) == (v.lowest, v.highest)
        and np.array_equal(found[name].histogram, v.histogram)  # type: ignore[arg-type]
        for name, v in expected.items()
    )


def load(cache: CalibrationCache, *, histograms: bool = True) -> dict[str, Values] | None:
    return cache.load(WEIGHTS, ("x", "relu"), histograms=histograms)


class TestEntry:
    def test_what_is_saved_is_found(self, tmp_path: Path) -> None:
        cache = CalibrationCache(tmp_path / "new" / "folder", RUN)
        assert load(cache) is None
        cache.save(WEIGHTS, values())
        assert same(load(cache), values())
        assert same(load(cache, histograms=False), values())

    def test_without_histograms_it_serves_max_alone(self, tmp_path: Path) -> None:
        cache = CalibrationCache(tmp_path, RUN)
        cache.save(WEIGHTS, values(histogram=False))
        assert same(load(cache, histograms=False), values(histogram=False))
        assert load(cache) is None
        cache.save(WEIGHTS, values())
        assert same(load(cache), values())
        assert len(list(tmp_path.iterdir())) == 1

    @pytest.mark.parametrize("part", ["preprocessing", "images", "batch", "tools"])
    def test_another_run_is_another_entry(self, part: str, tmp_path: Path) -> None:
        CalibrationCache(tmp_path, RUN).save(WEIGHTS, values())
        assert load(CalibrationCache(tmp_path, RUN | {part: "other"})) is None

    def test_other_weights_tensors_or_bins_are_another_entry(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = CalibrationCache(tmp_path, RUN)
        cache.save(WEIGHTS, values())
        assert cache.load("cd" * 32, ("x", "relu"), histograms=True) is None
        assert cache.load(WEIGHTS, ("x",), histograms=True) is None
        monkeypatch.setattr(calibration_cache, "BINS", 128)
        assert load(cache) is None

    def test_an_entry_under_the_name_of_another_is_not_used(self, tmp_path: Path) -> None:
        """Whoever renames a file, or finds two keys of one hash, gains nothing."""
        mine, other = CalibrationCache(tmp_path / "mine", RUN), CalibrationCache(tmp_path / "other", RUN | {"batch": 1})
        mine.save(WEIGHTS, values())
        other.save(WEIGHTS, values())
        (entry,), (target,) = (tmp_path / "mine").iterdir(), (tmp_path / "other").iterdir()
        target.write_bytes(entry.read_bytes())
        assert same(load(mine), values())
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
        assert same(load(cache), values(1))

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
    assert any(same(load(cache), values(seed)) for seed in (1, 2))
    assert len(list(tmp_path.iterdir())) == 1


def test_it_lies_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path))
    assert default_folder() == tmp_path / "calibration"
    monkeypatch.delenv("ALEXNET_DEPLOY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "alexnet-deploy" / "calibration"

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert default_folder() is None


@pytest.fixture
def images(tmp_path: Path) -> CalibrationSet:
    for i, pixels_HWC in enumerate(random_pixels(6, 20)):
        (tmp_path / "images" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels_HWC).save(tmp_path / "images" / "ab"[i % 2] / f"{i}.png")
    return choose_images(tmp_path / "images", count=4)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each pass that decodes any."""
    counted: list[int] = []
    genuine = CalibrationSet.batches

    def batches(self: CalibrationSet, *args: Any, **kwargs: Any) -> Iterator[NDArray[np.uint8]]:
        counted.append(len(self.files))
        yield from genuine(self, *args, **kwargs)

    monkeypatch.setattr(CalibrationSet, "batches", batches)
    # No plan: what calibrates is the same with and without.
    monkeypatch.setattr(engine, "installed", dict)
    return counted


class TestBuild:
    """Through build_engine, so that the key's parts are those that really feed the run."""

    @pytest.fixture
    def build(self, tmp_path: Path, images: CalibrationSet) -> Callable[..., tuple[bytes, str]]:
        source = foreign_classifier(tmp_path / "net.onnx")

        def run(
            method: Method = "mse",
            chosen: CalibrationSet = images,
            source: Path = source,
            folder: Path | None = tmp_path / "cache",
            **options: Any,
        ) -> tuple[bytes, str]:
            """The typed ONNX and the manifest's notes."""
            given = EngineOptions(
                options.pop("precision", "int8"),
                calibration=chosen,
                method=method,
                import_options=ImportOptions(MEAN, STD),
                calibration_cache=folder,
                **options,
            )
            manifest = build_engine(source, tmp_path / "out", given)
            return (tmp_path / "out" / MODEL).read_bytes(), " ".join(manifest.notes)

        return run

    def test_the_second_run_reads_no_image_and_says_so(
        self, build: Callable[..., tuple[bytes, str]], passes: list[int], tmp_path: Path
    ) -> None:
        first, notes = build()
        assert passes == [4, 4]
        assert "cache" not in notes
        record = read_record(tmp_path / "out" / CALIBRATION)
        second, notes = build()
        assert passes == [4, 4]
        assert "values of the 4 images come from the cache" in notes
        assert second == first
        assert read_record(tmp_path / "out" / CALIBRATION) == record

    def test_without_a_folder_nothing_is_kept(
        self, build: Callable[..., tuple[bytes, str]], passes: list[int], tmp_path: Path
    ) -> None:
        for _ in range(2):
            build(folder=None)
        assert len(passes) == 4
        assert not (tmp_path / "cache").exists()

    def test_one_run_serves_every_method_type_and_exclusion(
        self, build: Callable[..., tuple[bytes, str]], passes: list[int]
    ) -> None:
        build("entropy")
        done = len(passes)
        variants: list[dict[str, Any]] = [{"exclude": "Conv_0"}, {"precision": "int8+fp16"}]
        for options in (*variants, *({"method": method} for method in METHODS)):
            cached, _ = build(**options)
            assert len(passes) == done
            measured, _ = build(**options, folder=None)
            assert cached == measured
            del passes[done:]
        # The 99.99th percentile of so few numbers is their maximum.
        assert len({build(method)[0] for method in ("max", "entropy", "mse")}) == 3, "a method still decides"

    def test_max_looks_once_and_so_serves_no_other_method(
        self, build: Callable[..., tuple[bytes, str]], passes: list[int]
    ) -> None:
        build("max")
        assert len(passes) == 1
        build("max")
        assert len(passes) == 1
        build("entropy")
        assert len(passes) == 3

    @pytest.mark.parametrize(
        "part", ["weight", "pixel rule", "image", "order", "number", "own version", "onnxruntime", "bins"]
    )
    def test_whatever_changes_is_measured_anew(
        self,
        part: str,
        build: Callable[..., tuple[bytes, str]],
        passes: list[int],
        images: CalibrationSet,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        build()
        changed: dict[str, Any] = {}
        if part == "weight":
            model = onnx.load(tmp_path / "net.onnx")
            tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
            array = numpy_helper.to_array(tensor).copy()
            array.flat[0] = np.nextafter(array.flat[0], np.float32(9))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            changed["source"] = tmp_path / "changed.onnx"
            onnx.save(model, changed["source"])
        elif part == "pixel rule":

            def with_another_rule(*args: Any) -> Any:
                contract = adopt(*args)
                pre = dataclasses.replace(contract.preprocessing, resize_to=SIDE)
                return dataclasses.replace(contract, preprocessing=pre)

            monkeypatch.setattr(engine, "adopt", with_another_rule)
        elif part == "image":
            Image.new("RGB", (9, 9), "red").save(images.files[2])
            changed["chosen"] = dataclasses.replace(
                images, sha256=(*images.sha256[:2], hashlib.sha256(b"").hexdigest(), images.sha256[3])
            )
        elif part == "order":
            changed["chosen"] = dataclasses.replace(images, files=images.files[::-1], sha256=images.sha256[::-1])
        elif part == "number":
            changed["chosen"] = dataclasses.replace(images, files=images.files[:3], sha256=images.sha256[:3])
        elif part == "own version":
            monkeypatch.setattr(typed_onnx, "__version__", "99")
        elif part == "onnxruntime":
            version = metadata.version
            monkeypatch.setattr(metadata, "version", lambda name: version(name) + name[4:])
        else:
            monkeypatch.setattr(calibration_cache, "BINS", 1024)
        before = len(passes)
        _, notes = build(**changed)
        assert len(passes) == before + 2
        assert "cache" not in notes
        assert len(list((tmp_path / "cache").iterdir())) == 2

    def test_a_damaged_entry_is_measured_anew_and_written_again(
        self, build: Callable[..., tuple[bytes, str]], passes: list[int], tmp_path: Path
    ) -> None:
        first, _ = build()
        (entry,) = (tmp_path / "cache").iterdir()
        whole = entry.read_bytes()
        entry.write_bytes(whole[: len(whole) // 2])
        assert build()[0] == first
        assert len(passes) == 4
        assert entry.read_bytes() == whole
