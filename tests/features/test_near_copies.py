"""What is a near copy, on arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alexnet_deploy.features import near_copies
from alexnet_deploy.features.near_copies import Looks, find_pairs


def pictures(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and grey pixels of pictures that have nothing in common."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 64)).astype(np.float32), 255 * rng.random((count, 1024), np.float32)


def test_pictures_that_have_nothing_in_common() -> None:
    assert find_pairs(*pictures(20)) == []


def test_a_brighter_copy_is_found_and_ranks_by_likeness() -> None:
    features, grey = pictures(20)
    features[7], grey[7] = features[3] * 1.2, grey[3] * 0.5 + 20
    features[11] = features[5]
    grey[11] = 0.8 * grey[5] + 0.2 * grey[6]
    first, second = find_pairs(features, grey)
    assert (first.first, first.second, second.first, second.second) == (3, 7, 5, 11)
    assert first.pixels > 0.999 > second.pixels > 0.9
    assert find_pairs(features, grey, 0.999) == [first]


def test_like_features_alone_are_not_enough() -> None:
    """A network that has learned little, or a class well, gives the same features to different pictures."""
    features, grey = pictures(20)
    assert find_pairs(np.ones_like(features) + 1e-3 * features, grey) == []


def test_pictures_of_one_colour_resemble_nothing() -> None:
    features, _ = pictures(4)
    assert find_pairs(np.zeros_like(features), np.full((4, 1024), 30, np.float32)) == []


def test_one_picture_and_two() -> None:
    features, grey = pictures(2)
    assert find_pairs(features[:1], grey[:1]) == []
    assert len(find_pairs(features[[0, 0]], grey[[0, 0]])) == 1
    assert Looks().pairs() == []


def test_the_table_may_come_in_parts(monkeypatch: Any) -> None:
    features, grey = pictures(11)
    features[9], grey[9] = features[2], grey[2]
    whole = find_pairs(features, grey)
    monkeypatch.setattr(near_copies, "_TABLE_BYTES", 4 * 11 * 4)
    assert find_pairs(features, grey) == whole
    assert [(pair.first, pair.second) for pair in whole] == [(2, 9)]


def test_maps_and_pixels_are_averaged_in_any_size() -> None:
    """7 columns in 3 places share two of them; a picture smaller than 32 pixels stays as it is."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 20, 41, 3)).astype(np.uint8)
    maps = rng.random((6, 5, 7, 6), np.float32)
    pixels[4], maps[4] = pixels[1], maps[1]
    looks = Looks()
    looks.add(maps[:3], pixels[:3])
    looks.add(maps[3:], pixels[3:])
    (pair,) = looks.pairs()
    assert (pair.first, pair.second) == (1, 4)
    assert pair.alike > 0.9999
    averaged = near_copies._averaged(maps.reshape(30, 7, 6), 3)
    expected = np.stack([maps[..., a:b, :].mean(-2) for a, b in ((0, 3), (2, 5), (4, 7))], axis=-2)
    expected = np.stack([expected[..., a:b].mean(-1) for a, b in ((0, 2), (2, 4), (4, 6))], axis=-1)
    np.testing.assert_allclose(averaged, expected.reshape(30, 3, 3), rtol=1e-5)  # sums in another order


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1, 1e5, 1e30])
def test_activations_of_any_size(scale: float) -> None:
    """float16 holds 6e-8 to 65504 only."""
    rng = np.random.default_rng(0)
    maps, pixels = rng.random((8, 5, 7, 6), np.float32), rng.integers(0, 256, (8, 20, 41, 3)).astype(np.uint8)
    maps[4], pixels[4] = 0.97 * maps[1] + 0.03 * maps[2], pixels[1]
    maps[6] = 0  # a picture that activates nothing
    looks, scaled = Looks(), Looks()
    looks.add(maps, pixels)
    scaled.add(maps * np.float32(scale), pixels)
    (expected,), (pair,) = looks.pairs(), scaled.pairs()
    assert (pair.first, pair.second) == (1, 4)
    assert expected.features > 0.9
    assert pair.features == pytest.approx(expected.features, abs=1e-3)  # float16 has 11 bits
