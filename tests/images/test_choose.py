"""Which images calibrate is balanced, repeatable and on record; they never fill the memory; copies are found."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import DeployError, InputError, UsageError
from alexnet_deploy.images import choose
from alexnet_deploy.images.choose import CalibrationSet, choose_images
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.identity.shared import count_copies, image_hashes, refuse_shared_images, shared_images

PRE = Preprocessing(8, 8, "stretch", None)
_grey = itertools.count()


def save(path: Path) -> Path:
    """A small image that no other call made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number = next(_grey)
    Image.new("RGB", (6, 6), (number % 256, number // 256 % 256, number // 65536)).save(path)
    return path


def folder_of(root: Path, **sizes: int) -> Path:
    for name, size in sizes.items():
        for index in range(size):
            save(root / name / f"{index:02}.png")
    return root


def names(chosen: CalibrationSet) -> list[str]:
    return [file.relative_to(chosen.root).as_posix() for file in chosen.files]


def classes(chosen: CalibrationSet) -> Counter[str]:
    return Counter(file.relative_to(chosen.root).parts[0] for file in chosen.files)


class TestChoice:
    def test_classes_take_turns(self, tmp_path: Path) -> None:
        chosen = choose_images(folder_of(tmp_path, ant=10, bee=3, cat=1), count=9)
        assert classes(chosen) == {"ant": 5, "bee": 3, "cat": 1}
        assert [name[:3] for name in names(chosen)[:5]] == ["ant", "bee", "cat", "ant", "bee"]

    @given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4), count=st.integers(1, 25))
    @settings(max_examples=25, deadline=None)
    def test_no_class_has_two_more_than_one_that_had_more_to_give(self, sizes: list[int], count: int) -> None:
        count = min(count, sum(sizes))
        with tempfile.TemporaryDirectory() as root:
            has = {f"class{i}": size for i, size in enumerate(sizes)}
            chosen = choose_images(folder_of(Path(root), **has), count=count)
        got = classes(chosen)
        assert sum(got.values()) == count
        assert max(got.values()) <= 1 + min((got[name] for name in has if got[name] < has[name]), default=max(sizes))

    def test_deeper_folders_belong_to_their_class(self, tmp_path: Path) -> None:
        folder_of(tmp_path, **{"ant/red": 4, "ant/black": 4, "bee": 4})
        assert classes(choose_images(tmp_path, count=6)) == {"ant": 3, "bee": 3}

    def test_a_folder_without_classes(self, tmp_path: Path) -> None:
        files = {save(tmp_path / f"{i}.png").name for i in range(5)}
        assert set(names(choose_images(tmp_path, count=5))) == files

    def test_it_depends_on_seed_and_names_alone(self, tmp_path: Path) -> None:
        here, there = (folder_of(tmp_path / place, ant=8, bee=8) for place in ("here", "there"))
        chosen = choose_images(here, count=6, seed=3)
        assert names(choose_images(there, count=6, seed=3)) == names(chosen)
        assert names(choose_images(here, count=6, seed=4)) != names(chosen)
        assert names(chosen) != sorted(names(chosen))

    def test_more_images_begin_with_the_same(self, tmp_path: Path) -> None:
        folder_of(tmp_path, ant=8, bee=8)
        assert names(choose_images(tmp_path, count=10))[:4] == names(choose_images(tmp_path, count=4))

    def test_the_same_bytes_count_once(self, tmp_path: Path) -> None:
        folder_of(tmp_path, ant=2)
        for copy in ("ant/copy.png", "bee/copy.png"):
            (tmp_path / copy).parent.mkdir(exist_ok=True)
            shutil.copy(tmp_path / "ant" / "00.png", tmp_path / copy)
        chosen = choose_images(tmp_path, count=2)
        assert len(set(chosen.sha256)) == 2
        assert names(choose_images(tmp_path, count=1)) == names(chosen)[:1]  # it stays where it came first

    def test_what_is_no_image_is_passed_over(self, tmp_path: Path) -> None:
        folder_of(tmp_path, ant=2)
        good = names(choose_images(tmp_path, count=2))
        (tmp_path / "ant" / "text.jpg").write_text("not an image")
        (tmp_path / "ant" / "empty.png").touch()
        cut = save(tmp_path / "ant" / "cut.png")
        cut.write_bytes(cut.read_bytes()[:45])
        (tmp_path / "ant" / "gone.png").symlink_to(tmp_path / "nowhere.png")
        (tmp_path / "ant" / "notes.txt").write_text("no image suffix")
        assert set(names(choose_images(tmp_path, count=2))) == set(good)

    def test_a_link_to_an_image_is_one(self, tmp_path: Path) -> None:
        target = save(tmp_path / "elsewhere.png")
        (tmp_path / "data" / "ant").mkdir(parents=True)
        (tmp_path / "data" / "ant" / "link.png").symlink_to(target)
        assert names(choose_images(tmp_path / "data", count=1)) == ["ant/link.png"]


