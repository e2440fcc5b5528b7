"""Accuracy of a checkpoint, and the float16 checkpoint that carries it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from alexnet_deploy.errors import InputError
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.ten_crops import picture_for_crops, ten_crops
from alexnet_deploy.model.architecture import PixelClassifier
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.helpers.command import Command
from tests.helpers.photos import CLASSES
from training.data.lists.listing import list_class_folders, list_val_images
from training.packing.pack import pack
from training.results.evaluate import evaluate_checkpoint


def with_bias(checkpoint: Checkpoint, *bias: float) -> Checkpoint:
    return dataclasses.replace(checkpoint, weights=checkpoint.weights | {"classifier.6.bias": torch.tensor(bias)})


class TestEvaluate:
    def test_it_counts_right_answers_in_all_and_by_class(self, tiny_checkpoint: Checkpoint, photo_folder: Path) -> None:
        checkpoint = with_bias(tiny_checkpoint, 0.0, 1e6, 1e5)  # always green, then blue
        images = list_class_folders(photo_folder / "val")
        result = evaluate_checkpoint(checkpoint, images, workers=0)
        assert result == {
            "images": 6,
            "views": 1,
            "top1_percent": 33.333,
            "top1_interval": [9.677, 70.001],  # Wilson (1927): (2 + z²/2 ± z √(2·4/6 + z²/4)) / (6 + z²), z = 1.96
            "top5_percent": 100.0,
            "top5_interval": [60.967, 100.0],
            "nll_nats": pytest.approx(2 / 3 * (1e6 + 9e5) / 2, rel=1e-3),  # red is 1e6 below green, blue 9e5
            "ece_percent": 66.667,
            "class_mean_percent": 33.333,
            "top1_percent_by_class": {"n01_red": 0.0, "n02_green": 100.0, "n03_blue": 0.0},
        }
        counted = evaluate_checkpoint(checkpoint, images, workers=0, confusion=True)
        assert counted == result | {"confusion": [[0, 2, 0]] * 3}  # two photos per class, all taken for green

    def test_ten_crops_average_the_softmax_of_ten_views(
        self, tiny_checkpoint: Checkpoint, photo_folder: Path, tmp_path: Path, cli: Command
    ) -> None:
        pre = tiny_checkpoint.contract.preprocessing
        images = list_class_folders(photo_folder / "val")
        classifier = PixelClassifier(tiny_checkpoint.build(), pre.mean, pre.std).eval()
        right = []
        with torch.inference_mode():
            for file, target in zip(images.files, images.targets, strict=True):
                views_VHWC = ten_crops(load_pixels(file, picture_for_crops(pre)), pre)
                mean_K = classifier(torch.from_numpy(views_VHWC)).softmax(1).mean(0)
                right.append(mean_K.argmax().item() == target)
        path = save_checkpoint(tiny_checkpoint, tmp_path / "checkpoint.safetensors")
        code, out, _ = cli("evaluate", path, photo_folder / "val", "--workers", "0", "--ten-crop")
        result = json.loads(out)
        assert (code, result["images"], result["views"]) == (0, 6, 10)
        assert result["top1_percent"] == round(100 * sum(right) / 6, 3)

    def test_files_that_training_may_leave_out_can_be_left_out_here(
        self, tiny_checkpoint: Checkpoint, photo_folder: Path, tmp_path: Path, cli: Command
    ) -> None:
        data, path = tmp_path / "val", save_checkpoint(tiny_checkpoint, tmp_path / "checkpoint.safetensors")
        shutil.copytree(photo_folder / "val", data)
        (data / "n01_red/gone.jpg").symlink_to("nowhere.jpg")
        packed = ("pack", path, tmp_path / "packed.safetensors", "--data", data)
        for command in (("evaluate", path, data), packed):
            refused = cli(*command, "--workers", "0")
            assert (refused.code, "gone.jpg: no such file" in refused.error) == (1, True)
            ran = cli(*command, "--workers", "0", "--allow-unreadable")
            assert (ran.code, "1 images cannot be read and are left out" in ran.err) == (0, True), ran.err
            result = json.loads(ran.out)
            assert (result["images"], result["unreadable"]) == (6, 1)

    def test_an_answer_that_is_not_finite_counts_as_wrong(
        self, tiny_checkpoint: Checkpoint, photo_folder: Path
    ) -> None:
        images = list_class_folders(photo_folder / "val")
        result = evaluate_checkpoint(with_bias(tiny_checkpoint, 0.0, torch.nan, 0.0), images, workers=0, confusion=True)
        assert (result["top1_percent"], result["top5_percent"], result["ece_percent"]) == (0.0, 0.0, None)
        assert result["confusion"] == [[0, 0, 0]] * 3
        assert set(result["top1_percent_by_class"].values()) == {0.0}

    def test_a_subset_of_the_classes_is_measured_alone(
        self, tiny_checkpoint: Checkpoint, photo_folder: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(photo_folder / "val" / "n03_blue", tmp_path / "n03_blue")
        result = evaluate_checkpoint(tiny_checkpoint, list_val_images(tmp_path, tuple(CLASSES)), workers=0)
        assert result["images"] == 2
        assert result["top1_percent_by_class"].keys() == {"n03_blue"}


class TestPack:
    @pytest.fixture
    def source(self, tiny_checkpoint: Checkpoint, tmp_path: Path) -> Path:
        return save_checkpoint(tiny_checkpoint, tmp_path / "source.safetensors")

    def test_half_the_size_with_the_accuracy_that_it_then_has(
        self, tiny_checkpoint: Checkpoint, source: Path, photo_folder: Path, tmp_path: Path
    ) -> None:
        result = pack(source, tmp_path / "packed.safetensors", photo_folder / "val", workers=0)
        packed = load_checkpoint(tmp_path / "packed.safetensors")
        assert {value.dtype for value in packed.weights.values()} == {torch.float16}
        assert packed.recipe == tiny_checkpoint.recipe | {"evaluation": result}
        assert result == evaluate_checkpoint(packed, list_class_folders(photo_folder / "val"), workers=0)
        assert (packed.arch, packed.contract) == (tiny_checkpoint.arch, tiny_checkpoint.contract)

    def test_another_size_before_the_crop_is_measured_and_stored(
        self, cli: Command, source: Path, photo_folder: Path, tmp_path: Path
    ) -> None:
        before = load_checkpoint(source)
        packed = cli("pack", source, tmp_path / "p.safetensors", "--data", photo_folder / "val", "--resize-to", 300)
        contract = load_checkpoint(tmp_path / "p.safetensors").contract
        assert contract.preprocessing == dataclasses.replace(before.contract.preprocessing, resize_to=300)
        measured = cli("evaluate", tmp_path / "p.safetensors", photo_folder / "val")
        assert json.loads(packed.out)["nll_nats"] == json.loads(measured.out)["nll_nats"]
        halved = cli("evaluate", tmp_path / "p.safetensors", photo_folder / "val", "--resize-to", 256)
        assert json.loads(halved.out)["nll_nats"] != json.loads(measured.out)["nll_nats"]
        for size in (223, 1025):
            refused = cli("pack", source, tmp_path / "q.safetensors", "--data", photo_folder, "--resize-to", size)
            assert (refused.code, refused.out) == (2, "")
            assert refused.err == f"error: --resize-to {size}: must be from 224, the size of the crop, to 1024\n"

    def test_a_weight_beyond_float16_is_refused(self, source: Path, photo_folder: Path, tmp_path: Path) -> None:
        save_checkpoint(with_bias(load_checkpoint(source), 0.0, 70_000.0, 0.0), source)
        with pytest.raises(InputError, match=r"classifier.6.bias exceeds float16's 65504"):
            pack(source, tmp_path / "packed.safetensors", photo_folder / "val", workers=0)
        assert not (tmp_path / "packed.safetensors").exists()

    def test_the_original_is_not_overwritten(
        self, source: Path, photo_folder: Path, tmp_path: Path, cli: Command
    ) -> None:
        link = tmp_path / "link.safetensors"
        link.symlink_to(source)
        for output in (source, link):
            assert cli("pack", source, output, "--data", photo_folder / "val", "--workers", "0") == (
                2, "", f"error: OUTPUT {output}: is the checkpoint that it is made from; choose another name\n",
            )  # fmt: skip
        assert load_checkpoint(source).weights["classifier.6.bias"].dtype == torch.float32
