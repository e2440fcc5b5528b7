"""The family is the published one: parameter counts, key names, the paper's formulas, each switch's effect."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from alexnet_deploy.contract import IMAGENET_MEAN, IMAGENET_STD
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.model.architecture import (
    FAMILY,
    AlexNet,
    PixelClassifier,
    architecture_from_dict,
    get_architecture,
    initialise,
)
from alexnet_deploy.model.lrn import PaperLRN

SMALL = {"num_classes": 5, "hidden": 64}


def on_meta(name: str, **switches: Any) -> AlexNet:
    with torch.device("meta"):
        return AlexNet(get_architecture(name, **switches))


def parameter_count(model: AlexNet) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def features(model: AlexNet) -> list[nn.Module]:
    return list(model.get_submodule(model.arch.feature_name).children())


def kinds(model: AlexNet) -> list[str]:
    return [type(layer).__name__ for layer in features(model)]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("alexnet", 61_100_840),
        ("alexnet-2012", 60_965_224),
        ("alexnet-review", 62_378_344),
        ("alexnet-review-code", 61_264_904),
    ],
)
def test_parameters_and_output_at_1000_classes(name: str, parameters: int) -> None:
    model = on_meta(name).eval()
    assert parameter_count(model) == parameters
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


@pytest.mark.parametrize("name", FAMILY)
def test_each_stage_has_the_papers_sides(name: str) -> None:
    x_NCHW, sides = torch.empty(1, 3, 224, 224, device="meta"), []
    for layer in features(on_meta(name)):
        x_NCHW = layer(x_NCHW)
        sides += [x_NCHW.shape[-1]] if isinstance(layer, nn.Conv2d | nn.MaxPool2d) else []
    assert sides == [55, 27, 27, 13, 13, 13, 13, 6]


@pytest.mark.parametrize(
    ("name", "features", "widths", "parts"),
    [
        ("alexnet", "features", (64, 192, 384, 256, 256), ("weight", "bias")),
        ("alexnet-review-code", "feature_extraction", (96, 192, 384, 256, 256), ("weight",)),
    ],
)
def test_keys_and_shapes_are_those_of_torchvision_and_of_the_reviews_code(
    name: str, features: str, widths: tuple[int, ...], parts: tuple[str, ...]
) -> None:
    expected: dict[str, tuple[int, ...]] = {}
    for layer, into, out, side in zip((0, 3, 6, 8, 10), (3, *widths[:-1]), widths, (11, 5, 3, 3, 3), strict=True):
        shapes = {"weight": (out, into, side, side), "bias": (out,)}
        expected |= {f"{features}.{layer}.{part}": shapes[part] for part in parts}
    for layer, into, out in ((1, 9216, 4096), (4, 4096, 4096), (6, 4096, 1000)):
        expected |= {f"classifier.{layer}.weight": (out, into), f"classifier.{layer}.bias": (out,)}
    assert {key: tuple(value.shape) for key, value in on_meta(name).state_dict().items()} == expected


def test_the_paper_and_the_review_order_lrn_and_pool_as_they_say() -> None:
    first = {name: kinds(on_meta(name))[:8] for name in ("alexnet-2012", "alexnet-review", "alexnet")}
    assert first["alexnet-2012"] == 2 * ["Conv2d", "ReLU", "PaperLRN", "MaxPool2d"]
    assert first["alexnet-review"] == 2 * ["Conv2d", "ReLU", "MaxPool2d", "PaperLRN"]
    assert first["alexnet"] == 2 * ["Conv2d", "ReLU", "MaxPool2d"] + ["Conv2d", "ReLU"]
    assert kinds(on_meta("alexnet-2012")).count("PaperLRN") == 2


@pytest.mark.parametrize("training", [False, True])
def test_lrn_is_the_papers_formula(training: bool) -> None:
    """Section 3.3, channel by channel: k = 2, n = 5, alpha = 1e-4, beta = 0.75."""
    a = np.random.default_rng(0).normal(0, 100, (2, 9, 4, 3))  # large, so that the sum of squares matters
    b = np.empty_like(a)
    for i in range(9):
        squares = (a[:, max(0, i - 2) : min(8, i + 2) + 1] ** 2).sum(1)
        b[:, i] = a[:, i] / (2 + 1e-4 * squares) ** 0.75
    # float64 leaves only rounding; torch's own default (alpha over n, k = 1) is off by tens of percent.
    with torch.set_grad_enabled(training):
        np.testing.assert_allclose(PaperLRN()(torch.from_numpy(a)).numpy(), b, rtol=1e-12)


def test_lrns_gradient_is_the_formulas() -> None:
    a = torch.from_numpy(np.random.default_rng(0).normal(0, 100, (2, 9, 3, 2))).requires_grad_()
    assert torch.autograd.gradcheck(PaperLRN(), a, eps=1e-3)  # against finite differences, in float64


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 2**-10), (torch.bfloat16, 2**-6)])
def test_lrn_takes_what_squares_beyond_float16(training: bool, dtype: torch.dtype, rounding: float) -> None:
    """300 squared is more than float16's 65504, in a forward pass and in the gradient, whose scale is 1000 here."""
    x_NCHW = torch.full((1, 8, 2, 2), 300.0)
    x_NCHW[:, ::2] = -150.0
    exact, found = x_NCHW.clone().requires_grad_(), x_NCHW.to(dtype).requires_grad_()
    expected = nn.functional.local_response_norm(exact, 5, 5e-4, 0.75, 2.0)
    with torch.autocast("cpu", dtype), torch.set_grad_enabled(training):
        given = PaperLRN()(found)
    torch.testing.assert_close(given.detach().float(), expected.detach(), rtol=rounding, atol=0)
    if training:
        (1000 * expected).sum().backward()
        (1000 * given).sum().backward()
        # The gradient is a difference of terms some ten times as large.
        torch.testing.assert_close(found.grad.float(), exact.grad, rtol=10 * rounding, atol=0)


