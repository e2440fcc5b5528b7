"""A checkpoint as a folder of the Hugging Face hub: exact for us, and readable by the hub's own conventions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from alexnet_deploy.contract import ModelContract, Preprocessing
from alexnet_deploy.errors import InputError, UnavailableError, UsageError
from alexnet_deploy.model.architecture import AlexNet, get_architecture
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.helpers.command import Command
from tests.training.start.files import small_checkpoint
from training.packing.hf_folder import write_hf_folder
from training.start.sources import read_source

CHECKPOINT = small_checkpoint("ant", "bee", "cat")
FILES = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_checkpoint(CHECKPOINT, tmp_path / "own.safetensors")


def with_pixels(pre: Preprocessing) -> Checkpoint:
    return dataclasses.replace(CHECKPOINT, contract=dataclasses.replace(CHECKPOINT.contract, preprocessing=pre))


def test_it_comes_back_bit_by_bit(cli: Command, path: Path, tmp_path: Path) -> None:
    code, out, err = cli("pack", path, "--hf", tmp_path / "hub")
    assert (code, out, err) == (0, "", f"wrote {tmp_path / 'hub'}\n")
    assert {file.name for file in (tmp_path / "hub").iterdir()} == FILES
    source = read_source(tmp_path / "hub")
    assert (source.arch, source.contract) == (CHECKPOINT.arch, CHECKPOINT.contract)
    assert all(torch.equal(source.weights[key], value) for key, value in CHECKPOINT.weights.items())
    assert cli("pack", path, "--hf", tmp_path / "hub").code == 0, "an earlier one is replaced"


@pytest.mark.parametrize(
    "pre",
    [
        Preprocessing(crop_offset="floor"),
        Preprocessing(resize_to=240, interpolation="bicubic", mean=(0.5,) * 3, std=(0.25,) * 3, crop_offset="floor"),
        Preprocessing(resize="stretch", resize_to=None, crop_offset="floor"),
        Preprocessing(resize="stretch", resize_to=256, interpolation="lanczos", crop_offset="floor"),
    ],
)
@pytest.mark.parametrize("rank", [None, 2])
def test_without_our_metadata_the_hubs_files_say_the_same(tmp_path: Path, pre: Preprocessing, rank: int | None) -> None:
    """As after another tool has saved the weights again. Hub processors round a crop's offset down."""
    arch = dataclasses.replace(CHECKPOINT.arch, dense_rank=rank)
    checkpoint = dataclasses.replace(with_pixels(pre), arch=arch, weights=AlexNet(arch).state_dict())
    folder = write_hf_folder(checkpoint, tmp_path / "hub")
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", {"format": "pt"})
    source = read_source(folder)
    assert source.arch == arch
    assert source.contract.preprocessing == pre
    assert source.contract.labels == CHECKPOINT.contract.labels
    assert all(torch.equal(source.weights[key], value) for key, value in checkpoint.weights.items())


def test_config_and_weights_follow_transformers_conventions(tmp_path: Path) -> None:
    labels = ("crane", "owl", "crane")  # ImageNet has two cranes
    contract = ModelContract("alexnet", labels, ("n1", "n2", "n3"))
    half = {key: value.half() for key, value in CHECKPOINT.weights.items()}
    folder = write_hf_folder(dataclasses.replace(CHECKPOINT, contract=contract, weights=half), tmp_path / "hub")
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["torch_dtype"], config["image_size"]) == ("alexnet", "float16", 224)
    assert config["id2label"] == {"0": "crane", "1": "owl", "2": "crane"}
    assert config["label2id"] == {"crane": 0, "owl": 1}
    assert config["alexnet_deploy"]["class_ids"] == ["n1", "n2", "n3"]
    assert b'"format":"pt"' in (folder / "model.safetensors").read_bytes()[:4096]
    card = (folder / "README.md").read_text()
    assert card.startswith("---\npipeline_tag: image-classification\n")
    assert "Accuracy: not measured" in card
    assert "torchvision.models" not in card, "torchvision's has 4096 hidden units"


