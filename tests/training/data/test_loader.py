"""Which images train, in which order and with which crops depends on the data, the seed and the step alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import chain, islice
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
from alexnet_deploy.images.samples import sample_photos
from alexnet_deploy.images.ten_crops import picture_for_crops
from tests.helpers.photos import save_photo
from training.data.augment import Colours
from training.data.lists.listing import ImageList, list_class_folders
from training.data.loader import Batch, Item, ResumableBatchSampler, TrainingCrops, eval_batches, training_batches
from training.data.pixel_cache import cache_pixels
from training.recipes.named import RECIPES, get_recipe

PRE = Preprocessing(height=32, width=32, resize_to=40)


def steps(
    number: int, *, count: int = 10, batch: int = 4, seed: int = 0, first: int = 0, rank: int = 0, world: int = 1
) -> list[list[Item]]:
    return list(islice(ResumableBatchSampler(count, batch, seed, first, rank, world), number))


def same(one: list[Batch], other: list[Batch]) -> bool:
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@pytest.fixture
def train(photo_folder: Path) -> ImageList:
    return list_class_folders(photo_folder / "train")


class TestOrder:
    def test_an_epoch_sees_each_image_at_most_once_in_an_order_by_epoch_and_seed(self) -> None:
        first, second = (list(chain(*batches)) for batches in (steps(4)[:2], steps(4)[2:]))
        for epoch, items in enumerate((first, second)):
            assert {e for e, _ in items} == {epoch}
            assert len({index for _, index in items}) == 8
        assert [i for _, i in first] != [i for _, i in second]
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

    @pytest.mark.parametrize(
        ("count", "batch", "world", "message"),
        [
            (100, 10, 4, "`batch` 10: is not a multiple of 4 processes; choose one that is"),
            (12, 128, 1, "`batch` 128: exceeds the 12 training images; lower it"),
            (12, 16, 16, "16 processes for 12 training images: start fewer"),
        ],
    )
    def test_a_batch_that_cannot_be_shared_is_refused(self, count: int, batch: int, world: int, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            ResumableBatchSampler(count, batch, 0, 0, 0, world)


class TestCrops:
    @pytest.fixture
    def crops(self, train: ImageList) -> TrainingCrops:
        return TrainingCrops(train, PRE, RECIPES["torchvision"], seed=3)

    def test_a_crop_is_drawn_from_seed_epoch_and_index(self, crops: TrainingCrops) -> None:
        pixels_HWC, target = crops[2, 7]
        assert pixels_HWC.shape == (32, 32, 3)
        assert pixels_HWC.dtype == np.uint8
        assert target == 1
        assert np.array_equal(crops[2, 7][0], pixels_HWC)
        assert not np.array_equal(crops[3, 7][0], pixels_HWC)
        assert not np.array_equal(crops[2, 8][0], pixels_HWC)
        other_seed = TrainingCrops(crops.images, PRE, crops.recipe, seed=4)
        assert not np.array_equal(other_seed[2, 7][0], pixels_HWC)

    def test_about_half_are_mirrored(self, train: ImageList) -> None:
        plain, flipped = (
            TrainingCrops(train, PRE, get_recipe("torchvision", flip=flip, crop_scale=(1.0, 1.0)), 0)
            for flip in (False, True)
        )
        mirrored = [np.array_equal(plain[e, 0][0][:, ::-1], flipped[e, 0][0]) for e in range(64)]
        straight = [np.array_equal(plain[e, 0][0], flipped[e, 0][0]) for e in range(64)]
        assert all(a != b for a, b in zip(mirrored, straight, strict=True))
        assert 16 < sum(mirrored) < 48  # of 64 fair coins: four standard deviations

    def test_large_photos_are_decoded_smaller_and_show_the_same(self, tmp_path: Path) -> None:
        photo = next(photo for photo in sample_photos() if photo.suffix == ".jpg")
        for name in "ab":
            (tmp_path / name).mkdir()
            shutil.copy(photo, tmp_path / name)
        images = list_class_folders(tmp_path)
        recipe = get_recipe("torchvision", crop_scale=(0.5, 1.0))
        reduced, full = (
            TrainingCrops(images, replace(PRE, decoding=decoding), recipe, seed=3)
            for decoding in ("reduced-2x", "full")
        )
        for epoch in range(4):
            small, whole = (crops[epoch, 0][0].astype(int) for crops in (reduced, full))
            assert not np.array_equal(small, whole), "it was decoded in full"
            assert np.abs(small - whole).mean() < 2  # grey levels, of a photo; mirrored or moved it is tens

    def test_pictures_grow_with_the_epochs(self, train: ImageList) -> None:
        growing = ((0.0, 96), (0.5, 128), (0.8, 224))
        crops = TrainingCrops(train, Preprocessing(), get_recipe("modern", epochs=10, sides=growing, augment="none"), 0)
        sides = [crops[epoch, 0][0].shape[0] for epoch in (0, 4, 5, 7, 8, 9)]
        assert sides == [96, 96, 128, 128, 224, 224]

    def test_smaller_pictures_show_the_papers_crop(self, train: ImageList) -> None:
        plain = replace(RECIPES["paper"], flip=False, pca_sigma=0.0)
        full, half = (
            TrainingCrops(train, Preprocessing(), replace(plain, sides=sides), 0) for sides in ((), ((0.0, 112),))
        )
        shrunk = np.asarray(Image.fromarray(full[1, 0][0]).resize((112, 112), Image.Resampling.BILINEAR))
        assert np.array_equal(half[1, 0][0], shrunk)

    def test_an_augmentation_policy_changes_them(self, train: ImageList) -> None:
        augmented, plain = (
            TrainingCrops(train, PRE, get_recipe("modern", augment=augment, sides=()), 0)
            for augment in ("trivial", "none")
        )
        changed = [not np.array_equal(augmented[0, i][0], plain[0, i][0]) for i in range(18)]
        assert sum(changed) > 9

    def test_the_papers_are_parts_of_the_square_plus_noise(self, tmp_path: Path) -> None:
        grey = Colours((0.75, 0.0, 0.0), ((3**-0.5,) * 3, (0.0,) * 3, (0.0,) * 3))
        for name in ("a", "b"):
            save_photo(tmp_path / name / "0.jpg", (128, 128, 128), seed=ord(name))
        images = list_class_folders(tmp_path)
        square_HWC = load_pixels(images.files[0], picture_for_crops(PRE)).astype(int)
        parts = [square_HWC[y : y + 32, x : x + 32] for y in range(9) for x in range(9)]
        shifts = set()
        for epoch in range(8):
            crops = TrainingCrops(images, PRE, get_recipe("paper"), 0, grey)
            pixels_HWC, target = crops[epoch, 0]
            assert target == 0
            assert np.array_equal(crops[epoch, 0][0], pixels_HWC)
            for part in (*parts, *(part[:, ::-1] for part in parts)):
                inside = (part > 60) & (part < 195)  # where the noise cannot be clipped
                difference = np.unique((pixels_HWC - part)[inside])
                if len(difference) == 1:
                    shifts.add(int(difference[0]))
                    break
            else:
                pytest.fail("is no part of the picture, shifted by one colour")
        assert len(shifts) > 3

    def test_noise_without_its_colours_is_our_own_mistake(self, train: ImageList) -> None:
        with pytest.raises(ValueError, match="the recipe paper adds colour noise"):
            TrainingCrops(train, Preprocessing(), get_recipe("paper"), 0)


class TestBatches:
    @pytest.mark.parametrize("name", ["modern", "paper"])
    def test_they_depend_neither_on_workers_nor_on_a_cache(self, train: ImageList, tmp_path: Path, name: str) -> None:
        recipe = replace(RECIPES["modern" if name == "modern" else "paper"], pca_sigma=0.0, sides=())
        cache = cache_pixels(train.files, tmp_path, threads=2)
        assert list(tmp_path.iterdir()) == []  # the file has no name that a kill could leave behind
        sampler = ResumableBatchSampler(len(train.files), 4, seed=0, first_step=2, rank=0, world=1)
        read, kept = (TrainingCrops(train, PRE, recipe, 0, cache=each) for each in (None, cache))
        here = list(islice(training_batches(read, sampler, workers=0), 5))
        assert here[0][0].dtype == torch.uint8
        assert here[0][0].shape == (4, 32, 32, 3)
        assert same(here, list(islice(training_batches(read, sampler, workers=2), 5)))
        assert same(here, list(islice(training_batches(kept, sampler, workers=2), 5)))

    def test_those_of_evaluation_are_what_inference_sees(self, photo_folder: Path) -> None:
        images = list_class_folders(photo_folder / "val")
        batches = list(eval_batches(images, PRE, batch=4, workers=0))
        assert [len(targets_N) for _, targets_N in batches] == [4, 2]
        pixels_NHWC, targets_N = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
        assert np.array_equal(pixels_NHWC, np.stack([load_pixels(file, PRE) for file in images.files]))
        assert tuple(targets_N) == images.targets

    @pytest.mark.parametrize("workers", [0, 1])
    def test_an_unreadable_image_is_one_line_that_names_it(
        self, photo_folder: Path, tmp_path: Path, workers: int
    ) -> None:
        shutil.copytree(photo_folder / "val", tmp_path / "val")
        bad = tmp_path / "val" / "n01_red" / "0.jpg"
        bad.write_bytes(bad.read_bytes()[:300])
        with pytest.raises(DeployError) as caught:
            list(eval_batches(list_class_folders(tmp_path / "val"), PRE, batch=4, workers=workers))
        assert str(caught.value).startswith(f"{bad}: cannot be decoded")
        assert "Traceback" not in str(caught.value)

    def test_a_cache_of_a_damaged_picture_or_on_a_full_disk_is_one_line(self, tmp_path: Path) -> None:
        bad = tmp_path / "bad.jpg"
        bad.write_bytes(b"no picture")
        with pytest.raises(InputError, match=r"bad\.jpg"):
            cache_pixels([bad], tmp_path, threads=1)
        save_photo(tmp_path / "good.jpg", (9, 9, 9), 0)
        with pytest.raises(UnavailableError, match="`cache`: 1 decoded pictures cannot be kept in /proc"):
            cache_pixels([tmp_path / "good.jpg"], Path("/proc"), threads=1)
