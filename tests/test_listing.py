"""ImageNet's own layout: one flat validation folder, and the lists of labels that are around for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CLASSES, save_photo

from alexnet_deploy.errors import InputError
from training.__main__ import main
from training.listing import is_flat, list_flat, splits_below

IDS = tuple(CLASSES)
LISTS = {
    "LOC_val_solution.csv": "ImageId,PredictionString\nILSVRC_2,n03_blue 1 2 3 4\n"
    "ILSVRC_0,n01_red 1 2 3 4 n01_red 5 6 7 8\nILSVRC_1,n01_red 9 9 9 9\n",
    "val.txt": "ILSVRC_0.JPEG 0\nILSVRC_1.JPEG 0\nILSVRC_2.JPEG 2\n",
    "imagenet_2012_validation_synset_labels.txt": "n01_red\nn01_red\nn03_blue\n",
}


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    folder = tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "val"
    for i in range(3):
        save_photo(folder / f"ILSVRC_{i}.JPEG", (9, 9, 9), i)
    return folder


@pytest.mark.parametrize("name", LISTS)
def test_each_list_gives_the_same_classes_whether_named_or_found(flat: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(LISTS[name])
    for labels in (None, tmp_path / name):
        listing = list_flat(flat, IDS, labels)
        assert [file.name for file in listing.files] == ["ILSVRC_0.JPEG", "ILSVRC_1.JPEG", "ILSVRC_2.JPEG"]
        assert listing.targets == (0, 0, 2)
        assert listing.class_ids == IDS


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ILSVRC_0.JPEG 0\n", "says nothing of ILSVRC_1.JPEG; give the list that belongs to these images"),
        ("n01_red\nn01_red\n", "has 2 lines for 3 images"),
        ("n01_red\nzebra\nn03_blue\n", "ILSVRC_1.JPEG is of class 'zebra', which is not in the training data"),
        ("490\n361\n171\n", "ILSVRC_0.JPEG is of class '490', which is not in the training data"),
        ("", "says nothing of ILSVRC_0.JPEG"),
    ],
)
def test_a_list_that_does_not_fit_is_one_line(flat: Path, tmp_path: Path, text: str, says: str) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text(text)
    with pytest.raises(InputError) as caught:
        list_flat(flat, IDS, labels)
    assert str(caught.value).startswith(f"{labels}: ")
    assert says in str(caught.value)


def test_without_a_list_the_flag_is_named(flat: Path) -> None:
    with pytest.raises(InputError, match=r"holds images and no class folders, and .*--val-labels FILE"):
        list_flat(flat, IDS)


def test_a_list_that_cannot_be_read_is_one_line(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("labels.txt", "nowhere.txt"):
        with pytest.raises(InputError, match="is not a readable list of labels"):
            list_flat(flat, IDS, tmp_path / name)


def test_kaggles_tree_is_found_below_its_root(flat: Path, tmp_path: Path) -> None:
    save_photo(flat.parent / "train" / "n01_red" / "0.JPEG", (200, 0, 0), 0)
    assert splits_below(tmp_path) == (flat.parent / "train", flat)
    assert is_flat(flat)
    assert not is_flat(flat.parent / "train")
    assert splits_below(flat) == (flat, None)


def test_a_run_on_imagenets_layout(photo_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "imagenet"
    root.mkdir()
    (root / "train").symlink_to(photo_folder / "train")
    for i, colour in enumerate(CLASSES.values()):
        save_photo(root / "val" / f"ILSVRC_{i}.JPEG", colour, 50 + i)
    (root / "val.txt").write_text("".join(f"ILSVRC_{i}.JPEG {i}\n" for i in range(3)))
    small = ["--epochs", "1", "--batch", "18", "--workers", "0", "--dense-rank", "4", "--skip-preflight"]
    fast = ["--set", "augment=none", "--set", "sides=[[0, 96]]"]
    with pytest.raises(SystemExit) as caught:
        main([str(root), "--output", str(tmp_path / "run"), *small, *fast])
    assert caught.value.code == 0
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()