def test_the_card_of_torchvisions_network_shows_how_to_load_it(tmp_path: Path) -> None:
    arch = get_architecture("alexnet", num_classes=3)
    weights = {key: torch.zeros(value.shape, dtype=torch.float16) for key, value in _shapes(arch).items()}
    recipe = {
        "evaluation": {"top1_percent": 87.3, "top5_percent": 98.9, "images": 2925},
        "recipe": {"name": "transfer", "epochs": 20},
        "started_from": {"source": "imagenet1k"},
    }
    write_hf_folder(Checkpoint(arch, CHECKPOINT.contract, weights, recipe), tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "model = alexnet(num_classes=3).eval()" in card
    assert "Accuracy: top-1 87.3 %, top-5 98.9 % on 2925 images." in card
    assert "Training: recipe transfer, 20 epochs, from the weights of imagenet1k." in card


@pytest.mark.parametrize(
    ("recipe", "text"),
    [
        (
            {"recipe": {"name": "transfer", "epochs": 20}, "early_stop": 3, "result": {"epoch": 22},
             "test_scale": {"result_before": {"epoch": 4}, "recipe": {"epochs": 2}}},
            "recipe transfer, epoch 4, the best by validation (20 were planned), then 2 epochs at test scale.",
        ),
        ({"recipe": {"name": "x](http://b)"}, "started_from": {"source": "<b>.pth"}},
         "recipe x\\](http\\://b), from the weights of \\<b\\>.pth."),
    ],
)  # fmt: skip
def test_its_training_is_what_happened(tmp_path: Path, recipe: dict[str, object], text: str) -> None:
    folder = write_hf_folder(dataclasses.replace(CHECKPOINT, recipe=recipe), tmp_path / "hub")
    assert f"- Training: {text}" in (folder / "README.md").read_text()


def test_names_are_shown_and_never_run(tmp_path: Path) -> None:
    labels = ("<img src=x onerror=alert(1)>", "[a](http://b)", "`x`\n# y")
    contract = ModelContract("alexnet", labels, ("a", "b", "c"))
    folder = write_hf_folder(dataclasses.replace(CHECKPOINT, contract=contract), tmp_path / "hub")
    card = (folder / "README.md").read_text()
    assert "\\<img src=x onerror=alert(1)\\>, \\[a\\](http\\://b), \\`x\\` \\# y." in card
    assert json.loads((folder / "config.json").read_text())["id2label"]["0"] == labels[0]


def test_without_our_metadata_the_class_ids_are_those_of_the_config(tmp_path: Path) -> None:
    """Folders of data are named by them; the labels are for people."""
    folder = write_hf_folder(CHECKPOINT, tmp_path / "hub")
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", {"format": "pt"})
    assert read_source(folder).contract.class_ids == ("ant", "bee", "cat")
    assert read_source(folder).contract.labels == ("the ant", "the bee", "the cat")
    config = json.loads((folder / "config.json").read_text())
    for wrong in (["ant", "bee"], ["ant", "bee", 3], "ant", ["ant", "bee", ""]):
        config["alexnet_deploy"]["class_ids"] = wrong
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match=r"`start` .*config.json: its class_ids do not name each of 3"):
            read_source(folder)
    config["alexnet_deploy"]["class_ids"] = ["ant", "bee", "ant"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"the class id ant stands for two classes"):
        read_source(folder)


@pytest.mark.parametrize(("size", "measured"), [(None, True), (256, True), (300, False)])
def test_an_accuracy_is_not_that_of_another_contract(
    cli: Command, tiny_checkpoint: Checkpoint, tmp_path: Path, size: int | None, measured: bool
) -> None:
    recipe = tiny_checkpoint.recipe | {"evaluation": {"top1_percent": 87.3, "top5_percent": 98.9, "images": 2925}}
    own = save_checkpoint(dataclasses.replace(tiny_checkpoint, recipe=recipe), tmp_path / "own.safetensors")
    assert cli("pack", own, "--hf", tmp_path / "hub", *(() if size is None else ("--resize-to", size))).code == 0
    assert ("Accuracy: top-1 87.3 %" in (tmp_path / "hub" / "README.md").read_text()) is measured
    assert ("Accuracy: not measured" in (tmp_path / "hub" / "README.md").read_text()) is not measured
    assert ("evaluation" in load_checkpoint(tmp_path / "hub" / "model.safetensors").recipe) is measured


def _shapes(arch: object) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return AlexNet(arch).state_dict()  # type: ignore[arg-type]


def test_with_an_output_both_have_the_float16_weights_and_their_accuracy(
    cli: Command, tiny_checkpoint: Checkpoint, photo_folder: Path, tmp_path: Path
) -> None:
    own = save_checkpoint(tiny_checkpoint, tmp_path / "own.safetensors")
    output, hub = tmp_path / "packed.safetensors", tmp_path / "hub"
    code, out, _ = cli("pack", own, output, "--data", photo_folder / "val", "--hf", hub, "--workers", "0")
    assert code == 0
    packed, source = read_source(output), read_source(hub)
    assert {value.dtype for value in source.weights.values()} == {torch.float16}
    assert all(torch.equal(packed.weights[key], value) for key, value in source.weights.items())
    assert f"top-1 {json.loads(out)['top1_percent']} %" in (hub / "README.md").read_text()


def test_what_cannot_be_written_is_refused_in_one_line(cli: Command, path: Path, tmp_path: Path) -> None:
    assert cli("pack", path).err == (
        "error: OUTPUT: is missing; name the float16 checkpoint to write, or a folder with --hf\n"
    )
    assert cli("pack", path, tmp_path / "x.safetensors") == (
        2, "", "error: --data: is missing; give images to measure the float16 weights on\n",
    )  # fmt: skip
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(UsageError, match=r"`hf` .*mine: holds thesis.txt, which would be lost; choose a new folder"):
        write_hf_folder(CHECKPOINT, tmp_path / "mine")
    with pytest.raises(UnavailableError, match=r"a file of this name is in the way"):
        write_hf_folder(CHECKPOINT, path)
