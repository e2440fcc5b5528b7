"""Trained weights are read from every place and layout to the same logits, and nothing else is taken for them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.model.architecture import AlexNet, get_architecture
from alexnet_deploy.model.checkpoint import Checkpoint, save_checkpoint, shipped_checkpoint
from tests.training.start import files
from training.run_files import CHECKPOINT
from training.start.sources import Source, read_source, read_teacher

WEIGHTS = files.small_weights()
OTHER = files.small_weights(1)
KEPT: dict[str, Callable[[], Any]] = {
    "plain": lambda: WEIGHTS,
    "DataParallel": lambda: files.below("module.", WEIGHTS),
    "torch.compile": lambda: files.below("_orig_mod.", WEIGHTS),
    "state_dict": lambda: {"epoch": 3, "state_dict": files.below("module.", WEIGHTS), "optimizer": {"state": {}}},
    "model": lambda: {"model": WEIGHTS, "epoch": 3},
    "ema": lambda: {"model": OTHER, "model_ema": WEIGHTS},
    "timm's ema": lambda: {"state_dict": OTHER, "state_dict_ema": files.below("module.", WEIGHTS)},
    "AveragedModel": lambda: files.below("module.", WEIGHTS) | {"n_averaged": torch.tensor(5)},
    "timm": lambda: files.timm_names(WEIGHTS),
    "timm, wrapped": lambda: {"state_dict": files.below("timm_model.", files.timm_names(WEIGHTS))},
    "transformers": lambda: files.transformers_names(WEIGHTS),
    "transformers, all dense": lambda: files.transformers_names(WEIGHTS, all_dense=True),
    "Lightning": lambda: {"state_dict": files.below("net.", files.transformers_names(WEIGHTS))},
}
FLAT = [name for name, make in KEPT.items() if all(isinstance(value, Tensor) for value in make().values())]


def logits_of(source: Source) -> Tensor:
    torch.manual_seed(1)
    with torch.inference_mode():
        logits_NK: Tensor = Checkpoint(source.arch, source.contract, source.weights).build()(torch.rand(2, 3, 224, 224))
    return logits_NK


EXPECTED = logits_of(Source("", files.SMALL, files.small_checkpoint("a", "b", "c").contract, WEIGHTS, True))


class TestFiles:
    @pytest.mark.parametrize("layout", KEPT)
    def test_every_layout_of_a_pth_gives_the_same_logits(self, layout: str, tmp_path: Path) -> None:
        torch.save(KEPT[layout](), tmp_path / "weights.pth")
        source = read_source(tmp_path / "weights.pth")
        assert source.arch == files.SMALL
        assert torch.equal(logits_of(source), EXPECTED)
        assert not source.has_names, "numbers stand for no folders"
        assert source.notes[-1].startswith("preprocessing: torchvision's")

    @pytest.mark.parametrize("layout", FLAT)
    def test_and_of_a_safetensors_file(self, layout: str, tmp_path: Path) -> None:
        save_file({key: value.contiguous() for key, value in KEPT[layout]().items()}, tmp_path / "weights.safetensors")
        assert torch.equal(logits_of(read_source(tmp_path / "weights.safetensors")), EXPECTED)

    def test_a_checkpoint_of_ours_and_the_folder_of_its_run(self, tmp_path: Path) -> None:
        checkpoint = files.small_checkpoint("a", "b", "c")
        path = save_checkpoint(checkpoint, tmp_path / CHECKPOINT)
        for place in (path, tmp_path, str(tmp_path)):
            source = read_source(place)
            assert torch.equal(logits_of(source), EXPECTED)
            assert (source.contract, source.has_names, source.notes) == (checkpoint.contract, True, ())

    def test_a_low_rank_stays_one(self, tmp_path: Path) -> None:
        torch.save(files.below("module.", files.small_weights(rank=2)), tmp_path / "weights.pth")
        assert read_source(tmp_path / "weights.pth").arch == dataclasses.replace(files.SMALL, dense_rank=2)

    def test_the_shipped_one_by_name(self) -> None:
        shipped, by_path = read_source("shipped"), read_source(shipped_checkpoint())
        assert (shipped.name, shipped.arch, shipped.contract) == ("shipped", by_path.arch, by_path.contract)
        assert shipped.weights.keys() == by_path.weights.keys()

    def test_published_weights_come_by_url_once_they_are_verified(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The file is in the cache already: no network. ImageNet's classes are known by their number."""
        arch = get_architecture("alexnet", hidden=8)
        torch.save(AlexNet(arch).state_dict(), tmp_path / "x.pth")
        prefix = hashlib.sha256((tmp_path / "x.pth").read_bytes()).hexdigest()[:8]
        (tmp_path / "x.pth").rename(tmp_path / f"alexnet-owt-{prefix}.pth")
        monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path))
        url = f"https://download.example/models/alexnet-owt-{prefix}.pth"
        by_url = read_source(f"{url}?signature=secret".replace("//", "//user:password@"))
        assert by_url.name == url
        monkeypatch.setattr("training.start.sources.IMAGENET1K_URL", url)
        by_name = read_source("imagenet1k")
        for source in (by_url, by_name):
            assert (source.arch, source.has_names, source.contract.class_ids[0]) == (arch, True, "n01440764")
        assert by_name.notes == ()
        assert "classes: ImageNet-1k's, as the file names none" in by_url.notes


