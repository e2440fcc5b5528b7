"""Other decoders and resizers, on pictures for which the effect is known."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import InputError
from alexnet_deploy.evaluation.comparison.preprocessing import (
    PreprocessingParity,
    VariantResult,
    run_variants,
    variants_of,
)
from alexnet_deploy.images.decode import load_pixels, open_photo
from alexnet_deploy.images.photo import Photo
from tests.helpers.command import Command
from tests.helpers.runners import FakeRunner

STRETCH = Preprocessing(32, 32, "stretch", None)
CROP = Preprocessing(32, 32, "shorter-side", 36)


class Sums(FakeRunner):
    """A runner whose logits are the mean red and the mean blue of the pixels."""

    def __init__(self, pre: Preprocessing) -> None:
        super().__init__(ModelContract("sums", ("red", "blue"), ("red", "blue"), pre))

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits_NK: NDArray[np.float32] = pixels_NHWC[..., ::2].mean(axis=(1, 2), dtype=np.float32)
        return logits_NK


def measured(files: list[Path], pre: Preprocessing, targets: list[int] | None = None) -> dict[str, VariantResult]:
    return {row.name: row for row in run_variants(Sums(pre), files, targets).variants}


def photo(path: Path, width: int, height: int, seed: int = 0) -> Path:
    """Something with edges, shades and noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((width, height))
    pixels = np.asarray(coarse) + rng.normal(0, 12, (height, width, 3))
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("pre", [STRETCH, CROP], ids=["stretch", "crop"])
@pytest.mark.parametrize("name", ["even.png", "even.jpg"])
def test_an_even_picture_is_the_same_for_all(tmp_path: Path, pre: Preprocessing, name: str) -> None:
    Image.new("RGB", (301, 207), (200, 120, 40)).save(tmp_path / name)
    for row in measured([tmp_path / name], pre).values():
        assert (row.touched, row.mean_abs_pixel, row.max_logit_change, row.changed) == (0, 0, 0, 0), row.name


def test_stripes_alias_without_antialiasing(tmp_path: Path) -> None:
    """Of three columns one is red, and a third of the size meets just that one: the answer goes from blue to red."""
    pixels_HWC = np.zeros((96, 96, 3), np.uint8)
    pixels_HWC[:, :, 2] = 255
    pixels_HWC[:, 1::3] = (255, 0, 0)
    Image.fromarray(pixels_HWC).save(tmp_path / "stripes.png")
    found = measured([tmp_path / "stripes.png"], STRETCH, [1])
    aliased = found["no antialias"]
    assert (aliased.touched, aliased.changed, aliased.top1_points) == (1, 1, -100)
    # red 255 and blue 0 where they belong to 85 and 170, green alike
    assert aliased.mean_abs_pixel == pytest.approx((170 + 0 + 170) / 3, abs=8)  # the triangle reaches over columns
    assert (found["bicubic"].changed, found["bicubic"].top1_points) == (0, 0)
    assert found["bicubic"].mean_abs_pixel < aliased.mean_abs_pixel / 4
    assert found["reduced decode"].touched == 0  # a PNG has no coefficients to leave out


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.sampled_from([(8, 8), (7, 12), (64, 40)]),
    crop=st.booleans(),
)
@settings(max_examples=60)
def test_without_antialiasing_is_what_torch_does(width: int, height: int, size: tuple[int, int], crop: bool) -> None:
    """torch resizes the whole picture, then the crop is cut out: the geometry by another way."""
    if crop and max(width, height) > 8 * min(width, height):
        return  # a panorama resized as a whole
    to = max(size) + 3
    pre = Preprocessing(*size, "shorter-side", to) if crop else Preprocessing(*size, "stretch", None)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    shorter = min(width, height)
    resized = (to * height // shorter, to * width // shorter) if crop else size
    source = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].double()
    whole_HWC = torch.nn.functional.interpolate(source, resized, mode="bilinear")[0].permute(1, 2, 0).numpy()
    top, left = round((resized[0] - size[0]) / 2), round((resized[1] - size[1]) / 2)
    expected_HWC = whole_HWC[top : top + size[0], left : left + size[1]]
    variant = next(v for v in variants_of(pre) if v.name == "no antialias")
    # 0.5 for rounding; the weights are float32
    np.testing.assert_allclose(variant.pixels(Path(), Photo.in_full(image), pre), expected_HWC, atol=0.51)


