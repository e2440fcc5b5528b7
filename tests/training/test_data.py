"""Which images train, in which order and with which crops depends on the data, the seed and the step alone."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import DeployError, InputError, UnavailableError, UsageError
from alexnet_deploy.images.decode import load_pixels
from tests.helpers.photos import CLASSES, save_photo
from training.data.augment import random_box
from training.data.listing import ImageList, list_class_folders, split
from training.data.loader import Batch, Item, ResumableBatchSampler, TrainingCrops, eval_batches, training_batches
from training.data.pixel_cache import cache_pixels
from training.recipes import RECIPES, recipe

PRE = Preprocessing(height=32, width=32, resize_to=40)


def steps(
    number: int, *, count: int = 10, batch: int = 4, seed: int = 0, first: int = 0, rank: int = 0, world: int = 1
) -> list[list[Item]]:
    return list(islice(ResumableBatchSampler(count, batch, seed, first, rank, world), number))


def same(one: list[Batch], other: list[Batch]) -> bool:
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


class TestOrder:
    def test_an_epoch_sees_each_image_at_most_once_and_epochs_differ(self) -> None:
        first, second = steps(4)[:2], steps(4)[2:]
        for epoch, batches in enumerate((first, second)):
            items = [item for batch in batches for item in batch]
            assert {e for e, _ in items} == {epoch}
            assert len({index for _, index in items}) == 8
        assert [i for batch in first for _, i in batch] != [i for batch in second for _, i in batch]

    def test_it_is_the_seeds(self) -> None:
        assert steps(6, seed=1) == steps(6, seed=1)
        assert steps(6, seed=1) != steps(6, seed=2)

    @given(st.data())
    def test_processes_share_each_global_batch_and_a_resumed_run_goes_on_in_it(self, data: st.DataObject) -> None:
        world = data.draw(st.integers(1, 5))
        batch = world * data.draw(st.integers(1, 4))
        count = data.draw(st.integers(batch, 4 * batch))
        first = data.draw(st.integers(0, 20))
        alone = steps(first + 5, count=count, batch=batch)[first:]
        shares = [steps(5, count=count, batch=batch, first=first, rank=rank, world=world) for rank in range(world)]
        for step, whole in enumerate(alone):
            parts = [share[step] for share in shares]
            assert {len(part) for part in parts} == {batch // world}
            assert sorted(item for part in parts for item in part) == sorted(whole)

    def test_a_batch_that_processes_cannot_share_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"--batch 10: is not a multiple of 4 processes; choose one that is"):
            ResumableBatchSampler(100, 10, 0, 0, 0, 4)

    def test_a_batch_above_the_images_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"--batch 128: exceeds the 12 training images; lower it"):
            ResumableBatchSampler(12, 128, 0, 0, 0, 1)

    def test_more_processes_than_images_are_refused(self) -> None:
        with pytest.raises(UsageError, match=r"16 processes for 12 training images: start fewer"):
            ResumableBatchSampler(12, 16, 0, 0, 0, 16)


class TestCrops:
    @pytest.fixture
    def crops(self, photo_folder: Path) -> TrainingCrops:
        return TrainingCrops(list_class_folders(photo_folder / "train"), PRE, RECIPES["torchvision"], seed=3)

    def test_a_crop_is_drawn_from_seed_epoch_and_index(self, crops: TrainingCrops) -> None:
        pixels_HWC, target = crops[2, 7]
        assert pixels_HWC.shape == (32, 32, 3)
        assert pixels_HWC.dtype == np.uint8
        assert target == 1
        assert np.array_equal(crops[2, 7][0], pixels_HWC)
        assert not np.array_equal(crops[3, 7][0], pixels_HWC)
        assert not np.array_equal(crops[2, 8][0], pixels_HWC)
        other_seed = TrainingCrops(crops.listing, PRE, crops.recipe, seed=4)
        assert not np.array_equal(other_seed[2, 7][0], pixels_HWC)

    def test_smaller_pictures_show_what_the_papers_crop_shows(self, photo_folder: Path) -> None:
        listing = list_class_folders(photo_folder / "train")
        full, half = (
            TrainingCrops(listing, PRE, replace(RECIPES["paper"], flip=False, pca_sigma=0.0, sides=sides), 0)
            for sides in ((), ((0.0, 16),))
        )
        shrunk = np.asarray(Image.fromarray(full[1, 0][0]).resize((16, 16), Image.Resampling.BILINEAR))
        assert np.array_equal(half[1, 0][0], shrunk)

    @pytest.mark.parametrize("name", ["modern", "paper"])
    def test_a_cache_changes_no_pixel_in_any_process(self, photo_folder: Path, tmp_path: Path, name: str) -> None:
        listing = list_class_folders(photo_folder / "train")
        chosen = replace(RECIPES[name], pca_sigma=0.0)
        cache = cache_pixels(listing.files, tmp_path, threads=2)
        assert list(tmp_path.iterdir()) == []  # the file has no name that a kill could leave behind
        sampler = ResumableBatchSampler(len(listing.files), 4, seed=0, first_step=0, rank=0, world=1)
        read, kept = (TrainingCrops(listing, PRE, chosen, 0, cache=each) for each in (None, cache))
        first = list(islice(training_batches(read, sampler, workers=0), 4))
        assert same(first, list(islice(training_batches(kept, sampler, workers=2), 4)))

    def test_a_cache_of_a_damaged_picture_or_on_a_full_disk_is_one_line(self, tmp_path: Path) -> None:
        bad = tmp_path / "bad.jpg"
        bad.write_bytes(b"no picture")
        with pytest.raises(InputError, match=r"bad\.jpg"):
            cache_pixels([bad], tmp_path, threads=1)
        save_photo(tmp_path / "good.jpg", (9, 9, 9), 0)
        with pytest.raises(UnavailableError, match="--cache: 1 decoded pictures cannot be kept in /proc"):
            cache_pixels([tmp_path / "good.jpg"], Path("/proc"), threads=1)

    def test_about_half_are_mirrored(self, photo_folder: Path) -> None:
        listing = list_class_folders(photo_folder / "train")
        plain, flipped = (
            TrainingCrops(listing, PRE, recipe("torchvision", flip=flip, crop_scale=(1.0, 1.0)), 0)
            for flip in (False, True)
        )
        mirrored = [np.array_equal(plain[e, 0][0][:, ::-1], flipped[e, 0][0]) for e in range(64)]
        straight = [np.array_equal(plain[e, 0][0], flipped[e, 0][0]) for e in range(64)]
        assert all(a != b for a, b in zip(mirrored, straight, strict=True))
        assert 16 < sum(mirrored) < 48  # of 64 fair coins: four standard deviations

    def test_batches_do_not_depend_on_the_number_of_workers(self, crops: TrainingCrops) -> None:
        sampler = ResumableBatchSampler(len(crops), 4, seed=0, first_step=2, rank=0, world=1)
        here = list(islice(training_batches(crops, sampler, workers=0), 5))
        assert here[0][0].dtype == torch.uint8
        assert here[0][0].shape == (4, 32, 32, 3)
        assert same(here, list(islice(training_batches(crops, sampler, workers=2), 5)))

    @given(st.integers(1, 5000), st.integers(1, 5000), st.integers(0, 2**32))
    def test_a_box_lies_inside_the_picture(self, width: int, height: int, seed: int) -> None:
        left, top, right, bottom = random_box(width, height, (0.08, 1.0), np.random.default_rng(seed))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height

    def test_boxes_cover_the_asked_shares_of_the_area(self) -> None:
        rng = np.random.default_rng(0)
        boxes = [random_box(500, 400, (0.25, 1.0), rng) for _ in range(300)]
        shares = [(right - left) * (bottom - top) / 200_000 for left, top, right, bottom in boxes]
        ratios = [(right - left) / (bottom - top) for left, top, right, bottom in boxes]
        # Sides are rounded to whole pixels, some 1 % of the smallest; the centre square is 0.8 of the area.
        assert min(shares) > 0.24
        assert 0.25 < np.quantile(shares, 0.1) < 0.4
        assert max(shares) > 0.9
        assert 0.74 < min(ratios) < 0.8 < 1.25 < max(ratios) < 1.35


def test_plain_batches_are_what_inference_sees(photo_folder: Path) -> None:
    listing = list_class_folders(photo_folder / "val")
    batches = list(eval_batches(listing, PRE, batch=4, workers=0))
    assert [len(targets_N) for _, targets_N in batches] == [4, 2]
    pixels_NHWC, targets_N = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
    assert np.array_equal(pixels_NHWC, np.stack([load_pixels(file, PRE) for file in listing.files]))
    assert tuple(targets_N) == listing.targets


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_one_line_that_names_it(photo_folder: Path, tmp_path: Path, workers: int) -> None:
    shutil.copytree(photo_folder / "val", tmp_path / "val")
    bad = tmp_path / "val" / "n01_red" / "0.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.raises(DeployError) as caught:
        list(eval_batches(list_class_folders(tmp_path / "val"), PRE, batch=4, workers=workers))
    assert str(caught.value).startswith(f"{bad}: cannot be decoded")
    assert str(caught.value).endswith("; get a whole copy of the file")
    assert "Traceback" not in str(caught.value)


class TestListing:
    def test_classes_and_files_come_sorted_with_their_targets(self, photo_folder: Path) -> None:
        listing = list_class_folders(photo_folder / "train")
        assert listing.class_ids == tuple(CLASSES)
        assert listing.targets == 6 * (0,) + 6 * (1,) + 6 * (2,)
        assert [file.name for file in listing.files[:6]] == [f"{k}.jpg" for k in range(6)]

    def test_a_validation_folder_may_lack_a_class(self, photo_folder: Path, tmp_path: Path) -> None:
        shutil.copytree(photo_folder / "val" / "n03_blue", tmp_path / "n03_blue")
        assert list_class_folders(tmp_path, class_ids=tuple(CLASSES)).targets == (2, 2)

    def test_what_is_no_image_or_hidden_is_left_out(self, photo_folder: Path, tmp_path: Path) -> None:
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

    def test_the_digest_tells_listings_apart_and_not_where_they_lie(self, photo_folder: Path, tmp_path: Path) -> None:
        here = list_class_folders(photo_folder / "val").digest(photo_folder / "val")
        shutil.copytree(photo_folder / "val", tmp_path / "moved")
        assert list_class_folders(tmp_path / "moved").digest(tmp_path / "moved") == here
        (tmp_path / "moved" / "n01_red" / "0.jpg").unlink()
        assert list_class_folders(tmp_path / "moved").digest(tmp_path / "moved") != here

    def test_a_file_name_that_is_no_text_has_a_digest(self, tmp_path: Path) -> None:
        ImageList(("a",), (tmp_path / "\udcff.jpg",), (0,)).digest(tmp_path)

    @pytest.mark.parametrize(
        ("folders", "class_ids", "says"),
        [
            ([], None, "class folders: 0, a classifier needs 2"),
            (["a"], None, "class folders: 1, a classifier needs 2"),
            (["a", "b\udcff"], None, r"class folder 'b\udcff' has a name that cannot be printed; rename it"),
            (["a", "b"], ("a", "c"), "class 'b' is not in the training data; rename or remove the folder"),
            ([], ("a", "c"), "holds no folder of a class"),
        ],
    )
    def test_folders_that_are_no_classes_are_refused(
        self, tmp_path: Path, folders: list[str], class_ids: tuple[str, ...] | None, says: str
    ) -> None:
        for name in folders:
            save_photo(tmp_path / name / "0.jpg", (0, 0, 0), 0)
        with pytest.raises(InputError) as caught:
            list_class_folders(tmp_path, class_ids=class_ids)
        assert str(caught.value).startswith(f"{tmp_path}: ")
        assert says in str(caught.value)

    def test_a_class_without_images_is_refused(self, tmp_path: Path) -> None:
        save_photo(tmp_path / "a" / "0.jpg", (0, 0, 0), 0)
        (tmp_path / "b").mkdir()
        with pytest.raises(InputError, match=r"/b: holds no image"):
            list_class_folders(tmp_path)

    def test_a_missing_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"nothing: no such folder; it should hold one folder of images a class"):
            list_class_folders(tmp_path / "nothing")


class TestSplit:
    def test_it_holds_out_a_share_of_each_class_without_overlap(self, photo_folder: Path) -> None:
        listing = list_class_folders(photo_folder / "train")
        train, val = split(listing, 0.34, seed=0)
        assert [val.targets.count(k) for k in range(3)] == [2, 2, 2]
        assert sorted((*train.files, *val.files)) == sorted(listing.files)
        assert all(file.parent.name == val.class_ids[k] for file, k in zip(val.files, val.targets, strict=True))
        assert split(listing, 0.34, seed=0) == (train, val)
        assert split(listing, 0.34, seed=1) != (train, val)

    def test_a_small_share_still_holds_out_one(self, photo_folder: Path) -> None:
        assert len(split(list_class_folders(photo_folder / "train"), 0.01, seed=0)[1].files) == 3

    @pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
    def test_a_share_out_of_range_is_refused(self, photo_folder: Path, share: float) -> None:
        with pytest.raises(UsageError, match="--val-share"):
            split(list_class_folders(photo_folder / "train"), share, seed=0)

    def test_a_large_share_leaves_something_to_train_on(self, photo_folder: Path) -> None:
        train, _ = split(list_class_folders(photo_folder / "train"), 0.99, seed=0)
        assert set(train.targets) == {0, 1, 2}

    def test_a_class_of_one_image_is_refused(self, tmp_path: Path) -> None:
        for name in ("a/0.jpg", "b/0.jpg", "b/1.jpg"):
            save_photo(tmp_path / name, (0, 0, 0), 0)
        with pytest.raises(
            InputError, match=r"class 'a' has one image; it needs at least 2 to be split, or pass --val"
        ):
            split(list_class_folders(tmp_path), 0.1, seed=0)


class TestRecipe:
    def test_cosine_warms_up_to_the_peak_and_ends_at_zero(self) -> None:
        modern = recipe("modern", epochs=10)
        rates = [modern.lr_at(epoch) for epoch in np.linspace(0, 10, 101)]
        assert 0 < rates[0] < modern.lr / 1000
        assert rates[10] == pytest.approx(modern.lr / 2, rel=0.01)
        assert rates[20] == max(rates) == modern.lr
        assert rates[60] == pytest.approx(modern.lr / 2)
        assert rates[100] == pytest.approx(0)
        assert rates[:21] == sorted(rates[:21])
        assert rates[20:] == sorted(rates[20:], reverse=True)

    def test_the_average_of_a_short_run_forgets_how_it_began(self) -> None:
        """What is left of the first weights after n steps is decay ** n: e ** -8 where it spans an eighth of them."""
        modern = recipe("modern", ema_decay=0.998)
        assert modern.average_decay(9469) == modern.ema_decay  # 64 epochs of Imagenette: 4,672 steps
        short = replace(modern, epochs=15).average_decay(9469)
        assert short is not None
        assert short ** (15 * 73) == pytest.approx(math.exp(-8), rel=0.05)
        assert replace(modern, epochs=1).average_decay(100) == 0  # one step: nothing to average
        assert replace(modern, ema_decay=None).average_decay(9469) is None

    def test_steps_divide_by_ten_every_thirty_epochs(self) -> None:
        rates = [RECIPES["torchvision"].lr_at(epoch) for epoch in (0, 29.9, 30, 60)]
        assert rates == pytest.approx([0.01, 0.01, 0.001, 0.0001])

    def test_a_plateau_divides_by_ten_after_five_epochs_without_a_new_lowest_error(self) -> None:
        paper = RECIPES["paper"]

        def rates(errors: list[float]) -> list[float]:
            found = list(enumerate(errors, 1))
            return [paper.lr_at(epoch, found[:epoch]) for epoch in range(len(errors) + 1)]

        assert rates([50.0 - k for k in range(30)]) == [0.01] * 31
        # Equal is not better; after a drop the count starts anew against the same lowest error.
        assert rates([50.0, 40.0, 40.0, 41.0, 40.0, 45.0, 40.0, 42.0, 42.0]) == [0.01] * 7 + [0.001] * 3
        assert rates([50.0, *[60.0] * 4, 49.0, *[60.0] * 5]) == [0.01] * 11 + [0.001]
        assert rates([50.0] * 40)[-1] == pytest.approx(1e-5)  # three times, as in the paper, and no more

    def test_patience_counts_epochs_however_many_of_them_are_validated(self) -> None:
        errors = [(epoch, 50.0) for epoch in range(3, 16, 3)]  # the lowest is of epoch 3: 6 later is the first above 5
        rates = [RECIPES["paper"].lr_at(last, errors[:count]) for count, (last, _) in enumerate(errors, 1)]
        assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001])

    @given(st.lists(st.floats(0, 100), max_size=60), st.integers(0, 60), st.integers(1, 9))
    def test_a_plateau_never_raises_the_rate(self, errors: list[float], cut: int, val_every: int) -> None:
        found = [(val_every * number, error) for number, error in enumerate(errors, 1)]
        assert RECIPES["paper"].lr_at(0, found[:cut]) >= RECIPES["paper"].lr_at(0, found)

    def test_what_is_none_stays_as_it_is(self) -> None:
        assert recipe("modern", epochs=None, lr=None) == RECIPES["modern"]

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"lr": 0.0}, "--lr 0.0: is not within"),
            ({"lr": -1.0}, "--lr -1.0"),
            ({"lr": math.nan}, "--lr nan"),
            ({"lr": math.inf}, "--lr inf"),
            ({"epochs": 0}, "--epochs 0: is not within 1..10000"),
            ({"batch": 0}, "--batch 0"),
            ({"weight_decay": 2.0}, "--set weight_decay 2.0"),
        ],
    )
    def test_a_number_out_of_range_names_the_flag(self, changes: dict[str, float], says: str) -> None:
        with pytest.raises(UsageError, match=says):
            recipe("modern", **changes)

    def test_an_unknown_recipe_names_the_known(self) -> None:
        with pytest.raises(UsageError, match="--recipe quick: unknown; choose one of torchvision, modern, paper"):
            recipe("quick")