@pytest.mark.parametrize("side", [63, 128, 223, 225, 300])
def test_pictures_of_another_size_are_taken_as_torchvision_takes_them(side: int) -> None:
    model = AlexNet(get_architecture("alexnet", **SMALL)).eval()
    x_NCHW = torch.rand(2, 3, side, side)
    averaged = nn.functional.adaptive_avg_pool2d(model.features(x_NCHW), 6)  # torchvision's forward
    torch.testing.assert_close(model(x_NCHW), model.classifier(averaged.flatten(1)), rtol=0, atol=0)


def test_grouped_convolutions_see_half_of_the_channels() -> None:
    model = AlexNet(get_architecture("alexnet-2012", **SMALL))
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.groups for layer in convolutions] == [1, 2, 1, 2, 2]
    x_NCHW = torch.rand(1, 96, 7, 7)
    changed = x_NCHW.clone()
    changed[:, :48] += 1
    before, after = convolutions[1](x_NCHW), convolutions[1](changed)
    assert torch.equal(before[:, 128:], after[:, 128:])
    assert not torch.isclose(before[:, :128], after[:, :128]).any()


def test_switches_change_what_they_say_and_nothing_else() -> None:
    plain = kinds(on_meta("alexnet"))
    assert kinds(on_meta("alexnet", activation="tanh")) == [kind.replace("ReLU", "Tanh") for kind in plain]
    assert kinds(on_meta("alexnet", lrn="after-pool"))[3] == "PaperLRN"
    pools = [m for m in on_meta("alexnet", overlapping_pool=False).modules() if isinstance(m, nn.MaxPool2d)]
    assert [(pool.kernel_size, pool.stride) for pool in pools] == 3 * [(2, 2)]
    assert on_meta("alexnet", overlapping_pool=False)(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1000)
    assert [m.p for m in on_meta("alexnet", dropout=0.0).modules() if isinstance(m, nn.Dropout)] == [0.0, 0.0]


def test_low_rank_dense_layers_save_what_the_rank_says() -> None:
    full, low = on_meta("alexnet"), on_meta("alexnet", dense_rank=192)
    weights = {key: tuple(value.shape) for key, value in low.state_dict().items() if key.startswith("classifier.1")}
    assert weights == {
        "classifier.1.0.weight": (192, 9216),
        "classifier.1.1.weight": (4096, 192),
        "classifier.1.1.bias": (4096,),
    }
    saved = 9216 * 4096 + 4096 * 4096 - 192 * (9216 + 4096) - 192 * (4096 + 4096)
    assert parameter_count(full) - parameter_count(low) == saved


