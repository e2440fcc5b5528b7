"""The options for an ONNX of another tool are the same in all commands and reach the model."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.cli import GROUPS
from alexnet_deploy.cli.flags import flag_of
from alexnet_deploy.serving.engines.sources import find_sources
from tests.helpers.command import Command
from tests.helpers.models.graphs import graph_model

FIELDS = tuple(ImportOptions.__dataclass_fields__)
TAKE_ONE = [
    command
    for commands in GROUPS.values()
    for command in commands
    if "preprocessing" in inspect.signature(command).parameters
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that says where an image is bright, and a wide image that is bright at its left end alone."""
    folder = tmp_path_factory.mktemp("foreign")
    body = (
        "p = AveragePool <kernel_shape = [48, 16], strides = [48, 16]> (x); m = ReduceMean <keepdims = 0> (p, one); "
        "f = Flatten (m); y = MatMul (f, w)"
    )
    model = graph_model(
        "(float[N,3,48,48] x) => (float[N,3] y)", body, one=np.array([1]), w=np.eye(3, dtype=np.float32) * 20
    )
    onnx.save(model, folder / "where.onnx")
    (folder / "labels.json").write_text(json.dumps({"0": "left", "1": "middle", "2": "right"}, indent=1))
    pixels = np.full((100, 300, 3), 30, np.uint8)
    pixels[:, :90], pixels[:, 140:160] = 240, 60
    Image.fromarray(pixels).save(folder / "wide.png")
    return folder


def test_they_are_one_set_in_every_command_that_takes_such_a_file() -> None:
    assert {command.__name__ for command in TAKE_ONE} >= {"infer", "build_engine", "evaluate", "compare", "profile"}
    for command in TAKE_ONE:
        parameters = inspect.signature(command).parameters
        assert set(FIELDS) <= set(parameters)
        assert "import_options" not in parameters
        assert flag_of(command, "crop_pct") == "--crop-pct"


@pytest.mark.parametrize("command_name", ["infer", "compare"])
def test_help_shows_them_in_a_section_of_their_own(command: Command, command_name: str) -> None:
    text = command(command_name, "--help").out
    section = text[text.index("Options for another tool's ONNX:") :]
    assert re.findall(r"^  (--[a-z-]+)", section, re.M) == [
        "--preprocessing", "--resize", "--resize-to", "--crop-pct", "--crop", "--crop-offset", "--interpolation",
        "--channels", "--mean", "--std", "--scale", "--labels", "--output-name", "--activation",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "answer", "images"),
    [
        ("--mean 0 --std 1 --resize stretch", "left", "stretched to 48 x 48, bilinear"),
        ("--preprocessing keras-tf", "left", "stretched to 48 x 48, nearest; RGB, mean 0.5"),
        ("--mean 0 --std 1", "middle", "shorter side to 54, centre crop 48 x 48, bilinear"),
        ("--preprocessing timm --crop-pct 1 --crop 48", "middle", "shorter side to 48, centre crop 48 x 48, bicubic"),
        ("--preprocessing raw --channels bgr", "middle", "BGR, mean 0,0,0, std 0.0039216"),
        ("--mean 0,0,0 --std 255,255,255 --scale 0..255 --resize stretch", "left", "mean 0,0,0, std 1,1,1 on 0..1"),
    ],
)
def test_they_reach_the_model(command: Command, folder: Path, options: str, answer: str, images: str) -> None:
    ran = command(
        "infer", folder / "wide.png", "--engine", folder / "where.onnx", "--labels", folder / "labels.json",
        "--runtime", "onnxruntime", "--format", "jsonl", *options.split(),
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["top"][0]["label"] == answer
    assert images in ran.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--mean 123.675,116.28,103.53 --std 58.395,57.12,57.375",
         "give --mean 0.485,0.456,0.406 and --std 0.229,0.224,0.225, or --scale 0..255"),
        ("--preprocessing keras", "--preprocessing keras: Keras has four, by the model: keras-tf"),
        ("--resize-to 60 --crop-pct 0.9 --mean 0 --std 1", "--crop-pct and --resize-to both set the size"),
        ("--mean 0 --std 1 --crop 48x", "'48x' is not a size in pixels, such as 224 or 224x320"),
        ("--mean 0 --std 1 --crop 40", "--crop 40x40 does not fit the input of 48 x 48"),
        ("--mean 0", "--std is missing"),
        ("", "does not record how its pixels are normalised; give --mean and --std"),
    ],
)  # fmt: skip
def test_errors_name_the_flags(command: Command, folder: Path, options: str, message: str) -> None:
    ran = command("infer", folder / "wide.png", "--engine", folder / "where.onnx", *options.split())
    assert (ran.code, message in ran.error) == (2, True), ran.err


def test_a_bundle_may_stand_beside_such_a_file(
    command: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx_file, options = folder / "where.onnx", ("--preprocessing", "raw", "--labels", folder / "labels.json")
    assert command("build-engine", onnx_file, "-o", "bundle", *options).code == 0
    explained = command(
        "explain", folder / "wide.png", "-o", "maps", "--engine", "bundle", "--beside", onnx_file, *options
    )
    for ran in (
        command("package", "bundle", onnx_file, "--triton", "repository", *options),
        explained,
    ):
        assert ran.code == 0, ran.err
    assert find_sources(["bundle", str(onnx_file)], tmp_path, "auto", ImportOptions(preprocessing="raw"))
    ran = command("package", "bundle", "--triton", "repository", "--preprocessing", "raw")
    assert (ran.code, "bundle is a bundle; leave it out" in ran.error) == (2, True), ran.err


def test_inspect_shows_the_preprocessing(command: Command, folder: Path, tmp_path: Path) -> None:
    ran = command("build-engine", folder / "where.onnx", "-o", tmp_path / "bundle", "--preprocessing", "caffe")
    assert ran.code == 0, ran.err
    assert "both sides to 54, centre crop 48 x 48, bilinear; BGR" in command("inspect", tmp_path / "bundle").out


def test_a_command_gets_one_value() -> None:
    from alexnet_deploy.cli.import_options import with_import_options

    seen: list[ImportOptions] = []

    def command(engine: str, import_options: ImportOptions, threads: int = 1) -> None:
        seen.append(import_options)

    run: Callable[..., None] = with_import_options(command)
    run(engine="x", mean=(0.5,), std=(0.5,), crop=(8, 9))
    assert seen == [ImportOptions((0.5,), (0.5,), crop=(8, 9))]
    assert [*inspect.signature(run).parameters][:2] == ["engine", "preprocessing"]
