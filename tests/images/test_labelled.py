"""Which class a folder means, in every naming, and the message where it means none."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import InputError
from alexnet_deploy.images.labelled import list_labelled

IDS = ("n01", "n02", "n03", "n04", "n05")
LABELS = ("tench", "golden retriever", "crane", "garbage truck", "crane")  # ImageNet has two cranes
CONTRACT = ModelContract("birds", LABELS, IDS, Preprocessing(4, 4, "stretch", None))


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "1.png").touch()  # only listed
    return root


@pytest.mark.parametrize(
    ("names", "targets", "naming"),
    [
        (("n01", "n03"), (0, 2), "class id"),
        (("garbage truck", "tench"), (3, 0), "label"),
        (("0", "4"), (0, 4), "class number"),
        (("000", "003"), (0, 3), "class number"),
        (("3", "n02", "tench"), (3, 1, 0), "class number and class id and label"),
    ],
)
def test_every_naming_and_a_mixture(tmp_path: Path, names: tuple[str, ...], targets: object, naming: str) -> None:
    found = list_labelled(folders(tmp_path, *names), CONTRACT)
    assert (found.targets, found.naming) == (targets, naming)
    assert [file.parent.name for file in found.files] == list(names)


@given(st.dictionaries(st.sampled_from([0, 1, 3]), st.sampled_from(["id", "label", "number"]), min_size=1))
@settings(max_examples=20)
def test_any_mixture_means_what_it_says(naming_of: dict[int, str]) -> None:
    name_of = {k: {"id": IDS[k], "label": LABELS[k], "number": str(k)}[naming] for k, naming in naming_of.items()}
    with tempfile.TemporaryDirectory() as root:
        found = list_labelled(folders(Path(root), *name_of.values()), CONTRACT)
    assert {file.parent.name: k for file, k in zip(found.files, found.targets, strict=True)} == {
        name: k for k, name in name_of.items()
    }


def test_numbers_that_are_labels_are_labels(tmp_path: Path) -> None:
    """Folders of digits in the order of their names: class 2 is called 10."""
    names = tuple(sorted(map(str, range(12))))
    contract = ModelContract("digits", names, tuple(f"id{k}" for k in range(12)))
    found = list_labelled(folders(tmp_path, "1", "10", "2"), contract)
    assert (found.targets, found.naming) == ((1, 2, 4), "label")


def test_what_is_no_class_folder_is_passed_over(tmp_path: Path) -> None:
    folders(tmp_path, "n01", ".cache", "@eaDir", "__MACOSX", "lost+found", "n01/@eaDir/a.jpg")
    (tmp_path / "n01" / "Thumbs.db").touch()
    (tmp_path / "list.txt").touch()
    (tmp_path / "stray.png").touch()
    assert len(list_labelled(tmp_path, CONTRACT).files) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds no class folders; its classes are n01, n02, n03, ...: give a folder with one subf"),
        (("Garbage_Truck",), "folder 'Garbage_Truck' is not a class of this model; did you mean 'garbage truck'?"),
        (
            ("golden retreiver", "n01", "n03"),
            "'golden retreiver' is not a class of this model (2 of 3 folders are named by class id); "
            "did you mean 'golden retriever'?",
        ),
        (("zebra",), "'zebra' is not a class of this model; its classes are n01 (tench), n02 (golden retriever)"),
        (("5",), "folder '5' is not a class of this model; its classes are"),
        (("train/n01", "val/n01"), "'train' is not a class of this model, but holds class folders; give {}/train"),
        (("crane", "n01"), "'crane' is the label of 2 classes; name the folder n03 or n05"),
        (("n01", "tench"), "folders 'n01' and 'tench' are the same class (n01 (tench)); merge them, or remove one"),
        (("1", "01"), "folders '01' and '1' are the same class (n02 (golden retriever))"),
    ],
)
def test_a_mismatch_is_explained_in_one_line(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    folders(tmp_path, *names)
    with pytest.raises(InputError, match=re.escape(message.format(tmp_path))) as error:
        list_labelled(tmp_path, CONTRACT)
    assert str(error.value).startswith(f"{tmp_path}: ")
    assert "\n" not in str(error.value)


def test_the_engine_is_named_with_the_next_step(tmp_path: Path) -> None:
    folders(tmp_path, "zebra")
    with pytest.raises(InputError, match=r"of birds-int8; .*: rename the folder, or choose a model of its classes$"):
        list_labelled(tmp_path, CONTRACT, "birds-int8")


def test_an_empty_class_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    folders(tmp_path, "n01", "n02")
    (tmp_path / "n02/1.png").rename(tmp_path / "n02/1.txt")
    with pytest.raises(InputError, match="n02: is a class folder without an image; fill it, or remove it"):
        list_labelled(tmp_path, CONTRACT)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        list_labelled(tmp_path / "nowhere", CONTRACT)