@pytest.mark.parametrize(
    ("name", "expected"), [("alexnet-2012", (0, 1, 0, 1, 1, 1, 1, 0)), ("alexnet-review-code", (1, 1, 0))]
)
def test_initialisation_of_the_paper(name: str, expected: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = AlexNet(get_architecture(name, **SMALL))
    initialise(model, "paper")
    biases = [value for key, value in model.state_dict().items() if key.endswith("bias")]
    assert [set(bias.tolist()) for bias in biases] == [{b} for b in expected]
    for weight in (value for key, value in model.state_dict().items() if key.endswith("weight")):
        # A deviation estimated from n weights is off by sigma / sqrt(2 n); six of those never happen.
        assert weight.std().item() == pytest.approx(0.01, rel=6 / (2 * weight.numel()) ** 0.5)
        assert abs(weight.mean().item()) < 6 * 0.01 / weight.numel() ** 0.5


def test_initialisation_of_he_keeps_the_scale_through_low_rank_layers() -> None:
    torch.manual_seed(0)
    model = AlexNet(get_architecture("alexnet", dense_rank=16, **SMALL))
    initialise(model, "kaiming")
    first, second, last = (model.get_parameter(f"classifier.{key}.weight") for key in ("1.0", "1.1", "6"))
    for weight, variance in ((first, 1 / 9216), (second, 2 / 16), (last, 1 / 64)):
        assert weight.var().item() == pytest.approx(variance, rel=12 / (2 * weight.numel()) ** 0.5)
    assert not any(value.any() for key, value in model.state_dict().items() if key.endswith("bias"))


def test_pixels_become_what_the_model_was_trained_on() -> None:
    pixels_NHWC = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), np.uint8)
    expected_NHWC = (pixels_NHWC / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    got_NCHW = PixelClassifier(nn.Identity(), IMAGENET_MEAN, IMAGENET_STD)(torch.from_numpy(pixels_NHWC))
    assert got_NCHW.dtype == torch.float32
    # Values up to 2.6 in float32, subtracted and multiplied instead of divided twice: some units in the last place.
    np.testing.assert_allclose(got_NCHW.permute(0, 2, 3, 1).numpy(), expected_NHWC, atol=2e-6)


@pytest.mark.parametrize("name", FAMILY)
def test_an_architecture_survives_json(name: str) -> None:
    arch = get_architecture(name, num_classes=10, hidden=512, dense_rank=8, dropout=0.1)
    assert architecture_from_dict(json.loads(json.dumps(arch.to_dict())), source="x") == arch


@pytest.mark.parametrize(
    "change",
    [
        {"widths": [64, 192, 384, 256]},
        {"widths": [64, 192, 384, 256, 1 << 20]},
        {"widths": [64, 192, 384, 256, 0]},
        {"widths": [64, 192, 384, 256, float("inf")]},
        {"widths": None},
        {"groups": [1, 5, 1, 1, 1]},
        {"groups": [0, 1, 1, 1, 1]},
        {"num_classes": 1},
        {"num_classes": 10.5},
        {"hidden": "4096"},
        {"dense_rank": 4096},
        {"dense_rank": 2.5},
        {"dropout": float("nan")},
        {"lrn": "sometimes"},
        {"activation": "gelu"},
        {"conv_bias": "no"},
        {"feature_name": "classifier"},
        {"name": "resnet"},
        {"surprise": 1},
        *(None, [], "alexnet", {}),  # no architecture at all
    ],
)
def test_an_architecture_that_cannot_be_is_refused(change: Any) -> None:
    raw = FAMILY["alexnet"].to_dict() | change if change and isinstance(change, dict) else change
    with pytest.raises(
        InputError, match=r"^model.safetensors: its architecture is not one of this family \(.+\); export"
    ):
        architecture_from_dict(raw, source="model.safetensors")


@pytest.mark.parametrize(
    ("name", "switches", "says"),
    [
        ("lenet", {}, "`architecture` lenet: unknown; choose one of alexnet, alexnet-2012"),
        ("alexnet", {"dropout": 1.0}, "`dropout` 1.0"),
        ("alexnet", {"dense_rank": 0}, "`dense_rank` 0: must be within 1..4095"),
        ("alexnet", {"num_classes": 1}, "needs at least 2"),
    ],
)
def test_a_switch_out_of_range_names_the_parameter(name: str, switches: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        get_architecture(name, **switches)
    assert says in str(caught.value)