@pytest.mark.parametrize("pre", [STRETCH, CROP], ids=["stretch", "crop"])
def test_reduced_decoding_touches_large_jpegs_alone(tmp_path: Path, pre: Preprocessing) -> None:
    large, small = photo(tmp_path / "large.jpg", 300, 200), photo(tmp_path / "small.jpg", 60, 50)
    assert measured([large], pre)["reduced decode"].touched == 1
    assert measured([small], pre)["reduced decode"].touched == 0  # at a half it would not cover the input
    assert measured([photo(tmp_path / "large.png", 300, 200)], pre)["reduced decode"].touched == 0


def test_reduced_decoding_keeps_orientation_and_colour(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(photo(tmp_path / "upright.jpg", 320, 200)) as image:
        image.save(tmp_path / "turned.jpg", exif=exif)
        image.convert("CMYK").save(tmp_path / "cmyk.jpg")
        image.convert("L").save(tmp_path / "grey.jpg")
    for name in ("turned", "cmyk", "grey"):
        row = measured([tmp_path / f"{name}.jpg"], STRETCH)["reduced decode"]
        assert row.touched == 1
        assert row.mean_abs_pixel < 4, name  # turned or of other colours it would be dozens


def test_the_other_rule_and_the_other_filter_are_those_of_load_pixels(tmp_path: Path) -> None:
    file = photo(tmp_path / "a.png", 120, 70)
    stretch = dataclasses.replace(CROP, resize="stretch", resize_to=None)
    for name, pre, meant in (
        ("bicubic", CROP, dataclasses.replace(CROP, interpolation="bicubic")),
        ("stretch", CROP, stretch),
        ("shorter-side", stretch, CROP),
    ):
        variant = next(v for v in variants_of(pre) if v.name == name)
        np.testing.assert_array_equal(variant.pixels(file, open_photo(file, pre), pre), load_pixels(file, meant))


def test_unreadable_files_are_left_out_and_targets_stay_in_step(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    files = [broken]
    for name, colour in (("red", "red"), ("blue", "blue")):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{name}.png")
        files.append(tmp_path / f"{name}.png")
    found = run_variants(Sums(STRETCH), files, [1, 0, 1])
    assert (found.images, found.top1_percent, len(found.unreadable)) == (2, 100, 1)
    with pytest.raises(InputError, match=r"none of the 1 images can be read \(.*broken\.jpg"):
        run_variants(Sums(STRETCH), [broken], None)


def test_the_command(here: Path, command: Command) -> None:
    run = partial(command, "preprocessing-parity", "exact", "--runtime", "onnxruntime")
    found = json.loads(run("--data", "photos/val", "--json").out)
    assert found.keys() == {field.name for field in dataclasses.fields(PreprocessingParity)}
    assert (found["images"], found["top1_percent"], found["unlabelled"]) == (6, 100, None)
    assert [row["name"] for row in found["variants"]] == [
        *("reduced-2x", "reduced-3x", "reduced-4x", "reduced decode", "bicubic", "no antialias", "shorter-side")
    ]
    out = run("--data", "photos/val/n01_red", "--images", "2").out
    assert "reference: stretch to 8 x 8, bilinear, antialiased: 2 images" in out
    assert "no accuracy: " in out
    (here / "photos/val/n01_red/broken.jpg").write_bytes(b"no photo")
    ran = run("--data", "photos/val/n01_red")
    assert ran.code == 3
    assert "1 of 3 images cannot be read" in ran.err
