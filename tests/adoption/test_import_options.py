"""Preprocessing of a foreign model: scales, presets, what overrides what, and what is refused with the numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from alexnet_deploy.adoption.image_input import ImageInput
from alexnet_deploy.adoption.import_options import NO_IMPORT_OPTIONS, ImportOptions, PresetName
from alexnet_deploy.adoption.preprocessing_of import preprocessing_of
from alexnet_deploy.adoption.presets import PRESETS, with_preset
from alexnet_deploy.contract import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from alexnet_deploy.errors import UsageError

IMAGE = ImageInput("x", 1, True, False, 3, 224, 224)
CAFFE_255 = (123.68, 116.779, 103.939)


def rules(image: ImageInput = IMAGE, **options: Any) -> Preprocessing:
    own = ImportOptions(**options)
    return preprocessing_of(with_preset(own), image, Path("net.onnx"), own=own)


class TestScale:
    @pytest.mark.parametrize(
        ("mean", "std", "typed"),
        [
            # Each library's own numbers on 0..255, typed where 0..1 is expected
            ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "`mean` 0.485,0.456,0.406 and `std` 0.229,0.2"),
            (CAFFE_255, (1.0,), "`mean` 0.48502,0.457957,0.407604 and `std` 0.00392157"),
            ((127.5,), (127.5,), "`mean` 0.5 and `std` 0.5"),
            ((0.0,), (255.0,), "`mean` 0 and `std` 1"),
            ((127.0,), (128.0,), "`mean` 0.498039 and `std` 0.501961"),
            ((123.675, 116.28, 103.53), IMAGENET_STD, "`mean` 0.485,0.456,0.406 and `std` 0.229,0.224,0.225"),
            (IMAGENET_MEAN, (58.395, 57.12, 57.375), "`mean` 0.485,0.456,0.406 and `std` 0.229,0.224,0.225"),
        ],
    )  # fmt: skip
    def test_the_other_scale_is_refused_with_the_numbers_to_type(
        self, mean: tuple[float, ...], std: tuple[float, ...], typed: str
    ) -> None:
        with pytest.raises(UsageError, match=f"on the 0..255 scale, expected 0..1; give {re.escape(typed)}"):
            ImportOptions(mean, std)

    @pytest.mark.parametrize(
        ("mean", "std"),
        [(IMAGENET_MEAN, IMAGENET_STD), ((0.5,), (0.5,)), ((0.0,), (1.0,)), ((0.0,), (1 / 255,)), ((0.5,), (1 / 255,)),
         ((1.0,), (1.0,)), ((-0.5,), (1.0,)), ((0.1307,), (0.3081,))],
    )  # fmt: skip
    def test_numbers_of_the_0_to_1_scale_are_taken(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        assert ImportOptions(mean, std).mean == mean

    @pytest.mark.parametrize(
        ("mean", "std", "expected_mean", "expected_std"),
        [
            ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), IMAGENET_MEAN, IMAGENET_STD),
            ((127.5,), (127.5,), (0.5,) * 3, (0.5,) * 3),
            ((0.0,), (1.0,), (0.0,) * 3, (1 / 255,) * 3),
            ((0.0,), (255.0,), (0.0,) * 3, (1.0,) * 3),
        ],
    )
    def test_the_0_to_255_scale_by_name(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        expected_mean: tuple[float, ...],
        expected_std: tuple[float, ...],
    ) -> None:
        found = rules(mean=mean, std=std, scale="0..255")
        # One division in float64
        np.testing.assert_allclose([found.mean, found.std], [expected_mean, expected_std], rtol=1e-12)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"mean": (0.5, 0.5)}, "`mean` (0.5, 0.5): must be one finite number, or three"),
            ({"mean": 0.5}, "`mean` 0.5: must be one finite number"),
            ({"mean": (np.nan, 0.5, 0.5)}, "`mean` (nan, 0.5, 0.5): must be one finite number"),
            ({"std": ("1", "1", "1")}, "`std` ('1', '1', '1'): must be one finite number"),
            ({"std": (0.2, 0.2, 0.0)}, "`std` (0.2, 0.2, 0.0): must be above 0"),
            ({"std": (0.2, -1.0, 0.2)}, "`std` (0.2, -1.0, 0.2): must be above 0"),
            ({"mean": (300.0,), "std": (1.0,)}, "`mean` 300 and `std` 1: on neither the 0..1 nor the 0..255 scale"),
            ({"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "scale": "0..255"}, "`mean` 0.485,0.456,0.406 and `std` 0."),
            ({"scale": "0..255"}, "`scale` is the scale of `mean` and `std`"),
            ({"resize_to": 232, "crop_pct": 0.9}, "`crop_pct` and `resize_to` both set the size before the crop"),
            ({"crop_pct": 87.5}, "`crop_pct` 87.5: is a share of the image"),
            ({"resize_to": 0}, "`resize_to` 0: must be within"),
            ({"crop": (224, 100_000)}, "`crop` 224x100000: each side must be within"),
            ({"resize": "letterbox"}, "`resize` letterbox: unknown; choose one of stretch, shorter-side"),
            ({"channels": "gray"}, "`channels` gray: unknown; choose one of rgb, bgr, grey, rgba"),
            ({"preprocessing": "keras"}, "`preprocessing` keras: Keras has four, by the model: keras-tf"),
        ],
    )  # fmt: skip
    def test_parameters_that_cannot_be(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
            ImportOptions(**options)


@pytest.mark.parametrize(
    ("names", "described"),
    [
        (["bundle", "net.onnx"], [False, True]),
        (["a.onnx", None, "b.onnx"], [True, False, True]),
        (["bundle", None], [True, True]),  # to be refused
    ],
)
def test_they_describe_the_onnx_files_among_engines(names: list[str | None], described: list[bool]) -> None:
    given = ImportOptions((0.5,), (0.5,))
    assert given.for_each(names) == [given if each else NO_IMPORT_OPTIONS for each in described]


class TestPresets:
    @pytest.mark.parametrize(
        ("name", "resize", "resize_to", "interpolation", "channels", "of_black", "of_white"),
        [
            # By the libraries' own formulas: the value of a black and of a white pixel, in red.
            ("torchvision", "shorter-side", 256, "bilinear", "rgb", (0 - 0.485) / 0.229, (1 - 0.485) / 0.229),
            ("timm", "shorter-side", 256, "bicubic", "rgb", (0 - 0.485) / 0.229, (1 - 0.485) / 0.229),
            ("inception", "shorter-side", 256, "bicubic", "rgb", -1, 1),
            ("clip", "shorter-side", 224, "bicubic", "rgb", -0.48145466 / 0.26862954, (1 - 0.48145466) / 0.26862954),
            ("keras-tf", "stretch", None, "nearest", "rgb", 0 / 127.5 - 1, 255 / 127.5 - 1),
            ("keras-torch", "stretch", None, "nearest", "rgb", (0 - 0.485) / 0.229, (1 - 0.485) / 0.229),
            ("keras-caffe", "stretch", None, "nearest", "bgr", 0 - 123.68, 255 - 123.68),
            ("keras-raw", "stretch", None, "nearest", "rgb", 0, 255),
            ("caffe", "stretch", 256, "bilinear", "bgr", 0 - 123.68, 255 - 123.68),
            ("ultralytics", "shorter-side", 224, "bilinear", "rgb", 0, 1),
            ("paddle", "shorter-side", 256, "bilinear", "rgb", (0 - 0.485) / 0.229, (1 - 0.485) / 0.229),
            ("raw", "shorter-side", 256, "bilinear", "rgb", 0, 255),
        ],
    )
    def test_each_is_its_library(
        self,
        name: PresetName,
        resize: str,
        resize_to: int | None,
        interpolation: str,
        channels: str,
        of_black: float,
        of_white: float,
    ) -> None:
        found = rules(preprocessing=name)
        assert (found.resize, found.resize_to, found.interpolation, found.channels) == (
            resize, resize_to, interpolation, channels,
        )  # fmt: skip
        values = [(value - found.mean[0]) / found.std[0] for value in (0.0, 1.0)]
        np.testing.assert_allclose(values, [of_black, of_white], rtol=1e-6, atol=1e-9)  # float64, numbers of 8 digits

    def test_all_are_there(self) -> None:
        assert set(PRESETS) == set(get_args(PresetName)) - {"keras"}

    @pytest.mark.parametrize(
        ("options", "changed"),
        [
            ({"resize_to": 232}, {"resize_to": 232}),
            ({"crop_pct": 0.95}, {"resize_to": 235}),  # timm rounds 224 / 0.95 = 235.8 down
            ({"resize": "stretch"}, {"resize": "stretch", "resize_to": None}),
            ({"resize": "stretch", "resize_to": 224}, {"resize": "stretch", "resize_to": None}),
            ({"resize": "stretch", "crop_pct": 0.9}, {"resize": "stretch", "resize_to": 248}),
            ({"interpolation": "lanczos"}, {"interpolation": "lanczos"}),
            ({"channels": "bgr"}, {"channels": "bgr"}),
            ({"mean": (0.5,)}, {"mean": (0.5, 0.5, 0.5)}),
            ({"std": (57.375,), "scale": "0..255"}, {"std": (0.225, 0.225, 0.225)}),
        ],
    )
    def test_options_override_it(self, options: dict[str, Any], changed: dict[str, Any]) -> None:
        plain, found = rules(preprocessing="torchvision"), rules(preprocessing="torchvision", **options)
        differ = {name for name in Preprocessing.__slots__ if getattr(plain, name) != getattr(found, name)}
        assert differ == set(changed)
        assert {name: getattr(found, name) for name in changed} == changed

    def test_a_resize_to_below_the_crop(self) -> None:
        with pytest.raises(
            UsageError, match=r"200 pixels before the crop are fewer than its 224 x 224; check `crop`, `resize_to`"
        ):
            rules(preprocessing="torchvision", resize_to=200)

    def test_what_is_done_is_said_in_one_line(self) -> None:
        assert rules(preprocessing="caffe").describe() == (
            "both sides to 256, centre crop 224 x 224, bilinear; BGR, mean 0.48502,0.45796,0.4076, "
            "std 0.0039216,0.0039216,0.0039216 on 0..1; large JPEGs decoded to 512 or more"
        )
        assert rules(preprocessing="keras-tf").describe().startswith("stretched to 224 x 224, nearest; RGB, mean 0.5,")
        assert rules(preprocessing="timm").describe().startswith("shorter side to 256, centre crop 224 x 224, bicubic")
