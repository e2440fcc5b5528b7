"""Checkpoints come back as they were saved; nothing else comes in, and nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from alexnet_deploy.contract import METADATA_KEY, ModelContract, Preprocessing
from alexnet_deploy.errors import ArtifactError, DeployError, InputError, UnavailableError, UsageError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.model.architecture import AlexNet, get_architecture
from alexnet_deploy.model.checkpoint import (
    ARCHITECTURE_KEY,
    RECIPE_KEY,
    Checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from tests.helpers.limits import files_of_at_most
from tests.helpers.weights_server import Answer, Server


@pytest.fixture(scope="module")
def saved(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tiny_checkpoint, tmp_path_factory.mktemp("saved") / "tiny.safetensors")


class TestOurOwn:
    def test_it_comes_back_as_it_was(self, tiny_checkpoint: Checkpoint, saved: Path) -> None:
        again = load_checkpoint(saved)
        for field in ("arch", "contract", "recipe"):
            assert getattr(again, field) == getattr(tiny_checkpoint, field)
        assert again.weights.keys() == tiny_checkpoint.weights.keys()
        assert all(torch.equal(again.weights[key], value) for key, value in tiny_checkpoint.weights.items())

    def test_what_is_written_into_its_file_later_changes_nothing(
        self, tiny_checkpoint: Checkpoint, tmp_path: Path
    ) -> None:
        path = save_checkpoint(tiny_checkpoint, tmp_path / "live.safetensors")
        model = load_checkpoint(path).build()
        size, half = path.stat().st_size, path.stat().st_size // 2
        with open(path, "r+b") as file:
            file.seek(size - half)
            file.write(bytes(half))
        weights = model.state_dict()
        assert all(torch.equal(weights[key], value) for key, value in tiny_checkpoint.weights.items())
        path.write_bytes(b"")  # a file that is mapped into memory would end the process now
        assert all(torch.equal(weights[key], value) for key, value in tiny_checkpoint.weights.items())

    def test_float16_weights_make_a_float32_model(self, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
        half = {key: value.half() for key, value in tiny_checkpoint.weights.items()}
        path = save_checkpoint(dataclasses.replace(tiny_checkpoint, weights=half), tmp_path / "half.safetensors")
        assert path.stat().st_size < 0.51 * 4 * sum(value.numel() for value in half.values())
        model = load_checkpoint(path).build()
        assert not model.training
        assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
        assert torch.equal(model.get_parameter("classifier.6.weight"), half["classifier.6.weight"].float())

    def test_weights_in_channels_last_layout_are_saved_as_they_read(
        self, tiny_checkpoint: Checkpoint, tmp_path: Path
    ) -> None:
        model = tiny_checkpoint.build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        turned = dataclasses.replace(tiny_checkpoint, weights=model.state_dict())
        again = load_checkpoint(save_checkpoint(turned, tmp_path / "x.safetensors"))
        assert torch.equal(again.weights["features.0.weight"], tiny_checkpoint.weights["features.0.weight"])

    def test_the_file_follows_the_umask(self, saved: Path) -> None:
        plain = saved.with_name("plain")
        plain.touch()
        assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)

    def test_without_room_the_old_one_stays(self, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        path.write_text("old")
        with (
            files_of_at_most(1 << 16),
            pytest.raises(UnavailableError, match=r"x.safetensors: cannot be written \(File too large\)"),
        ):
            save_checkpoint(tiny_checkpoint, path)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["x.safetensors"]


class TestRefused:
    def check(self, path: Path, error: type[DeployError], says: str) -> None:
        with pytest.raises(error) as caught:
            load_checkpoint(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert says in str(caught.value)

    def test_a_missing_file_and_a_folder(self, tmp_path: Path) -> None:
        self.check(tmp_path / "x.safetensors", InputError, "no such checkpoint; check the path, or train one")
        for name in ("x.safetensors", "x.pth"):
            with pytest.raises(InputError, match=rf"{name}: no such file; check `weights`, or leave it out"):
                load_weights(str(tmp_path / name))
        with pytest.raises(InputError, match=r"\.: cannot be read \(Is a directory\)"):
            load_weights("")  # an empty value is not the default
        self.check(tmp_path, ArtifactError, "is not a readable safetensors file")

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not this", b"\xff" * 100, b"\x02" + bytes(7) + b"{}"])
    def test_garbage(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "x.safetensors"
        path.write_bytes(content)
        with pytest.raises((ArtifactError, InputError)):  # the last one is an empty but valid file
            load_checkpoint(path)

    @pytest.mark.parametrize("share", [0.0001, 0.5, 0.999999])
    def test_a_truncated_file(self, saved: Path, tmp_path: Path, share: float) -> None:
        path = tmp_path / "x.safetensors"
        path.write_bytes(saved.read_bytes()[: int(saved.stat().st_size * share)])
        self.check(path, ArtifactError, "copy or train it again")

    def test_metadata_that_is_missing_damaged_or_of_another_model(
        self, tiny_checkpoint: Checkpoint, tmp_path: Path
    ) -> None:
        contract, architecture = tiny_checkpoint.contract, tiny_checkpoint.arch.to_dict()
        two_classes = ModelContract("alexnet", ("a", "b"), ("a", "b"))
        larger = dataclasses.replace(contract, preprocessing=Preprocessing(height=200))
        whole = {METADATA_KEY: contract.to_json(), ARCHITECTURE_KEY: json.dumps(architecture), RECIPE_KEY: "{}"}
        path = tmp_path / "x.safetensors"
        save_file(tiny_checkpoint.weights, path)
        self.check(path, InputError, "has no alexnet-deploy contract")
        for key, text, error, says in (
            (METADATA_KEY, "{", ArtifactError, "again"),
            (ARCHITECTURE_KEY, "{", ArtifactError, "again"),
            (RECIPE_KEY, "[" * 100_000, ArtifactError, "again"),
            (RECIPE_KEY, "5", ArtifactError, "again"),
            (ARCHITECTURE_KEY, json.dumps(architecture | {"lrn": "sometimes"}), InputError, "not one of this family"),
            (METADATA_KEY, two_classes.to_json(), InputError, "has 2 labels for 3 outputs"),
            (METADATA_KEY, larger.to_json(), InputError, "has 200 x 224 pixels, AlexNet needs 224 x 224"),
        ):
            save_file(tiny_checkpoint.weights, path, whole | {key: text})
            self.check(path, error, says)

    @pytest.mark.parametrize(
        ("key", "value", "says"),
        [
            ("classifier.6.weight", torch.zeros(4, 32), "classifier.6.weight is (4, 32), expected (3, 32)"),
            ("surprise", torch.zeros(1), "surprise is (1,), expected absent"),
            ("features.0.bias", None, "features.0.bias is absent, expected (16,)"),
            ("classifier.6.bias", torch.tensor([0, float("nan"), 0]), "classifier.6.bias holds NaN or infinity"),
            ("classifier.6.bias", torch.tensor([0, 0, float("-inf")]), "classifier.6.bias holds NaN or infinity"),
            ("classifier.6.bias", torch.zeros(3, dtype=torch.int32), "classifier.6.bias is torch.int32"),
            ("classifier.6.bias", torch.zeros(3).to(torch.float8_e4m3fn), "is torch.float8_e4m3fn"),
        ],
    )
    def test_weights_that_do_not_fit(
        self, tiny_checkpoint: Checkpoint, tmp_path: Path, key: str, value: Tensor | None, says: str
    ) -> None:
        weights = {name: tensor for name, tensor in tiny_checkpoint.weights.items() if name != key}
        weights |= {} if value is None else {key: value}
        changed = dataclasses.replace(tiny_checkpoint, weights=weights)
        self.check(save_checkpoint(changed, tmp_path / "x.safetensors"), InputError, says)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
    @given(data=st.data())
    def test_any_damage_to_the_header(self, saved: Path, tmp_path: Path, data: st.DataObject) -> None:
        content = bytearray(saved.read_bytes()[:20_000])
        length = int.from_bytes(content[:8], "little")
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, 8 + length - 1))] = data.draw(st.integers(0, 255))
        path = tmp_path / "x.safetensors"
        path.write_bytes(content)  # cut, so it never is whole
        with pytest.raises(DeployError):
            load_checkpoint(path)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Full-size weights of a few KiB, named by their hash: each tensor repeats one number, which the format allows."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in AlexNet(get_architecture("alexnet")).state_dict().items()}
    folder = tmp_path_factory.mktemp("published")
    torch.save({key: torch.full((1,), 0.01).expand(shape) for key, shape in shapes.items()}, folder / "x.pth")
    return (folder / "x.pth").rename(folder / f"alexnet-owt-{sha256_of(folder / 'x.pth')[:8]}.pth")


class TestWhatWeightsNames:
    """``load_weights``: what ``weights`` may be."""

    def test_our_own_checkpoint(self, saved: Path) -> None:
        assert load_weights(saved).arch.hidden == 32
        assert load_weights(str(saved), "alexnet").arch.hidden == 32
        with pytest.raises(UsageError, match=r"`architecture` alexnet-2012: .* holds alexnet; leave it out"):
            load_weights(str(saved), "alexnet-2012")

    def test_its_labels_are_its_own_and_its_name_does_not_matter(self, saved: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"`labels` x.txt: .*tiny.safetensors holds its own labels; leave it out"):
            load_weights(saved, labels="x.txt")
        renamed = Path(shutil.copy(saved, tmp_path / "x.pth"))
        assert load_weights(renamed).contract == load_checkpoint(saved).contract

    def test_a_published_file_by_path(self, published: Path) -> None:
        checkpoint = load_weights(published)
        assert checkpoint.arch == get_architecture("alexnet")
        assert (len(checkpoint.contract.labels), checkpoint.contract.labels[0]) == (1000, "tench")
        assert checkpoint.contract.class_ids[0] == "n01440764"
        assert checkpoint.contract.preprocessing == Preprocessing(resize="shorter-side", resize_to=256)
        with pytest.raises(UsageError, match=r"`architecture` alexnet-2012: does not fit .* which holds alexnet"):
            load_weights(str(published), "alexnet-2012")

    def test_a_published_file_whose_name_tells_another_hash_is_refused(self, published: Path, tmp_path: Path) -> None:
        wrong = tmp_path / "alexnet-owt-00000000.pth"
        wrong.write_bytes(published.read_bytes())
        with pytest.raises(ArtifactError, match=r"SHA-256 starts with [0-9a-f]{8}, its name has 00000000; download"):
            load_weights(str(wrong))

    def test_an_unknown_architecture_is_refused_before_any_download(self) -> None:
        with pytest.raises(UsageError, match="`architecture` lenet: unknown"):
            load_weights("http://127.0.0.1:1/alexnet-owt-7be5be79.pth", "lenet")


def test_published_weights_by_url_are_fetched_once_with_progress(
    server: Server, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path))
    server.answers = [Answer(published.read_bytes())]
    seen: list[tuple[str, int, int]] = []
    url = f"{server.url}/{published.name}"
    assert load_weights(url, allow_http=True, on_progress=lambda *at: seen.append(at)).arch.num_classes == 1000
    size = published.stat().st_size
    assert seen[-1] == ("download", size, size)
    assert load_weights(url, allow_http=True).recipe["source"] == published.name
    assert len(server.asked) == 1
