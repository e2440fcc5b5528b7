"""ImageNet's own layout: one flat validation folder, and the lists of labels that are around for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from alexnet_deploy.errors import InputError
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.helpers.command import Command
from tests.helpers.photos import CLASSES, save_photo
from training.data.listing import find_splits, is_flat, list_class_folders, list_flat_folder, list_val_images
from training.loop.fit import Interrupted
from training.loop.run import Run

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
        images = list_flat_folder(flat, IDS, labels)
        assert [file.name for file in images.files] == ["ILSVRC_0.JPEG", "ILSVRC_1.JPEG", "ILSVRC_2.JPEG"]
        assert images.targets == (0, 0, 2)
        assert images.class_ids == IDS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ILSVRC_0.JPEG 0\n", "has no line for ILSVRC_1.JPEG; give the list of these images"),
        ("n01_red\nn01_red\n", "has 2 lines for 3 images"),
        ("n01_red\nzebra\nn03_blue\n", "ILSVRC_1.JPEG has class 'zebra', which is not in the training data"),
        ("490\n361\n171\n", "ILSVRC_0.JPEG has class '490', which is not in the training data"),
        ("", "has no line for ILSVRC_0.JPEG"),
        ("ILSVRC_0.JPEG 0\n\nILSVRC_1.JPEG\n", "line 3 ('ILSVRC_1.JPEG') is not a file and its class as the first"),
        ("n01_red\nn01_red 0\nn03_blue\n", "line 2 ('n01_red 0') is not a class alone as the first; fix it"),
    ],
)
def test_a_list_that_does_not_fit_is_one_line(flat: Path, tmp_path: Path, text: str, message: str) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text(text)
    with pytest.raises(InputError) as caught:
        list_flat_folder(flat, IDS, labels)
    assert str(caught.value).startswith(f"{labels}: ")
    assert message in str(caught.value)


def test_without_a_list_the_parameter_is_named(flat: Path) -> None:
    with pytest.raises(InputError, match=r"holds images without class folders, and .* with `val_labels`"):
        list_flat_folder(flat, IDS)


def test_a_list_that_cannot_be_read_is_one_line(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("labels.txt", "nowhere.txt"):
        with pytest.raises(InputError, match="is not a readable list of labels"):
            list_flat_folder(flat, IDS, tmp_path / name)


def test_kaggles_tree_is_found_below_its_root(flat: Path, tmp_path: Path) -> None:
    save_photo(flat.parent / "train" / "n01_red" / "0.JPEG", (200, 0, 0), 0)
    assert find_splits(tmp_path) == (flat.parent / "train", flat)
    assert is_flat(flat)
    assert not is_flat(flat.parent / "train")
    assert find_splits(flat) == (flat, None)


def test_train_takes_imagenets_layout(photo_folder: Path, tmp_path: Path, cli: Command, planned: list[Run]) -> None:
    root = tmp_path / "imagenet"
    root.mkdir()
    (root / "train").symlink_to(photo_folder / "train")
    for i, colour in enumerate(CLASSES.values()):
        save_photo(root / "val" / f"ILSVRC_{i}.JPEG", colour, 70 + i)
    (root / "val.txt").write_text("".join(f"ILSVRC_{i}.JPEG {i}\n" for i in range(3)))
    assert cli("train", root, "--output", tmp_path / "run").code == 0
    (run,) = planned
    assert (len(run.train.files), run.val.targets) == (18, (0, 1, 2))


class TestValImages:
    """What evaluate, pack, compress and train measure on."""

    @pytest.fixture
    def labels(self, photo_folder: Path, tmp_path: Path) -> Path:
        """The list of ``flat``, which holds the photos of ``photo_folder/val`` without class folders."""
        (tmp_path / "flat").mkdir()
        lines = []
        for number, file in enumerate(sorted((photo_folder / "val").glob("*/*.jpg"))):
            shutil.copy(file, tmp_path / "flat" / f"{number}.jpg")
            lines.append(f"{number}.jpg {file.parent.name}\n")
        (tmp_path / "labels.txt").write_text("".join(lines))
        return tmp_path / "labels.txt"

    @pytest.fixture
    def checkpoint(self, tiny_checkpoint: Checkpoint, tmp_path: Path) -> Path:
        return save_checkpoint(tiny_checkpoint, tmp_path / "full.safetensors")

    def test_class_folders(self, photo_folder: Path) -> None:
        assert list_val_images(photo_folder / "val", IDS) == list_class_folders(photo_folder / "val")

    @pytest.mark.parametrize("splits", [["train", "val"], ["train"]])
    def test_a_whole_data_set_is_refused(self, tmp_path: Path, splits: list[str]) -> None:
        for split in splits:
            save_photo(tmp_path / split / "n01_red" / "0.jpg", (200, 0, 0), 0)
        with pytest.raises(InputError) as caught:
            list_val_images(tmp_path, IDS)
        inside = tmp_path / splits[-1]
        assert str(caught.value) == f"{tmp_path}: holds a whole data set; give one of its splits, such as {inside}"

    def test_a_class_may_be_called_train(self, tmp_path: Path) -> None:
        for name in ("car", "train"):
            save_photo(tmp_path / name / "0.jpg", (200, 0, 0), 0)
        assert list_val_images(tmp_path, ("car", "train")).targets == (0, 1)

    def test_evaluate_and_pack(self, photo_folder: Path, checkpoint: Path, labels: Path, cli: Command) -> None:
        flat, packed = labels.with_name("flat"), labels.with_name("packed.safetensors")
        workers = ("--workers", 0)
        in_folders = cli("evaluate", checkpoint, photo_folder / "val", *workers)
        assert json.loads(in_folders.out)["images"] == 6
        assert cli("evaluate", checkpoint, flat, "--val-labels", labels, *workers) == in_folders
        assert cli("pack", checkpoint, packed, "--data", flat, "--val-labels", labels, *workers).code == 0
        again = cli("evaluate", packed, flat, "--val-labels", labels, *workers).out
        assert json.loads(again) == load_checkpoint(packed).recipe["evaluation"]

    def test_compress(
        self, photo_folder: Path, checkpoint: Path, labels: Path, cli: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs: list[Run] = []

        def record(run: Run, *_: object, **__: object) -> None:
            runs.append(run)
            raise Interrupted("seen")

        monkeypatch.setattr("training.compress.compress.fine_tune", record)
        flags = ("--rank", 4, "--epochs", 1, "--batch", 18, "--output", labels.with_name("small.safetensors"))
        flat = ("--val", labels.with_name("flat"), "--val-labels", labels)
        assert cli("compress", checkpoint, photo_folder, *flags, *flat).code == 130
        assert runs[0].val.targets == (0, 0, 1, 1, 2, 2)
