"""Errors of ``package`` and hostile names: one line each, and nothing is left or replaced."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, set_contract
from alexnet_deploy.serving.triton.choose import triton_name
from alexnet_deploy.serving.triton.config_text import to_pbtxt
from alexnet_deploy.serving.triton.kserve import kubernetes_name
from alexnet_deploy.serving.triton.repository import RECORD
from tests.helpers.command import Command
from tests.helpers.models.onnx_models import SIDE, tiny_model
from tests.serving.triton.reading import config_of, models_in

HOSTILE = 'a"b\\c\nname: "x" \r\t\x1b[31m\u2028é: {}#'


def test_unknown_engine(command: Command, here: Path) -> None:
    result = command("package", "no-such", "--triton", "repo")
    assert result.code == 1
    assert result.error == "error: no-such: no such engine in engines/; it contains exact, ruined"
    assert not Path("repo").exists()


@pytest.mark.parametrize("runtime", ["openvino", "tensorrt", "auto", "no-such"])
def test_an_engine_with_a_runtime(runtime: str, command: Command, here: Path) -> None:
    for engine in ("exact", "engines/exact", "colours.onnx"):
        result = command("package", f"{engine}@{runtime}", "--triton", "repo")
        assert result.code == 2
        assert result.error == (
            f"error: {engine}@{runtime}: Triton runs engines with runtimes of its own; name the engine {engine}"
        )
    Path("engines/exact").rename(f"engines/exact@{runtime}")
    assert command("package", f"exact@{runtime}", "--triton", "repo").code == 0


@pytest.mark.parametrize("target", ["foo", "", "sm", "sm8x", "portable", "all", "current"])
def test_no_target(target: str, command: Command, here: Path) -> None:
    """``portable`` and ``all`` are TensorRT-RTX's; Triton chooses by itself what is ``current``."""
    result = command("package", "exact", "--triton", "repo", "--target", target)
    assert result.code == 2
    assert result.error.startswith(f"error: --target {target}: unknown; ")
    assert "choose from sm75, sm80, " in result.error
    assert not Path("repo").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.pbtxt", "of another tool"),
        (RECORD, "not JSON"),
        (RECORD, '{"schema": 1}'),
        (RECORD, '{"schema": 1, "files": [1]}'),
        (RECORD, '{"schema": 99, "files": []}'),
    ],
)
def test_a_folder_of_another_tool(file: str, content: str, command: Command, here: Path) -> None:
    Path("repo").mkdir()
    Path("repo", file).write_text(content)
    result = command("package", "exact", "--triton", "repo")
    assert (result.code, result.error.startswith("error: repo")) == (1, True)
    assert {path.name for path in Path("repo").iterdir()} == {file}
    assert Path("repo", file).read_text() == content


@pytest.mark.parametrize("link", [False, True])
def test_a_repository_with_something_added(link: bool, command: Command, here: Path) -> None:
    command("package", "exact", "--triton", "repo")
    if link:
        Path("repo/mine").symlink_to(here / "photos")
    else:
        Path("repo/mine").mkdir()
        Path("repo/mine/config.pbtxt").touch()
    result = command("package", "exact", "--triton", "repo")
    assert (result.code, "holds mine" in result.error) == (1, True)
    assert models_in(Path("repo")) >= {"exact", "mine"}


def test_a_file_in_the_way(command: Command, here: Path) -> None:
    Path("repo").write_text("mine")
    assert command("package", "exact", "--triton", "repo").code == 1
    assert Path("repo").read_text() == "mine"


def test_a_damaged_engine_leaves_the_old_repository(command: Command, here: Path) -> None:
    command("package", "exact", "--triton", "repo")
    with Path("engines/exact/model.onnx").open("r+b") as file:
        file.write(b"damaged")
    result = command("package", "exact", "--triton", "repo")
    assert (result.code, "was edited" in result.error) == (1, True)
    assert models_in(Path("repo")) == {"exact"}


def test_two_engines_of_one_name(command: Command, here: Path) -> None:
    shutil.copytree("engines/exact", "engines/exact-decode")
    for engines, name in ((("exact", "exact"), "exact"), (("exact", "exact-decode"), "exact-decode")):
        result = command("package", *engines, "--triton", "repo", "--preprocess")
        assert (result.code, f"its model {name} has the name of one of exact;" in result.error) == (2, True)


@pytest.mark.parametrize("arguments", [("--instances", 0), ("--max-queue", 0), ("--max-delay", "2h")])
def test_settings_out_of_range(arguments: tuple[object, ...], command: Command, here: Path) -> None:
    result = command("package", "exact", "--triton", "repo", *arguments)
    assert (result.code, str(arguments[0]) in result.error) == (2, True)


def test_hostile_names_and_labels_stay_text(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tiny_model(tmp_path / "plain.onnx")
    model = load_onnx(path)
    labels = tuple(f"{HOSTILE}{k}" for k in range(10))
    given_, got = f"{HOSTILE}in", f"{HOSTILE}out"
    for node in model.graph.node:
        node.input[:] = [given_ if name == "pixels" else name for name in node.input]
        node.output[:] = [got if name == "logits" else name for name in node.output]
    model.graph.input[0].name, model.graph.output[0].name = given_, got
    set_contract(model, ModelContract("tiny", labels, labels, Preprocessing(SIDE, SIDE, "stretch", None), given_, got))
    hostile = tmp_path / f"{HOSTILE}.onnx"
    onnx.save(model, hostile)

    result = command("package", hostile, "--triton", HOSTILE, "--preprocess", "--kserve", "--json")
    assert result.code == 0
    (photos, name) = json.loads(result.out)["models"]
    assert name == triton_name(hostile.stem) == "a_b_c_name_x_31m_"
    config = config_of(Path(HOSTILE, name))
    assert (config["input"][0]["name"], config["output"][0]["name"]) == (given_, got)
    steps = config_of(Path(HOSTILE, photos))["ensemble_scheduling"]["step"]
    assert steps[0]["output_map"] == {given_: "step_pixels"}
    lines = Path(HOSTILE, name, "labels.txt").read_text(encoding="utf-8").split("\n")
    assert len(lines) == len(labels) + 1
    assert all(line.isprintable() for line in lines)
    manifest = Path(HOSTILE, "inferenceservice.yaml").read_text(encoding="utf-8").splitlines()
    assert manifest[5] == '  name: "a-b-c-name-x-31m"'
    assert manifest[6:9:2] == ["  annotations:", "spec:"]
    assert json.loads(Path(HOSTILE, RECORD).read_text(encoding="utf-8"))["models"][0]["engine"] == hostile.stem


@given(st.text())
def test_names_are_valid(text: str) -> None:
    name = triton_name(text)
    assert name.isascii()
    assert name[0].isalnum()
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    service = kubernetes_name(text)
    assert service[0].isalpha()
    assert service[-1].isalnum()
    assert set(service) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert len(service) <= 63


def test_the_schema_refuses_what_triton_does_not_have() -> None:
    for config in ({"no_such_field": 1}, {"input": [{"data_type": "TYPE_NONE_SUCH"}]}):
        with pytest.raises(ValueError, match="not a ModelConfig"):
            to_pbtxt(config)
