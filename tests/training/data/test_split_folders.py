"""Which folders are splits and which are classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_deploy.errors import InputError
from tests.helpers.command import Command
from tests.helpers.photos import save_photo
from training.data.lists.listing import list_class_folders
from training.data.lists.splits import list_splits
from training.loop.run import Run


def fill(root: Path, *folders: str, photos: int = 3) -> Path:
    """One colour per folder; each photo is another one."""
    for number, folder in enumerate(folders):
        for index in range(photos):
            save_photo(root / folder / f"{index}.jpg", (80 * number % 256, 90, 200), 100 * number + index)
    return root


def names(root: Path) -> tuple[tuple[str, ...], set[str], set[str], tuple[str, ...]]:
    """Classes, the folders of the training and of the validation images, and the notes."""
    train, val = list_splits(root)
    folders = [{str(file.parent.relative_to(root)) for file in images.files} for images in (train, val)]
    return train.class_ids, folders[0], folders[1], train.notes


@pytest.mark.parametrize(("train", "val"), [
    ("train", "val"), ("Train", "Val"), ("TRAIN", "VALID"), ("training", "validation"), ("train", "valid"),
])  # fmt: skip
def test_the_usual_spellings_are_splits_and_unusual_ones_are_named(tmp_path: Path, train: str, val: str) -> None:
    fill(tmp_path, f"{train}/cat", f"{train}/dog", f"{val}/cat", f"{val}/dog")
    notes = []
    if train != "train":
        notes.append(f"{tmp_path / train}: taken as the training images")
    if val != "val":
        notes.append(f"{tmp_path / val}: taken as the validation images")
    train_folders, val_folders = {f"{train}/cat", f"{train}/dog"}, {f"{val}/cat", f"{val}/dog"}
    assert names(tmp_path) == (("cat", "dog"), train_folders, val_folders, tuple(notes))


def test_what_is_not_used_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat", "train/dog", "test/cat", "plane")
    _, train, val, notes = names(tmp_path)
    assert train == val == {"train/cat", "train/dog"}
    assert notes == (
        "test: not used; to validate on it, give it with `val`",
        f"plane in {tmp_path}: not used, as the images for training are in train/",
    )


def test_beside_classes_a_folder_of_photos_called_train_is_a_class(tmp_path: Path) -> None:
    fill(tmp_path, "bus", "plane", "train", "test")
    classes, train, _, notes = names(tmp_path)
    assert classes == ("bus", "plane", "test", "train")
    assert train == set(classes)
    assert notes == (f"{tmp_path / 'test'}: taken as a class of that name; a split holds one folder per class",)


def test_images_without_class_folders_are_a_split_beside_one_of_classes(tmp_path: Path) -> None:
    """ImageNet's validation images, beside a folder of something else."""
    fill(tmp_path, "train/cat", "train/dog", "val", "devkit", photos=2)
    (tmp_path / "val.txt").write_text("0.jpg cat\n1.jpg dog\n")
    assert names(tmp_path)[2] == {"val"}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/a", "Train/a", "val/a"), "Train, train are both called like the train split; rename or remove one"),
        (("train/a", "train/b", "val/a", "valid/a"), "val, valid are both called like the val split; rename or"),
        (("val/a", "val/b", "test/a", "test/b"), "has val/ and no train/, so it is not clear which images are for"),
        (("Valid/a", "plane"), "has Valid/ and no train/, so it is not clear which images are for training; give"),
        (("train", "val"), "class folders: 0, a classifier needs 2"),  # of images without classes
        (("train", "test"), "class folders: 0, a classifier needs 2"),
        (("cat/train", "cat/val", "dog/train", "dog/val"), "cat: class folder with a train/ of its own, whose images"),
        (("cat/Valid", "dog/more"), "cat: class folder with a Valid/ of its own, whose images would be mixed; put the"),
    ],
)
def test_what_could_be_meant_in_two_ways_is_refused(tmp_path: Path, folders: tuple[str, ...], message: str) -> None:
    fill(tmp_path, *folders)
    with pytest.raises(InputError) as caught:
        list_splits(tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_class_of_several_folders_is_named_one_of_a_single_folder_is_usual(tmp_path: Path) -> None:
    fill(tmp_path, "animals/cat", "animals/dog", "cars/images")
    images = list_class_folders(tmp_path)
    assert images.class_ids == ("animals", "cars")
    assert images.notes == (
        f"{tmp_path / 'animals'}: holds 2 folders and no image, and all of them are the class 'animals' (cat, dog); if "
        "those are the classes, put them into one folder",
    )


def test_the_command_says_so_before_the_run(cli: Command, planned: list[Run], tmp_path: Path) -> None:
    fill(tmp_path / "data", "Train/cat", "Train/dog", "Validation/cat", "Validation/dog", "Test/cat")
    data = tmp_path / "data"
    result = cli("train", data, "--output", tmp_path / "run", "--batch", 2, "--workers", 0)
    assert result.err.splitlines()[:3] == [
        f"{data / 'Train'}: taken as the training images",
        f"{data / 'Validation'}: taken as the validation images",
        "Test: not used",
    ]
    assert (len(planned[0].train.files), len(planned[0].val.files)) == (6, 6)
