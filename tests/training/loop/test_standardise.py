"""Standardised convolutions, and the ordinary network that they ship as."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from alexnet_deploy.model.architecture import AlexNet, get_architecture, initialise
from training.loop.standardise import plain_weights, standardise_convolutions


@pytest.fixture
def model() -> AlexNet:
    torch.manual_seed(0)
    model = AlexNet(get_architecture("alexnet-2012", num_classes=3, hidden=16))
    initialise(model, "kaiming")
    standardise_convolutions(model)
    return model.eval()


def test_each_output_channel_has_mean_0_and_kaimings_deviation(model: AlexNet) -> None:
    for layer in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        weights = layer.weight.flatten(1)
        fan_in = weights.shape[1]  # of its group
        torch.testing.assert_close(weights.mean(1), torch.zeros(len(weights)), rtol=0, atol=1e-6)
        deviation = torch.full((len(weights),), math.sqrt(2 / fan_in))
        torch.testing.assert_close(weights.std(1, unbiased=False), deviation, rtol=1e-4, atol=0)


def test_an_ordinary_network_with_the_same_answers_ships(model: AlexNet) -> None:
    plain = AlexNet(model.arch).eval()
    plain.load_state_dict(plain_weights(model))  # strict: the published names and no others
    x_NCHW = torch.rand(2, 3, 224, 224)
    torch.testing.assert_close(plain(x_NCHW), model(x_NCHW), rtol=0, atol=0)
    assert any("parametrizations" in name for name in model.state_dict())  # and goes on training as it was


def test_a_scale_or_shift_of_the_raw_weights_changes_nothing(model: AlexNet) -> None:
    x_NCHW = torch.rand(1, 3, 224, 224)
    before = model(x_NCHW)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("weight.original"):
                value.mul_(3.0).add_(0.5)
    torch.testing.assert_close(model(x_NCHW), before, rtol=1e-3, atol=1e-4)  # float32 sums of 2304 terms