class TestHubFolders:
    @pytest.mark.parametrize("pickled", [False, True])
    def test_classes_and_pixels_come_from_the_files_beside_the_weights(self, tmp_path: Path, pickled: bool) -> None:
        folder = files.hub_folder(
            tmp_path / "hub", files.transformers_names(WEIGHTS), "cat", "dog", "owl", pickled=pickled
        )
        source = read_source(folder)
        assert torch.equal(logits_of(source), EXPECTED)
        assert (source.contract.class_ids, source.has_names) == (("cat", "dog", "owl"), True)
        assert source.contract.preprocessing == Preprocessing(
            resize_to=240, interpolation="bicubic", mean=(0.5,) * 3, std=(0.25,) * 3, crop_offset="floor"
        )

    def test_placeholders_of_transformers_are_no_names(self, tmp_path: Path) -> None:
        source = read_source(files.hub_folder(tmp_path / "hub", WEIGHTS, "LABEL_0", "LABEL_1", "LABEL_2"))
        assert not source.has_names

    def test_what_does_not_fit_is_refused(self, tmp_path: Path) -> None:
        folder = files.hub_folder(tmp_path / "hub", WEIGHTS, "cat", "dog")
        with pytest.raises(InputError, match=r"config.json: holds 2 labels, the model has 3 classes"):
            read_source(folder)
        processor = folder / "preprocessor_config.json"
        processor.write_text('{"image_processor_type": "BlipImageProcessor"}')
        with pytest.raises(InputError, match=r"`start` .*preprocessor_config.json: the image processor 'Blip"):
            read_source(folder)
        processor.unlink()
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        with pytest.raises(InputError, match=r"neither model.safetensors nor pytorch_model.bin; download it whole"):
            read_source(folder)
        (folder / "model.safetensors.index.json").write_text("{}")
        with pytest.raises(InputError, match=r"its weights are in several files; save them as one model.safetensors"):
            read_source(folder)

    def test_pixels_that_an_alexnet_does_not_take_are_refused(self, tmp_path: Path) -> None:
        folder = files.hub_folder(tmp_path / "hub", WEIGHTS, "cat", "dog", "owl")
        processor = folder / "preprocessor_config.json"
        processor.write_text(processor.read_text().replace('"height": 224', '"height": 227'))
        with pytest.raises(InputError, match=r"prepares 227 x 224 rgb pixels, training needs 224 x 224 rgb"):
            read_source(folder)


class TestTeachers:
    def test_a_folder_with_the_names_of_its_classes(self, tmp_path: Path) -> None:
        folder = files.hub_folder(tmp_path / "hub", files.transformers_names(WEIGHTS), "cat", "dog", "owl")
        checkpoint = read_teacher(folder)
        assert checkpoint.contract.class_ids == ("cat", "dog", "owl")
        torch.manual_seed(1)
        assert torch.equal(checkpoint.build()(torch.rand(2, 3, 224, 224)), EXPECTED)

    def test_weights_whose_classes_nobody_knows(self, tmp_path: Path) -> None:
        """Three outputs and three folders: which belongs to which?"""
        torch.save(WEIGHTS, tmp_path / "x.pth")
        with pytest.raises(InputError, match=r"`teacher` .*x.pth: does not say which class each output stands for"):
            read_teacher(tmp_path / "x.pth")

    def test_errors_name_the_setting(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="`teacher` none: no such file or folder"):
            read_teacher("none")
        folder = files.hub_folder(tmp_path / "hub", WEIGHTS, "cat", "dog", "owl")
        (folder / "preprocessor_config.json").write_text('{"image_processor_type": "BlipImageProcessor"}')
        with pytest.raises(InputError, match=r"^`teacher` .*: the image processor 'Blip"):
            read_teacher(folder)


