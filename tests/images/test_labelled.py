"""Which class a folder means, in every naming, and what is said where it means none; one set of pixels for all."""

from __future__ import annotations

import re
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.contract import BatchProfile, ModelContract, Preprocessing
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.evaluation.answers import answers_of
from alexnet_deploy.images.labelled import list_labelled

IDS = ("n01", "n02", "n03", "n04", "n05")
LABELS = ("tench", "golden retriever", "crane", "garbage truck", "crane")  # ImageNet has two cranes
CONTRACT = ModelContract("birds", LABELS, IDS, Preprocessing(4, 4, "stretch", None))


class Reads:
    """Says the number that stands in the first pixel."""

    description = "reads the first pixel"
    batch: BatchProfile | None = None

    def __init__(self, contract: ModelContract = CONTRACT) -> None:
        self.contract = contract
        self.seen: list[NDArray[np.uint8]] = []

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.seen.append(pixels_NHWC.copy())
        return np.eye(len(LABELS), dtype=np.float32)[pixels_NHWC[:, 0, 0, 0]]

    def close(self) -> None:
        pass


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, 0, 0)).save(path)
    return path


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
    folders(tmp_path, "n01", ".cache")
    (tmp_path / "list.txt").touch()
    (tmp_path / "stray.png").touch()
    assert len(list_labelled(tmp_path, CONTRACT).files) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds no class folders; its classes are n01, n02, n03, ...: give one folder of images a class"),
        (("Garbage_Truck",), "folder 'Garbage_Truck' is no class of this model; did you mean 'garbage truck'?"),
        (
            ("golden retreiver", "n01", "n03"),
            "'golden retreiver' is no class of this model (2 of 3 folders are named by class id); "
            "did you mean 'golden retriever'?",
        ),
        (("zebra",), "'zebra' is no class of this model; its classes are n01 (tench), n02 (golden retriever), n03 (c"),
        (("5",), "folder '5' is no class of this model; its classes are"),
        (("train/n01", "val/n01"), "folder 'train' is no class of this model, but holds class folders; give {}/train"),
        (("crane", "n01"), "'crane' is the label of 2 classes; name the folder n03 or n05"),
        (("n01", "tench"), "folders 'n01' and 'tench' are the same class (n01 (tench)); merge them, or take one away"),
        (("1", "01"), "folders '01' and '1' are the same class (n02 (golden retriever))"),
    ],
)
def test_a_mismatch_is_explained_in_one_line(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    folders(tmp_path, *names)
    with pytest.raises(InputError, match=re.escape(message.format(tmp_path))) as error:
        list_labelled(tmp_path, CONTRACT)
    assert str(error.value).startswith(f"{tmp_path}: ")
    assert "\n" not in str(error.value)


def test_an_empty_class_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    folders(tmp_path, "n01", "n02")
    (tmp_path / "n02/1.png").rename(tmp_path / "n02/1.txt")
    with pytest.raises(InputError, match="n02: is a class folder without an image; fill it, or take it away"):
        list_labelled(tmp_path, CONTRACT)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        list_labelled(tmp_path / "nowhere", CONTRACT)


def test_all_runners_see_the_same_pixels(tmp_path: Path) -> None:
    for k in (0, 3):
        for i in range(20):  # 40 in all: more than a batch
            picture(tmp_path / IDS[k] / f"{i:02}.png", k)
    broken = tmp_path / IDS[0] / "10.png"
    broken.write_bytes(b"no image")
    progress: list[tuple[int, int]] = []
    runners = Reads(), Reads()
    found = answers_of(runners, list_labelled(tmp_path, CONTRACT), on_progress=lambda *at: progress.append(at))
    assert (len(found.files), found.target_N.tolist()) == (39, [0] * 19 + [3] * 20)
    assert [file.parent.name for file in found.files] == [IDS[0]] * 19 + [IDS[3]] * 20
    assert [logits_NK.argmax(axis=1).tolist() for logits_NK in found.logits_NK] == [found.target_N.tolist()] * 2
    (line,) = found.unreadable
    assert line.startswith(f"{broken}: ")
    assert progress == [(32, 40), (40, 40)]
    assert all(np.array_equal(a, b) for a, b in zip(runners[0].seen, runners[1].seen, strict=True))


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    folders(tmp_path, "n01")
    with pytest.raises(InputError, match="none of its images is readable"):
        answers_of([Reads()], list_labelled(tmp_path, CONTRACT))


def test_runners_of_other_pixels_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "n01/1.png")
    other = ModelContract("birds", LABELS, IDS, Preprocessing(4, 4, "stretch", None, "bicubic"))
    with pytest.raises(
        UsageError, match=r"a and b preprocess differently \(interpolation: bilinear and bicubic\); measure"
    ):
        answers_of([Reads(), Reads(other)], list_labelled(tmp_path, CONTRACT), names=("a", "b"))


def test_a_failing_runner_leaves_no_thread(tmp_path: Path) -> None:
    class Fails(Reads):
        def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
            raise InputError("fails")

    picture(tmp_path / "n01/1.png")
    with pytest.raises(InputError, match="fails"):
        answers_of([Fails()], list_labelled(tmp_path, CONTRACT))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
