"""``summary``: layers of a graph, pictures of filters and activations, and what has none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.command import Command
from tests.helpers.models.region_model import region_model

PHOTO = "photos/val/n01_red/0.jpg"


def test_the_layers_of_a_bundle_and_of_an_onnx(command: Command, here: Path) -> None:
    bundle, onnx = command("summary", "alexnet-int8"), command("summary", "engines/alexnet.onnx")
    assert (bundle.code, onnx.code) == (0, 0)
    for ran in (bundle, onnx):
        lines = [line.split() for line in ran.out.splitlines()]
        assert ["features.0", "Conv", "16", "x", "55", "x", "55", "5,808"] in lines  # 16 filters of 3 x 11 x 11
        assert ran.out.splitlines()[-1].endswith("parameters in 8 layers with weights")


@pytest.mark.parametrize(
    ("model", "size"), [("tiny.safetensors", 5824), ("alexnet-int8", 5808), ("engines/alexnet.onnx", 5808)]
)
def test_the_layers_for_programs(command: Command, here: Path, model: str, size: int) -> None:
    ran = command("summary", model, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    row = next(row for row in found["layers"] if row["layer"] == "features.0")
    assert (row["operator"][:4], row["output"], row["parameters"]) == ("Conv", [16, 55, 55], size)
    assert found["layers"][-1]["output"] == [3]
    assert command("summary", model, "--json", "--filters", "f.png").code == 2


def test_an_engine_that_ends_at_a_layer_is_a_model_as_well(command: Command, here: Path) -> None:
    assert command("build-engine", "--until", "features.5", "--target", "sm89").code == 0
    lines = [line.split() for line in command("summary", "alexnet-fp32-features").out.splitlines()]
    assert ["features.0", "Conv", "16", "x", "55", "x", "55", "5,808"] in lines
    assert lines[-1][-5:] == ["in", "2", "layers", "with", "weights"]
    drawn = command("summary", "alexnet-fp32-features", "--filters", "f.png", "--activations", PHOTO, "-o", "sheets")
    assert drawn.code == 0, drawn.err
    assert len(list((here / "sheets").iterdir())) == 4  # features.1, 2, 4 and 5


@pytest.mark.parametrize("model", ["tiny.safetensors", "alexnet-int8", "alexnet-fp16", "engines/alexnet.onnx"])
def test_the_filters_are_the_same_picture_in_every_form(command: Command, here: Path, model: str) -> None:
    assert command("summary", "tiny.safetensors", "--filters", "expected.png").code == 0
    ran = command("summary", model, "--filters", "found.png")
    assert ran.code == 0, ran.err
    assert "features.0: 16 filters of 11 x 11 pixels and 3 channels" in ran.out
    assert "mid-grey is 0" in ran.out
    with Image.open("expected.png") as first, Image.open("found.png") as second:
        expected, found = np.asarray(first, int), np.asarray(second, int)
    # int8 rounds a weight by half of 1/127 of the largest of its filter, which is one of 255 shades of grey.
    assert np.abs(found - expected).max() <= 2


@pytest.mark.parametrize("model", ["tiny.safetensors", "alexnet-int8"])
def test_there_is_a_sheet_of_activations_per_layer(command: Command, here: Path, model: str) -> None:
    ran = command("summary", model, "--activations", PHOTO, "--output", "sheets")
    assert ran.code == 0, ran.err
    names = sorted(each.name for each in (here / "sheets").iterdir())
    assert [name.split("-")[1] for name in names] == [f"features.{i}" for i in (1, 2, 4, 5, 7, 9, 11, 12)]
    assert all(name in ran.out for name in names)
    assert "brightness is the square root" in ran.out
    with Image.open(here / "sheets" / names[0]) as picture:
        assert picture.size == (16 * (55 + 2) + 2, 55 + 4)


def test_both_at_once(command: Command, here: Path) -> None:
    ran = command("summary", "tiny.safetensors", "--filters", "f.png", "--activations", PHOTO, "-o", "sheets")
    assert ran.code == 0, ran.err
    assert (here / "f.png").is_file()
    assert len(list((here / "sheets").iterdir())) == 8


@pytest.mark.parametrize(
    ("typed", "code", "words"),
    [
        ("alexnet --filters f.png", 1, "alexnet: is an architecture without weights"),
        (f"alexnet --activations {PHOTO} -o m", 1, "alexnet: is an architecture without weights"),
        ("tiny.safetensors --filters f.jpg", 2, "--filters f.jpg: does not end in one of .png"),
        (f"tiny.safetensors --activations {PHOTO}", 2, "--activations and --output belong together"),
        ("tiny.safetensors -o m", 2, "--activations and --output belong together"),
        (f"tiny.safetensors --activations {PHOTO} -o photos", 2, "--output photos: is not empty"),
        ("tiny.safetensors --activations nothing.jpg -o m", 1, "nothing.jpg: no such file"),
        ("tiny.safetensors --num-classes 7", 2, "--num-classes 7: tiny.safetensors has its own number"),
        ("alexnet-int8 --num-classes 7", 2, "--num-classes 7: alexnet-int8 has its own number"),
        ("alexnet --mean 0.5", 2, "--mean: is for an ONNX of another tool, and alexnet is none"),
        ("nothing.onnx --filters f.png", 1, "nothing.onnx: no such ONNX file"),
        ("nothing.safetensors", 1, "nothing.safetensors: no such checkpoint"),
        ("region.onnx --filters f.png", 1, "region.onnx: its first layer gemm_2 is a Gemm, not a convolution"),
        (f"region.onnx --activations {PHOTO} -o m", 1, "region.onnx: no layer gives maps of the photo"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(command: Command, here: Path, typed: str, code: int, words: str) -> None:
    region_model(here / "region.onnx")
    ran = command("summary", *typed.split())
    assert ran.code == code
    assert words in ran.error
    assert not (here / "f.png").exists()
    assert not (here / "m").exists()
