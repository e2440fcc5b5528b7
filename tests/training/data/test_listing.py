"""Class folders and seeded splits; ImageNet's own layout is in ``test_imagenet_layout``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from alexnet_deploy.errors import InputError, UsageError
from tests.helpers.photos import CLASSES, save_photo
from training.data.listing import ImageList, list_class_folders, train_val_split


class TestClassFolders:
    def test_classes_and_files_come_sorted_with_their_targets(self, photo_folder: Path) -> None:
        images = list_class_folders(photo_folder / "train")
        assert images.class_ids == tuple(CLASSES)
        assert images.targets == 6 * (0,) + 6 * (1,) + 6 * (2,)
        assert [file.name for file in images.files[:6]] == [f"{k}.jpg" for k in range(6)]

    def test_a_validation_folder_may_lack_a_class(self, photo_folder: Path, tmp_path: Path) -> None:
        shutil.copytree(photo_folder / "val" / "n03_blue", tmp_path / "n03_blue")
        assert list_class_folders(tmp_path, class_ids=tuple(CLASSES)).targets == (2, 2)

    def test_hidden_files_and_other_files_are_left_out(self, photo_folder: Path, tmp_path: Path) -> None:
        shutil.copytree(photo_folder / "val", tmp_path / "val")
        for name in ("notes.txt", "._0.jpg", "sub/2.JPG"):
            save_photo(tmp_path / "x.jpg", (0, 0, 0), 0)
            (tmp_path / "val" / "n01_red" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "x.jpg").rename(tmp_path / "val" / "n01_red" / name)
        (tmp_path / "val" / ".cache").mkdir()
        files = list_class_folders(tmp_path / "val").files
        assert [str(file.relative_to(tmp_path / "val")) for file in files[:3]] == [
            "n01_red/0.jpg", "n01_red/1.jpg", "n01_red/sub/2.JPG",
        ]  # fmt: skip
        assert len(files) == 7

    def test_the_digest_depends_on_the_names_and_not_on_the_place(self, photo_folder: Path, tmp_path: Path) -> None:
        here = list_class_folders(photo_folder / "val").digest(photo_folder / "val")
        shutil.copytree(photo_folder / "val", tmp_path / "moved")
        assert list_class_folders(tmp_path / "moved").digest(tmp_path / "moved") == here
        (tmp_path / "moved" / "n01_red" / "0.jpg").unlink()
        assert list_class_folders(tmp_path / "moved").digest(tmp_path / "moved") != here

    def test_a_file_name_that_is_no_text_has_a_digest(self, tmp_path: Path) -> None:
        ImageList(("a",), (tmp_path / "\udcff.jpg",), (0,)).digest(tmp_path)

    @pytest.mark.parametrize(
        ("folders", "class_ids", "message"),
        [
            ([], None, "class folders: 0, a classifier needs 2"),
            (["a"], None, "class folders: 1, a classifier needs 2"),
            (["a", "b\udcff"], None, r"class folder 'b\udcff' has a name that cannot be printed; rename it"),
            (["a", "b"], ("a", "c"), "class 'b' is not in the training data; rename or remove the folder"),
            ([], ("a", "c"), "holds no class folder"),
        ],
    )
    def test_folders_that_are_no_classes_are_refused(
        self, tmp_path: Path, folders: list[str], class_ids: tuple[str, ...] | None, message: str
    ) -> None:
        for name in folders:
            save_photo(tmp_path / name / "0.jpg", (0, 0, 0), 0)
        with pytest.raises(InputError) as caught:
            list_class_folders(tmp_path, class_ids=class_ids)
        assert str(caught.value).startswith(f"{tmp_path}: ")
        assert message in str(caught.value)

    def test_a_class_without_images_and_a_missing_folder_are_refused(self, tmp_path: Path) -> None:
        save_photo(tmp_path / "a" / "0.jpg", (0, 0, 0), 0)
        (tmp_path / "b").mkdir()
        with pytest.raises(InputError, match=r"/b: holds no image"):
            list_class_folders(tmp_path)
        with pytest.raises(InputError, match=r"nothing: no such folder; give one that holds one folder of images per"):
            list_class_folders(tmp_path / "nothing")


class TestSplit:
    @pytest.fixture
    def images(self, photo_folder: Path) -> ImageList:
        return list_class_folders(photo_folder / "train")

    def test_it_holds_out_a_share_of_each_class_without_overlap(self, images: ImageList) -> None:
        train, val = train_val_split(images, 0.34, seed=0)
        assert [val.targets.count(k) for k in range(3)] == [2, 2, 2]
        assert sorted((*train.files, *val.files)) == sorted(images.files)
        assert all(file.parent.name == val.class_ids[k] for file, k in zip(val.files, val.targets, strict=True))
        assert train_val_split(images, 0.34, seed=0) == (train, val)
        assert train_val_split(images, 0.34, seed=1) != (train, val)

    def test_both_parts_have_an_image_of_each_class(self, images: ImageList) -> None:
        assert len(train_val_split(images, 0.01, seed=0)[1].files) == 3
        assert set(train_val_split(images, 0.99, seed=0)[0].targets) == {0, 1, 2}

    @pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
    def test_a_share_out_of_range_is_refused(self, images: ImageList, share: float) -> None:
        with pytest.raises(UsageError, match="`val_share`"):
            train_val_split(images, share, seed=0)

    def test_a_class_of_one_image_is_refused(self, tmp_path: Path) -> None:
        for name in ("a/0.jpg", "b/0.jpg", "b/1.jpg"):
            save_photo(tmp_path / name, (0, 0, 0), 0)
        with pytest.raises(InputError, match=r"class 'a' has one image and a split needs 2; add images, or give `val`"):
            train_val_split(list_class_folders(tmp_path), 0.1, seed=0)