class TestRefused:
    @pytest.mark.parametrize(
        ("name", "count", "error", "cause"),
        [
            ("nowhere", 1, InputError, "nowhere: no such folder; `calibration_data` must be a folder"),
            ("a.png", 1, InputError, "a.png: no such folder"),
            ("empty", 1, InputError, "holds no image"),
            ("damaged", 1, InputError, "holds no readable image"),
            (".", 0, UsageError, "`calibration_images` 0: must be 1 or more"),
            (".", -1, UsageError, "`calibration_images` -1: must be 1 or more"),
        ],
    )
    def test_no_images_or_none_asked_for(
        self, name: str, count: int, error: type[DeployError], cause: str, tmp_path: Path
    ) -> None:
        save(tmp_path / "a.png")
        for folder in ("empty/ant", "damaged"):
            (tmp_path / folder).mkdir(parents=True)
        (tmp_path / "damaged/a.jpg").write_text("not an image")
        with pytest.raises(error, match=cause):
            choose_images(tmp_path / name, count=count)

    def test_fewer_than_asked(self, tmp_path: Path) -> None:
        folder_of(tmp_path, ant=3, bee=2)
        with pytest.raises(InputError, match=r"holds 5 usable images, `calibration_images` requires 6; .* 5$"):
            choose_images(tmp_path, count=6)
        shutil.copy(tmp_path / "ant" / "00.png", tmp_path / "bee" / "copy.png")
        (tmp_path / "bee" / "broken.png").write_text("not an image")
        with pytest.raises(InputError, match=r"holds 5 usable images \(2 more are copies or cannot be decoded\)"):
            choose_images(tmp_path, count=6)
        assert len(choose_images(tmp_path, count=5).files) == 5

    def test_a_class_without_an_image(self, tmp_path: Path) -> None:
        folder_of(tmp_path, ant=3)
        (tmp_path / ".hidden").mkdir()
        (tmp_path / "@eaDir").mkdir()
        assert len(choose_images(tmp_path, count=3).files) == 3
        (tmp_path / "bee").mkdir()
        (tmp_path / "bee" / "notes.txt").write_text("no image")
        with pytest.raises(InputError, match=r"bee: is a class folder without an image; fill it, or remove it"):
            choose_images(tmp_path, count=3)
        save(tmp_path / "beside.png")  # so the folders are no classes
        assert len(choose_images(tmp_path, count=4).files) == 4

    def test_one_level_too_high(self, tmp_path: Path) -> None:
        for split in ("train", "val"):
            folder_of(tmp_path / split, ant=2, bee=2)
        for split in ("train", "val"):
            with pytest.raises(InputError, match=rf"folder '{split}' is not a class, .*: give {tmp_path / split}$"):
                choose_images(tmp_path, count=4)
            assert len(choose_images(tmp_path, count=4, calibrates=False).files) == 4
            shutil.rmtree(tmp_path / split)

    def test_a_class_may_hold_folders_or_be_called_train(self, tmp_path: Path) -> None:
        folder_of(tmp_path, train=2)
        folder_of(tmp_path / "train", old=2)
        folder_of(tmp_path / "plane", old=2, new=2)
        assert classes(choose_images(tmp_path, count=8)) == {"train": 4, "plane": 4}


