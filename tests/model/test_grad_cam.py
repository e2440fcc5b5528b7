"""Grad-CAM against the formula of the paper, with gradients measured by small steps instead of autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alexnet_deploy.model.architecture import PixelClassifier
from alexnet_deploy.model.checkpoint import Checkpoint
from alexnet_deploy.model.grad_cam import GradCam

PLACES = 13 * 13


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)


@pytest.mark.parametrize("target", [0, 2])
def test_each_map_counts_by_how_much_it_moves_the_logit(
    tiny_checkpoint: Checkpoint, pixels: np.ndarray, target: int
) -> None:
    model = tiny_checkpoint.build()
    pre = tiny_checkpoint.contract.preprocessing
    normalised = PixelClassifier(torch.nn.Identity(), pre.mean, pre.std)(torch.from_numpy(pixels[None]))
    features = model.get_submodule("features")
    step = 1e-3
    with torch.inference_mode():
        maps = features[:12](normalised).double()  # type: ignore[index]
        rest = torch.nn.Sequential(features[12:], torch.nn.Flatten(), model.classifier).double()  # type: ignore[index]
        # All maps at once, each moved alone: the mean gradient is the slope of the logit by the number of places.
        moved = maps.repeat(maps.shape[1], 1, 1, 1)
        for channel in range(maps.shape[1]):
            moved[channel, channel] += step
        slopes = (rest(moved)[:, target] - rest(maps)[0, target]) / step / PLACES
        expected = torch.einsum("m,mhw->hw", slopes, maps[0]).clamp(min=0).numpy()
    model.float()
    found = GradCam(tiny_checkpoint)(pixels, target)
    assert found.shape == (13, 13)
    # A step may cross the kink of a ReLU, and the map is float32.
    np.testing.assert_allclose(found, expected, atol=1e-3 * max(float(expected.max()), 1e-6))


def test_the_map_is_repeatable_and_leaves_the_pixels_alone(tiny_checkpoint: Checkpoint, pixels: np.ndarray) -> None:
    before = pixels.copy()
    cam = GradCam(tiny_checkpoint)
    np.testing.assert_array_equal(cam(pixels, 1), cam(pixels, 1))
    np.testing.assert_array_equal(pixels, before)
    assert cam.layer == "features.10"
