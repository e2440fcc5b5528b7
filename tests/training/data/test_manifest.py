"""A data set as a CSV file, and lists of images to leave out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alexnet_deploy.errors import DeployError, InputError, UsageError
from tests.helpers.photos import CLASSES
from training.data.lists.exclude import exclude_images
from training.data.lists.listing import find_splits, list_class_folders, list_val_images
from training.data.lists.splits import list_splits

IDS = tuple(CLASSES)


@pytest.fixture
def photos(photo_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(photo_folder, tmp_path / "photos"))


def write(photos: Path, *, header: str = "file,label,split", separator: str = ",", bom: str = "") -> Path:
    """A manifest of all photos; the split is that of their folder."""
    lines = [bom + header.replace(",", separator)]
    for file in sorted(photos.glob("*/*/*.jpg")):
        split, label, _ = file.relative_to(photos).parts
        cells = {"file": str(file.relative_to(photos)), "label": label, "split": split, "size": "7"}
        lines.append(separator.join(cells[name.strip().lower()] for name in header.split(",")))
    path = photos / "labels.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("header", "separator", "bom"),
    [("file,label,split", ",", ""), ("Split,size,Label, file", ";", "\ufeff"), ("label,file,split", "\t", "")],
)
def test_it_lists_what_the_folders_hold(photos: Path, header: str, separator: str, bom: str) -> None:
    manifest = write(photos, header=header, separator=separator, bom=bom)
    assert find_splits(manifest) == (manifest, manifest, ())
    train, val = list_splits(manifest)
    for images, folder in ((train, list_class_folders(photos / "train")), (val, list_class_folders(photos / "val"))):
        assert (images.class_ids, images.files, images.targets) == (folder.class_ids, folder.files, folder.targets)


def test_without_splits_a_seeded_share_is_held_out_and_evaluation_takes_all(photos: Path) -> None:
    manifest = write(photos, header="file,label")
    train, val = list_splits(manifest)
    assert (len(train.files), len(val.files)) == (18, 6)  # two of eight per class: a fifth, as they are few
    assert len(list_val_images(manifest, IDS).files) == 24


def test_a_split_has_the_names_that_folders_have(photos: Path) -> None:
    manifest = write(photos)
    before = [images.files for images in list_splits(manifest)]
    text = manifest.read_text()
    for train, val in (("Train", "Valid"), ("training", "VALIDATION")):
        manifest.write_text(text.replace(",train", f",{train}").replace(",val", f",{val}"))
        assert [images.files for images in list_splits(manifest)] == before


def test_its_digest_depends_on_the_labels(photos: Path) -> None:
    manifest = write(photos)
    before = list_splits(manifest)[0].digest()
    text = manifest.read_text()
    manifest.write_text(text.replace("red/0.jpg,n01_red", "red/0.jpg,n03_blue"))
    assert list_splits(manifest)[0].digest() != before


def test_a_path_may_lead_out_of_its_folder(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    files = list_class_folders(photos / "train").files
    rows = [f"{files[0]},a", f"{os.path.relpath(files[6], tmp_path / 'lists')},b"]
    path = tmp_path / "lists" / "labels.CSV"
    path.write_text("\n".join(["file,label", *rows]))
    images = list_class_folders(path)
    assert [os.path.realpath(file) for file in images.files] == [os.path.realpath(files[i]) for i in (0, 6)]
    assert len(images.digest()) == 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'file' in its first line; begin with file,label"),
        ("file,class\na.jpg,x", "has no column 'label' in its first line"),
        ("file,label,file\na.jpg,x,b.jpg", "has two columns 'file'; remove one"),
        ("file,label\n\n", "lists no image; write one line per image"),
        ("file,label\na.jpg", "line 2 has no label; add it, or remove the line"),
        ("file,label\n\n,x", "line 3 has no file; add it"),
        ("file,label,split\na.jpg,x,test", "line 2 has the split 'test'; write train or val, or remove the line"),
        ("file,label\nHERE,x\nmissing/1.jpg,x\n2.jpg,y", "line 3: "),
        ("file,label\nHERE,x\nmissing/1.jpg,x\n2.jpg,y", "missing/1.jpg: no such file (2 of 3 are missing); paths are"),
        ("file,label\nHERE,x", "classes for training: 1, a classifier needs 2"),
        (
            "file,label,split\nHERE,x,train\nHERE,y,train\nval/n01_red/0.jpg,z,val",
            "class 'z' is not in the training data",
        ),
        ("file,label\nHERE,\x1b[31m", "cannot be printed; rename it"),
        ('file,label\nHERE,x,"y\nz', "classes for training: 1"),
        ('file,label\nHERE,"te\nnch"', "line 3: label 'te\\nnch' cannot be printed; rename it"),
        ("file,label\nHERE,te\u2028nch", "label 'te\\u2028nch' cannot be printed; rename it"),
        (
            "file,label,split\nHERE,x,val\n./train/../HERE,x,train",
            "is in both splits (line 2 has it as val), so validation would include a training image; remove one",
        ),
        ("file,label,split\nHERE,x,validation\nHERE,x,training", "is in both splits (line 2 has it as val)"),
    ],
)
def test_what_is_wrong_is_one_line(photos: Path, text: str, message: str) -> None:
    path = photos / "labels.csv"
    path.write_text(text.replace("HERE", "train/n01_red/0.jpg"))
    with pytest.raises(InputError) as caught:
        list_splits(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_manifest_that_is_no_text_or_no_file(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"file,label\n\xff\xfe,x")
    with pytest.raises(InputError, match="is not a readable CSV file"):
        list_splits(tmp_path / "labels.csv")
    with pytest.raises(InputError, match="is not a readable CSV file"):
        list_splits(tmp_path / "none.csv")
    with pytest.raises(UsageError, match=r"`val_labels` .*has labels of its own"):
        list_val_images(tmp_path / "labels.csv", IDS, tmp_path / "val.txt")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.text(alphabet="file,label split\n\"';\t/.x\x00\r", max_size=60))
def test_any_text_is_a_list_or_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.csv"
    path.write_text(f"file,label\n{text}", encoding="utf-8", newline="")
    try:
        list_class_folders(path)
    except DeployError as exc:
        assert str(exc).isprintable()


class TestExclude:
    def test_each_spelling_of_a_path_leaves_its_image_out(self, photos: Path, tmp_path: Path) -> None:
        listing = tmp_path / "exclude.txt"
        absolute = photos / "val" / "n02_green" / "1.jpg"
        listing.write_text(f"# blurred\n\ntrain/n01_red/0.jpg\n n03_blue/5.jpg \n{absolute}\n./train/n01_red/0.jpg\n")
        train, val = list_splits(photos, exclude=listing)
        before = list_splits(photos)
        gone = {*before[0].files, *before[1].files} - {*train.files, *val.files}
        assert gone == {photos / "train/n01_red/0.jpg", photos / "train/n03_blue/5.jpg", absolute}
        assert train.targets == (0,) * 5 + (1,) * 6 + (2,) * 5

    def test_a_byte_order_mark_is_no_part_of_the_first_path(self, photos: Path, tmp_path: Path) -> None:
        listing = tmp_path / "exclude.txt"
        listing.write_text("train/n01_red/0.jpg\n", encoding="utf-8-sig")
        assert len(list_splits(photos, exclude=listing)[0].files) == 17

    @pytest.mark.parametrize("splits", [True, False])
    def test_a_class_is_not_left_out_whole(self, photos: Path, tmp_path: Path, splits: bool) -> None:
        """Its output would stay in the network, without an image to learn from."""
        listing, data = tmp_path / "exclude.txt", photos if splits else photos / "train"
        listing.write_text("\n".join(map(str, (photos / "train" / "n03_blue").iterdir())))
        with pytest.raises(InputError) as caught:
            list_splits(data, exclude=listing)
        assert str(caught.value) == (
            f"`exclude` {listing}: leaves no training image of class 'n03_blue'; remove some of its lines, or take the "
            f"class out of {data}"
        )

    def test_the_validation_split_is_not_left_out_whole(self, photos: Path, tmp_path: Path) -> None:
        listing = tmp_path / "exclude.txt"
        listing.write_text("\n".join(map(str, (photos / "val").glob("*/*"))))
        with pytest.raises(InputError) as caught:
            list_splits(photos, exclude=listing)
        expected = (
            f"`exclude` {listing}: leaves no validation image; remove some of its lines, or give other images as `val`"
        )
        assert str(caught.value) == expected

    def test_an_image_of_a_manifest(self, photos: Path, tmp_path: Path) -> None:
        listing = tmp_path / "exclude.txt"
        listing.write_text("train/n01_red/0.jpg\n")
        assert len(list_splits(write(photos), exclude=listing)[0].files) == 17

    def test_a_line_that_names_no_image_is_refused(self, photos: Path, tmp_path: Path) -> None:
        listing = tmp_path / "exclude.txt"
        listing.write_text("train/n01_red/0.jpg\ntrain/n01_red/99.jpg\nnothing\n")
        with pytest.raises(InputError, match=r"line 2, 'train/n01_red/99.jpg', is no image of .*\(2 such lines\)"):
            list_splits(photos, exclude=listing)
        with pytest.raises(InputError, match=r"`exclude` .*none.txt: is not a readable list"):
            exclude_images(photos, tmp_path / "none.txt", list_class_folders(photos / "train"))
