"""Class folders, seeded splits, and ImageNet's own layout: one flat validation folder and its lists of labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.helpers.command import Command
from tests.helpers.photos import CLASSES, save_photo
from training.data.lists import listing
from training.loop.fit import Interrupted
from training.loop.run import Run

IDS = tuple(CLASSES)
LISTS = {
    "LOC_val_solution.csv": "ImageId,PredictionString\nILSVRC_2,n03_blue 1 2 3 4\n"
    "ILSVRC_0,n01_red 1 2 3 4 n01_red 5 6 7 8\nILSVRC_1,n01_red 9 9 9 9\n",
    "val.txt": "ILSVRC_0.JPEG 0\nILSVRC_1.JPEG 0\nILSVRC_2.JPEG 2\n",
    "imagenet_2012_validation_synset_labels.txt": "n01_red\nn01_red\nn03_blue\n",
}


class TestClassFolders:
    def test_classes_and_files_come_sorted_with_their_targets(self, photo_folder: Path) -> None:
        images = listing.list_class_folders(photo_folder / "train")
        assert images.class_ids == tuple(CLASSES)
        assert images.targets == 6 * (0,) + 6 * (1,) + 6 * (2,)
        assert [file.name for file in images.files[:6]] == [f"{k}.jpg" for k in range(6)]

    def test_a_validation_folder_may_lack_a_class(self, photo_folder: Path, tmp_path: Path) -> None:
        shutil.copytree(photo_folder / "val" / "n03_blue", tmp_path / "n03_blue")
        assert listing.list_class_folders(tmp_path, class_ids=tuple(CLASSES)).targets == (2, 2)

    def test_hidden_files_and_other_files_are_left_out(self, photo_folder: Path, tmp_path: Path) -> None:
        shutil.copytree(photo_folder / "val", tmp_path / "val")
        for name in ("notes.txt", "._0.jpg", "sub/2.JPG"):
            save_photo(tmp_path / "x.jpg", (0, 0, 0), 0)
            (tmp_path / "val" / "n01_red" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "x.jpg").rename(tmp_path / "val" / "n01_red" / name)
        for clutter in (".cache", "@eaDir", "__MACOSX", "n01_red/@eaDir/0.jpg"):
            (tmp_path / "val" / clutter).mkdir(parents=True)
        (tmp_path / "val" / "n01_red" / "Thumbs.db").touch()
        files = listing.list_class_folders(tmp_path / "val").files
        assert [str(file.relative_to(tmp_path / "val")) for file in files[:3]] == [
            "n01_red/0.jpg", "n01_red/1.jpg", "n01_red/sub/2.JPG",
        ]  # fmt: skip
        assert len(files) == 7

    def test_the_digest_depends_on_the_names_and_not_on_the_place(self, photo_folder: Path, tmp_path: Path) -> None:
        here = listing.list_class_folders(photo_folder / "val").digest()
        shutil.copytree(photo_folder / "val", tmp_path / "moved")
        assert listing.list_class_folders(tmp_path / "moved").digest() == here
        (tmp_path / "moved" / "n01_red" / "0.jpg").unlink()
        assert listing.list_class_folders(tmp_path / "moved").digest() != here
        assert (
            listing.ImageList(tmp_path, ("a",), (tmp_path / "\udcff.jpg",), (0,)).digest() != here
        )  # a name that is no text

    @pytest.mark.parametrize(
        ("folders", "class_ids", "message"),
        [
            ([], None, "class folders: 0, a classifier needs 2"),
            (["a"], None, "class folders: 1, a classifier needs 2"),
            (["a", "b\udcff"], None, r"class folder 'b\udcff' has a name that cannot be printed; rename it"),
            (["a", "b"], ("a", "c"), "class 'b' is not in the training data; rename or remove the folder"),
            ([], ("a", "c"), "holds no class folder"),
            (["a", "empty"], None, "empty: holds no image"),
        ],
    )
    def test_folders_that_are_no_classes_are_refused(
        self, tmp_path: Path, folders: list[str], class_ids: tuple[str, ...] | None, message: str
    ) -> None:
        for name in folders:
            (tmp_path / name).mkdir()
            if name != "empty":
                save_photo(tmp_path / name / "0.jpg", (0, 0, 0), 0)
        with pytest.raises(InputError) as caught:
            listing.list_class_folders(tmp_path, class_ids=class_ids)
        assert str(caught.value).startswith(str(tmp_path))
        assert message in str(caught.value)
        with pytest.raises(InputError, match="nothing: no such folder; give a folder with one subfolder of images per"):
            listing.list_class_folders(tmp_path / "nothing")


class TestSplit:
    @pytest.fixture
    def images(self, photo_folder: Path) -> listing.ImageList:
        return listing.list_class_folders(photo_folder / "train")

    def test_it_holds_out_a_share_of_each_class_without_overlap(self, images: listing.ImageList) -> None:
        train, val = listing.train_val_split(images, 0.34, seed=0)
        assert [val.targets.count(k) for k in range(3)] == [2, 2, 2]
        assert sorted((*train.files, *val.files)) == sorted(images.files)
        assert all(file.parent.name == val.class_ids[k] for file, k in zip(val.files, val.targets, strict=True))
        assert listing.train_val_split(images, 0.34, seed=0) == (train, val)
        assert listing.train_val_split(images, 0.34, seed=1) != (train, val)
        # Both parts have an image of each class.
        assert len(listing.train_val_split(images, 0.01, seed=0)[1].files) == 3
        assert set(listing.train_val_split(images, 0.99, seed=0)[0].targets) == {0, 1, 2}

    @pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
    def test_a_share_out_of_range_is_refused(self, images: listing.ImageList, share: float) -> None:
        with pytest.raises(UsageError, match="`val_share`"):
            listing.train_val_split(images, share, seed=0)

    def test_a_class_of_one_image_is_refused(self, tmp_path: Path) -> None:
        for name in ("a/0.jpg", "b/0.jpg", "b/1.jpg"):
            save_photo(tmp_path / name, (0, 0, 0), 0)
        with pytest.raises(InputError, match=r"class 'a' has one image and a split needs 2; add images, or give `val`"):
            listing.train_val_split(listing.list_class_folders(tmp_path), 0.1, seed=0)


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
        images = listing.list_flat_folder(flat, IDS, labels)
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
        ("ILSVRC_0.JPEG 0\nILSVRC_0.JPEG 1\n", "gives ILSVRC_0.JPEG the classes 0 and 1; remove one line"),
        ("ILSVRC_0.JPEG 0\n\nILSVRC_1.JPEG\n", "line 3 ('ILSVRC_1.JPEG') is not a file and its class like the first"),
        ("n01_red\nn01_red 0\nn03_blue\n", "line 2 ('n01_red 0') is not a class alone like the first; fix it"),
        ("n01_red\n0\nn03_blue\n", "ILSVRC_1.JPEG has the number 0 and others have a class id; write class ids"),
    ],
)
def test_a_list_that_does_not_fit_is_one_line(flat: Path, tmp_path: Path, text: str, message: str) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text(text)
    with pytest.raises(InputError) as caught:
        listing.list_flat_folder(flat, IDS, labels)
    assert str(caught.value).startswith(f"{labels}: ")
    assert message in str(caught.value)


def test_the_digest_has_the_classes_of_a_list(flat: Path, tmp_path: Path) -> None:
    lists = [tmp_path / "one.txt", tmp_path / "other.txt"]
    for path, classes in zip(lists, ("0\n0\n2\n", "0\n1\n2\n"), strict=True):
        path.write_text(classes)
    one, other = (listing.list_flat_folder(flat, IDS, path) for path in lists)
    assert one.digest() != other.digest()
    assert one.former_digest() == other.former_digest() != one.digest()


def test_a_list_that_is_missing_or_cannot_be_read_is_one_line(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("labels.txt", "nowhere.txt"):
        with pytest.raises(InputError, match=r"is not a readable list of labels .* with `val_labels`"):
            listing.list_flat_folder(flat, IDS, tmp_path / name)
    with pytest.raises(InputError, match=r"holds images without class folders, and .* with `val_labels`"):
        listing.list_flat_folder(flat, IDS)


def test_kaggles_tree_is_found_below_its_root(flat: Path, tmp_path: Path) -> None:
    save_photo(flat.parent / "train" / "n01_red" / "0.JPEG", (200, 0, 0), 0)
    assert listing.find_splits(tmp_path) == (flat.parent / "train", flat, ())
    assert listing.is_flat(flat)
    assert not listing.is_flat(flat.parent / "train")
    assert listing.find_splits(flat) == (flat, None, ())


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

    @pytest.mark.parametrize("splits", [["train", "val"], ["train"]])
    def test_a_whole_data_set_is_refused(self, tmp_path: Path, splits: list[str]) -> None:
        for split in splits:
            save_photo(tmp_path / split / "n01_red" / "0.jpg", (200, 0, 0), 0)
        with pytest.raises(InputError) as caught:
            listing.list_val_images(tmp_path, IDS)
        inside = tmp_path / splits[-1]
        assert str(caught.value) == f"{tmp_path}: holds a whole data set; give one of its splits, such as {inside}"
        ids = ("n01_red", "train", "val")
        images = listing.list_val_images(tmp_path, ids)  # a class may be called train
        assert images.targets == tuple(map(ids.index, splits))

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