class TestParts:
    def test_without_its_last_layer(self, tmp_path: Path) -> None:
        torch.save({k: v for k, v in WEIGHTS.items() if not k.startswith("classifier.6.")}, tmp_path / "x.pth")
        source = read_source(tmp_path / "x.pth")
        assert sorted(source.weights) == sorted(k for k in WEIGHTS if not k.startswith("classifier.6."))
        assert (source.arch.hidden, source.has_names) == (8, False)

    def test_the_convolutions_alone(self, tmp_path: Path) -> None:
        torch.save({k: v for k, v in WEIGHTS.items() if k.startswith("features.")}, tmp_path / "x.pth")
        source = read_source(tmp_path / "x.pth")
        assert set(source.weights) == {k for k in WEIGHTS if k.startswith("features.")}
        assert source.arch.hidden == 4096

    def test_the_part_of_a_larger_model(self, tmp_path: Path) -> None:
        head = {"head.weight": torch.ones(5, 3), "head.bias": torch.ones(5)}
        torch.save(files.below("backbone.", WEIGHTS) | head, tmp_path / "x.pth")
        source = read_source(tmp_path / "x.pth")
        assert torch.equal(logits_of(source), EXPECTED)
        assert source.left_over == ("head.weight", "head.bias")


class Calls:
    """Pickled as a call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("pwned",))


RESNET = {key: torch.ones(1) for key in ("conv1.weight", "bn1.weight", "bn1.bias", "layer1.0.conv1.weight")}


class TestRefused:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (RESNET, r"a ResNet \(layer1.0.conv1.weight; its first keys: conv1.weight, bn1.weight, bn1.bias\), not an "
                     r"AlexNet; give AlexNet's weights$"),
            ({"fc.weight": torch.ones(1)}, r"no AlexNet of this family \(its first keys: fc.weight\); give AlexNet's"),
            (WEIGHTS | {"features.3.weight": torch.ones(192, 64, 3, 3)}, r"does not fit alexnet: features.3.weight is"),
            (WEIGHTS | {"features.0.bias": torch.full((64,), torch.nan)}, r"features.0.bias holds NaN or infinity"),
            ({"state_dict": WEIGHTS, "call": Calls()}, r"not a plain checkpoint of tensors \(it needs posix.mkdir\)"),
        ],
    )  # fmt: skip
    def test_another_family_and_code(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, message: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        torch.save(content, "x.pth")
        with pytest.raises(InputError, match=message) as caught:
            read_source("x.pth")
        assert "build-engine" not in str(caught.value)
        assert not Path("pwned").exists()

    def test_files_cut_short(self, tmp_path: Path) -> None:
        torch.save(WEIGHTS, tmp_path / "x.pth")
        save_file(WEIGHTS, tmp_path / "x.safetensors")
        ours = save_checkpoint(files.small_checkpoint("a", "b", "c"), tmp_path / "ours.safetensors")
        for path in (tmp_path / "x.pth", tmp_path / "x.safetensors", ours):
            whole = path.read_bytes()
            for share in (0.0, 0.001, 0.5, 0.999):
                path.write_bytes(whole[: int(share * len(whole))])
                with pytest.raises((InputError, ArtifactError), match=rf"^{path}: "):
                    read_source(path)

    def test_a_bare_pickle_of_code_is_not_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for protocol in (0, 2, 4):
            Path("x.pth").write_bytes(pickle.dumps(Calls(), protocol))
            with pytest.raises(InputError, match=r"^x.pth: "):
                read_source("x.pth")
        assert not Path("pwned").exists()

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("nowhere.pth", r"^`start` nowhere.pth: no such file or folder; give a file, an https address, the folder"),
            ("folder", r"^`start` folder: holds neither checkpoint.safetensors nor config.json; give a file"),
            ("net.onnx", r"^`start` net.onnx: is an ONNX file; give the checkpoint that it was exported from"),
            ("http://weights.example/x.pth", r"is plain http, which anybody on the way can change; use https$"),
            ("ftp://weights.example/x.pth", r"not an http or https address; check the address"),
            ("https://weights.example/", r"its path does not end in a plain file name; check the address"),
        ],
    )
    def test_places_without_weights(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("folder").mkdir()
        Path("net.onnx").write_bytes(b"\x08\x07")
        with pytest.raises(InputError, match=message):
            read_source(source)
