"""Crops, colour noise and mixed pictures against hand computations, drawn from the given generator alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError
from training.data import augment
from training.data.lists.listing import list_class_folders
from training.data.loader import eval_batches
from training.data.policies import Policy

GREY = augment.Colours((0.75, 0.0, 0.0), ((3**-0.5, 3**-0.5, 3**-0.5), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)))
"""As many black as white pixels: each covariance is 1/4, so the first eigenvalue is 3/4, along grey."""


class Drawn(np.random.Generator):
    """Draws what the test says."""

    def __init__(self, *values: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.values = np.array(values)

    def normal(self, loc: float, scale: float, size: int) -> NDArray[np.float64]:  # type: ignore[override]
        assert (loc, size) == (0.0, 3)
        return self.values * scale


class TestColours:
    def test_by_hand(self) -> None:
        pixels_NC = np.repeat(np.array([[0, 0, 0], [255, 255, 255]], np.uint8), 5, axis=0)
        found = augment.principal_colours(pixels_NC)
        assert found.eigenvalues == GREY.eigenvalues
        assert np.abs(found.eigenvectors[0]) == pytest.approx(3**-0.5, abs=1e-6)
        # All combinations of two values a channel: variances (d/2/255)^2, no covariance. Green varies most, red least.
        combinations = [(r, g, b) for r in (100, 110) for g in (50, 90) for b in (200, 220)]
        found = augment.principal_colours(np.array(combinations, np.uint8))
        assert found.eigenvalues == pytest.approx([(half / 255) ** 2 for half in (20, 10, 5)], abs=1e-6)
        assert np.abs(found.eigenvectors) == pytest.approx(np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]))

    def test_a_seeded_sample_of_the_files_is_measured(
        self, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = list_class_folders(photo_folder / "train").files
        found = augment.measure_colours(files, 0)
        assert augment.measure_colours(files, 0) == found
        monkeypatch.setattr("training.data.augment.SAMPLED_FILES", 12)  # of 18: the seed decides which
        assert augment.measure_colours(files, 1) != augment.measure_colours(files, 2)
        # The three classes differ in colour alone, by noise of 40 levels: that is the least any direction varies.
        assert found.eigenvalues[0] > found.eigenvalues[1] > found.eigenvalues[2] > (25 / 255) ** 2
        with pytest.raises(InputError, match=r"nowhere\.jpg: no such file"):
            augment.measure_colours([Path("nowhere.jpg")], 0)


class TestColourNoise:
    def test_by_hand(self) -> None:
        """255 x (1.5 x 0.1 x 0.04 x (0.6, 0.8, 0) - 2 x 0.1 x 0.03 x (0.8, -0.6, 0)) = (-0.306, 2.142, 0)."""
        colours = augment.Colours((0.04, 0.03, 0.01), ((0.6, 0.8, 0.0), (0.8, -0.6, 0.0), (0.0, 0.0, 1.0)))
        pixels_HWC = np.array([[[10, 20, 30], [0, 254, 255]]], np.uint8)
        noisy_HWC = augment.add_colour_noise(pixels_HWC, colours, 0.1, Drawn(1.5, -2.0, 0.0))
        assert noisy_HWC.dtype == np.uint8
        assert noisy_HWC.tolist() == [[[10, 22, 30], [0, 255, 255]]]

    @pytest.mark.parametrize(("strength", "shift"), [(1.0, 11), (-1.0, -11)])  # 255 x 0.1 x 0.75 / sqrt(3) = 11.04
    def test_grey_noise_moves_all_channels_alike_and_stays_a_pixel(self, strength: float, shift: int) -> None:
        pixels_HWC = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
        noisy_HWC = augment.add_colour_noise(pixels_HWC, GREY, 0.1, Drawn(strength, 5.0, -5.0))
        assert np.array_equal(noisy_HWC, np.clip(pixels_HWC.astype(int) + shift, 0, 255))

    def test_draws_have_the_asked_spread(self) -> None:
        rng = np.random.default_rng(0)
        grey_HWC = np.full((1, 1, 3), 128, np.uint8)
        shifts = [int(augment.add_colour_noise(grey_HWC, GREY, 0.1, rng)[0, 0, 0]) - 128 for _ in range(1000)]
        assert np.mean(shifts) == pytest.approx(0, abs=1.4)  # four standard errors
        assert np.std(shifts) == pytest.approx(11.04, rel=0.1)  # four standard errors of a deviation: 9 %


class TestPaperCrops:
    @given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 12), st.integers(0, 2**32))
    def test_a_crop_is_a_part_of_the_square(self, height: int, width: int, more: int, seed: int) -> None:
        side = max(height, width) + more
        places = np.indices((side, side)).transpose(1, 2, 0).astype(np.uint8)  # row and column as two channels
        crop = augment.random_crop(places, height, width, np.random.default_rng(seed))
        y, x = crop[0, 0]
        assert np.array_equal(crop, places[y : y + height, x : x + width])

    def test_every_place_comes_up(self) -> None:
        places = np.indices((6, 6)).transpose(1, 2, 0).astype(np.uint8)
        rng = np.random.default_rng(0)
        assert {tuple(augment.random_crop(places, 4, 4, rng)[0, 0]) for _ in range(200)} == {
            (y, x) for y in range(3) for x in range(3)
        }

    def test_the_fifth_view_is_what_inference_sees(self, photo_folder: Path) -> None:
        images, pre = list_class_folders(photo_folder / "val"), Preprocessing(height=32, width=32, resize_to=40)
        ((views_NVHWC, targets_N),) = eval_batches(images, pre, batch=6, workers=0, ten_crop=True)
        ((pixels_NHWC, _),) = eval_batches(images, pre, batch=6, workers=0)
        assert views_NVHWC.shape == (6, 10, 32, 32, 3)
        assert tuple(targets_N) == images.targets
        # Resized in one pass with the crop there, before it here: rounding may differ by a level.
        assert np.abs(views_NVHWC[:, 4].numpy().astype(int) - pixels_NHWC.numpy()).max() <= 1


class TestRandomBox:
    @given(st.integers(1, 5000), st.integers(1, 5000), st.integers(0, 2**32))
    def test_a_box_lies_inside_the_picture(self, width: int, height: int, seed: int) -> None:
        left, top, right, bottom = augment.random_box(width, height, (0.08, 1.0), np.random.default_rng(seed))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height

    def test_boxes_cover_the_asked_shares_of_the_area(self) -> None:
        rng = np.random.default_rng(0)
        boxes = [augment.random_box(500, 400, (0.25, 1.0), rng) for _ in range(300)]
        shares = [(right - left) * (bottom - top) / 200_000 for left, top, right, bottom in boxes]
        ratios = [(right - left) / (bottom - top) for left, top, right, bottom in boxes]
        # Sides are rounded to whole pixels, some 1 % of the smallest; the centre square is 0.8 of the area.
        assert min(shares) > 0.24
        assert 0.25 < np.quantile(shares, 0.1) < 0.4
        assert max(shares) > 0.9
        assert 0.74 < min(ratios) < 0.8 < 1.25 < max(ratios) < 1.35


class TestCutmix:
    @given(seed=st.integers(0, 2**32), height=st.integers(1, 20), width=st.integers(1, 20), count=st.integers(1, 5))
    def test_each_target_is_the_share_of_pixels_that_are_its_own(
        self, seed: int, height: int, width: int, count: int
    ) -> None:
        """Picture n holds the value n everywhere, so its pixels tell where they came from."""
        pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, height, width, 3).clone()
        mixed, shares_NK = augment.cutmix(pixels, torch.arange(count), count, np.random.default_rng(seed))
        for n in range(count):
            own, foreign = ((mixed[n, :, :, 0] == source).float().mean().item() for source in (n, (n - 1) % count))
            assert shares_NK[n, n].item() == pytest.approx(own, abs=1e-6)
            assert shares_NK[n, (n - 1) % count].item() == pytest.approx(foreign, abs=1e-6)
        torch.testing.assert_close(shares_NK.sum(1), torch.ones(count))

    def test_small_and_large_boxes_come(self) -> None:
        rng, pixels_NHWC = np.random.default_rng(0), torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
        shares = [augment.cutmix(pixels_NHWC, torch.arange(2), 2, rng)[1][0, 1].item() for _ in range(100)]
        assert min(shares) < 0.05
        assert max(shares) > 0.5


class TestPolicies:
    @pytest.mark.parametrize("name", ["trivial", "rand"])
    def test_the_seed_alone_decides_and_pictures_do_change(self, name: str) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        policy = Policy(name)  # type: ignore[arg-type]
        torch.manual_seed(1)
        first = [policy(pixels, seed) for seed in range(12)]
        drawn = torch.rand(1)
        torch.manual_seed(1)
        assert torch.equal(torch.rand(1), drawn)  # dropout's generator was left alone
        second = [policy(pixels, seed) for seed in range(12)]
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
        assert all(a.shape == pixels.shape and a.dtype == np.uint8 for a in first)
        assert len({a.tobytes() for a in first}) > 6  # a weak draw may leave a picture as it is