class TestDigest:
    def test_the_digest_follows_content_and_order_not_the_place(self, tmp_path: Path) -> None:
        folder_of(tmp_path / "here", ant=3)
        shutil.copytree(tmp_path / "here", tmp_path / "there")
        here, there = choose_images(tmp_path / "here", count=3), choose_images(tmp_path / "there", count=3)
        assert here.digest() == there.digest()
        backwards = CalibrationSet(here.root, here.files[::-1], here.sha256[::-1], here.seed)
        assert backwards.digest() != here.digest()
        save(tmp_path / "there" / "ant" / "00.png")
        assert choose_images(tmp_path / "there", count=3).digest() != here.digest()


class TestBatches:
    @pytest.fixture
    def seven(self, tmp_path: Path) -> CalibrationSet:
        return choose_images(folder_of(tmp_path, ant=4, bee=3), count=7)

    @pytest.mark.parametrize("batch", [1, 3, 7, 10])
    def test_the_pixels_of_load_pixels_in_order(self, batch: int, seven: CalibrationSet) -> None:
        batches = list(seven.batches(PRE, batch))
        assert {len(pixels_NHWC) for pixels_NHWC in batches[:-1]} <= {batch}
        together_NHWC = np.concatenate(batches)
        assert together_NHWC.dtype == np.uint8
        np.testing.assert_array_equal(together_NHWC, np.stack([load_pixels(file, PRE) for file in seven.files]))
        np.testing.assert_array_equal(together_NHWC, np.concatenate(list(seven.batches(PRE, batch))))  # a second pass

    def test_images_are_decoded_as_they_are_asked_for(
        self, seven: CalibrationSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decode = Mock(wraps=load_pixels)
        monkeypatch.setattr(choose, "load_pixels", decode)
        batches = seven.batches(PRE, 2)
        for taken in (0, 2, 4, 6, 7):
            assert [call.args[0] for call in decode.call_args_list] == list(seven.files[:taken])
            next(batches, None)

    def test_one_batch_is_in_memory(self, seven: CalibrationSet) -> None:
        pre = Preprocessing(256, 256, "stretch", None)
        image_bytes = 256 * 256 * 3
        many = CalibrationSet(seven.root, seven.files * 6, seven.sha256 * 6, 0)
        tracemalloc.start()
        try:
            assert sum(len(pixels_NHWC) for pixels_NHWC in many.batches(pre, 2)) == 42
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # A batch as single images and as the stack of them, the batch before (which the caller still holds), and
        # one image that Pillow is handing over.
        assert peak_bytes < 9 * image_bytes


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / name for name in ("a", "b", "copy of a", "longer", "dangling")]
    for path, content in zip(paths, (b"1", b"2", b"1", b"345"), strict=False):
        path.write_bytes(content)
    paths[4].symlink_to("nowhere")
    return paths


def test_hashes_are_of_the_content_and_leave_out_what_cannot_be_read(files: list[Path]) -> None:
    found = image_hashes(files)
    assert list(found) == files[:4]
    assert found[files[0]] == found[files[2]] == hashlib.sha256(b"1").hexdigest()
    assert list(image_hashes(files, sizes={3})) == [files[3]]


def test_shared_images_are_found_and_refused(files: list[Path]) -> None:
    shared = shared_images(image_hashes(files), [hashlib.sha256(b"1").hexdigest()])
    assert shared == (files[0], files[2])
    message = rf"^{files[0]}: calibrated it, along with 1 more of these images; give others$"
    with pytest.raises(InputError, match=message):
        refuse_shared_images(shared, "calibrated it", "give others")
    with pytest.raises(InputError, match=rf"^{files[0]}: calibrated it; give others$"):
        refuse_shared_images(shared[:1], "calibrated it", "give others")
    refuse_shared_images((), "calibrated it", "give others")


def test_copies_are_counted(files: list[Path]) -> None:
    os.link(files[3], files[0].with_name("link"))
    assert count_copies(files[:4]) == 1
    assert count_copies([*files[:4], files[0].with_name("link")]) == 2
