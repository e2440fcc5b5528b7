"""A compressed layer is the best of its rank, a compressed checkpoint says where it comes from, and both fine-tune."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rich.console import Console
from torch import Tensor

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import UsageError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.model.architecture import AlexNet, PixelClassifier, get_architecture
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.helpers.photos import CLASSES, save_photo
from training import loop
from training.__main__ import main
from training.compress.low_rank import (
    HIDDEN_LAYERS,
    compress_to_rank,
    decompose_hidden_layers,
    largest_rank,
    rank_for,
    spectrum,
)
from training.compress.rank_table import RankRow, table_of
from training.data.listing import list_class_folders
from training.data.loader import eval_batches
from training.loop.run import Run

EXACT = 1e-10
"""Float64 products of numbers near 1, in another order."""


def product(factors: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return factors[1] @ factors[0]


class TestByWeights:
    def test_a_rank_one_layer_by_hand(self) -> None:
        # (0.6, 0.8) times 5 times (1, 0): the singular value 5 is split into a root for each factor.
        weight_OI, bias_O = torch.tensor([[3.0, 0.0], [4.0, 0.0]]), torch.tensor([1.0, -1.0])
        first_RI, second_OR, bias = spectrum(weight_OI, bias_O).factors(1)
        sign = second_OR[0, 0].sign()  # either sign of a singular vector is right
        torch.testing.assert_close(sign * first_RI, torch.tensor([[5**0.5, 0.0]], dtype=torch.float64))
        torch.testing.assert_close(sign * second_OR, 5**0.5 * torch.tensor([[0.6], [0.8]], dtype=torch.float64))
        torch.testing.assert_close(bias, bias_O.double())

    def test_the_smaller_singular_value_goes(self) -> None:
        taken = spectrum(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2))
        torch.testing.assert_close(product(taken.factors(1)), torch.tensor([[0.0, 0.0], [0.0, 2.0]]).double())
        assert taken.kept(1) == pytest.approx(4 / 5)

    @given(arrays(np.float64, (4, 7), elements=st.floats(-3, 3)), st.integers(1, 4))
    def test_it_is_numpys_truncated_svd(self, weight_OI: np.ndarray[Any, Any], rank: int) -> None:
        taken = spectrum(torch.from_numpy(weight_OI), torch.zeros(4))
        u, s, vt = np.linalg.svd(weight_OI, full_matrices=False)
        best = np.linalg.norm(weight_OI - (u[:, :rank] * s[:rank]) @ vt[:rank])
        left = np.linalg.norm(weight_OI - product(taken.factors(rank)).numpy())
        assert left == pytest.approx(best, abs=1e-6)  # equal singular values leave the product open, not its error
        first_RI, second_OR, _ = taken.factors(rank)
        alive = first_RI.norm(dim=1) > 0
        torch.testing.assert_close(first_RI.norm(dim=1)[alive], second_OR.norm(dim=0)[alive], rtol=1e-6, atol=1e-6)

    def test_full_rank_gives_the_layer_back(self) -> None:
        weight_OI, bias_O = torch.randn(5, 9, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
        for outputs in (None, torch.randn(20, 5)):
            factors = spectrum(weight_OI, bias_O, outputs).factors(5)
            torch.testing.assert_close(product(factors), weight_OI, rtol=0, atol=EXACT)
            torch.testing.assert_close(factors[2], bias_O, rtol=0, atol=EXACT)

    def test_a_layer_of_zeros_stays_one(self) -> None:
        for outputs in (None, torch.zeros(3, 4)):
            factors = spectrum(torch.zeros(4, 6), torch.zeros(4), outputs).factors(2)
            assert all(torch.isfinite(part).all() for part in factors)
            assert not product(factors).any()


class TestByOutputs:
    def test_the_axis_on_which_images_differ_stays_and_the_mean_of_the_other_becomes_bias(self) -> None:
        weight_OI, bias_O = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0.5, 0.25])
        inputs_NI = torch.tensor([[1.0, -3.0], [1.0, 3.0]])
        outputs_NO = inputs_NI @ weight_OI.T + bias_O
        taken = spectrum(weight_OI, bias_O, outputs_NO)
        factors = taken.factors(1)
        torch.testing.assert_close(product(factors), torch.tensor([[0.0, 0.0], [0.0, 1.0]]).double())
        torch.testing.assert_close(factors[2], torch.tensor([2.5, 0.25]).double())
        assert taken.kept(1) == pytest.approx(1.0)

    @pytest.mark.parametrize("rank", [1, 3, 6])
    def test_no_rank_is_nearer_to_the_outputs(self, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
        monkeypatch.setattr("training.compress.low_rank.WEIGHTS_SHARE", 0.0)  # the images alone have a closed optimum
        rng = np.random.default_rng(0)
        weight_OI, bias_O = rng.normal(size=(8, 12)), rng.normal(size=8)
        inputs_NI = rng.normal(size=(40, 12)) * np.geomspace(10, 0.1, 12) + 1
        outputs_NO = inputs_NI @ weight_OI.T + bias_O
        taken = spectrum(*map(torch.from_numpy, (weight_OI, bias_O, outputs_NO)))
        first_RI, second_OR, bias = (part.numpy() for part in taken.factors(rank))
        left = np.linalg.norm(inputs_NI @ first_RI.T @ second_OR.T + bias - outputs_NO)
        singular = np.linalg.svd(outputs_NO - outputs_NO.mean(0), compute_uv=False)
        assert left == pytest.approx(np.sqrt((singular[rank:] ** 2).sum()), rel=1e-9)
        assert taken.kept(rank) == pytest.approx((singular[:rank] ** 2).sum() / (singular**2).sum(), rel=1e-9)

    def test_what_is_taken_are_the_outputs_before_the_activation(
        self, tiny_checkpoint: Checkpoint, photo_folder: Path
    ) -> None:
        listing = list_class_folders(photo_folder / "train")
        pre = tiny_checkpoint.contract.preprocessing
        spectra = decompose_hidden_layers(tiny_checkpoint, eval_batches(listing, pre, batch=4, workers=0))
        model = tiny_checkpoint.build()
        classifier = PixelClassifier(
            torch.nn.Sequential(model.get_submodule("features"), torch.nn.Flatten()), pre.mean, pre.std
        )
        with torch.inference_mode():
            (pixels_NHWC, _), *_ = eval_batches(listing, pre, batch=99, workers=0)
            first_NO = model.classifier[1](classifier(pixels_NHWC))
            second_NO = model.classifier[4](first_NO.relu())
        assert (first_NO < 0).any()
        for name, outputs_NO in zip(HIDDEN_LAYERS, (first_NO, second_NO), strict=True):
            torch.testing.assert_close(spectra[name].mean_O.float(), outputs_NO.mean(0), rtol=1e-4, atol=1e-5)


class TestRank:
    @pytest.mark.parametrize(("energy", "rank"), [(0.01, 1), (0.8, 1), (0.81, 2), (1.0, 2)])
    def test_the_smallest_that_keeps_the_energy(self, energy: float, rank: int) -> None:
        taken = spectrum(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2))
        assert taken.rank_for(energy) == rank

    @given(st.integers(0, 999), st.floats(0.01, 1.0))
    def test_one_less_would_not_keep_it(self, seed: int, energy: float) -> None:
        taken = spectrum(torch.from_numpy(np.random.default_rng(seed).normal(size=(6, 6))), torch.zeros(6))
        rank = taken.rank_for(energy)
        assert taken.kept(rank) >= energy - 1e-9
        assert rank == 1 or taken.kept(rank - 1) < energy

    def test_both_layers_have_the_larger_of_their_ranks(self) -> None:
        even, one_sided = (spectrum(torch.diag(torch.tensor(d)), torch.zeros(2)) for d in ([1.0, 1.0], [1.0, 0.0]))
        assert rank_for({"a": one_sided, "b": even}, 0.9) == 2
        assert rank_for({"a": one_sided, "b": one_sided}, 0.9) == 1

    @pytest.mark.parametrize("energy", [0.0, -1.0, 1.001, float("nan")])
    def test_an_energy_that_is_no_share(self, energy: float) -> None:
        with pytest.raises(UsageError, match=r"--energy .*: takes a share above 0 and up to 1, such as 0.9"):
            rank_for({}, energy)

    def test_the_largest_is_the_last_that_makes_both_layers_smaller(self) -> None:
        assert largest_rank(get_architecture("alexnet")) == 2047  # 4096 * 4096 / (4096 + 4096) = 2048 is no smaller
        assert largest_rank(get_architecture("alexnet", hidden=32)) == 15


class TestCompressed:
    def test_weights_that_have_the_rank_already_give_the_same_logits(self, tiny_checkpoint: Checkpoint) -> None:
        weights = dict(tiny_checkpoint.weights)
        for name in HIDDEN_LAYERS:
            u, s, vt = torch.linalg.svd(weights[f"{name}.weight"], full_matrices=False)
            weights[f"{name}.weight"] = (u[:, :6] * s[:6]) @ vt[:6]
        parent = dataclasses.replace(tiny_checkpoint, weights=weights)
        small = compress_to_rank(parent, decompose_hidden_layers(parent, None), 6, images=0)
        assert small.arch == dataclasses.replace(parent.arch, dense_rank=6)
        assert small.contract == parent.contract
        x_NCHW = torch.rand(3, 3, 224, 224)
        with torch.inference_mode():
            # float32 sums in another order
            torch.testing.assert_close(small.build()(x_NCHW), parent.build()(x_NCHW), rtol=1e-4, atol=1e-4)
        told = small.recipe["compressed"]
        assert told["energy_kept"] == pytest.approx(dict.fromkeys(HIDDEN_LAYERS, 1.0), abs=1e-6)
        assert (told["rank"], told["images"], told["parent_recipe"]) == (6, 0, {"source": "random"})

    def test_groups_in_the_convolutions_do_not_matter(self) -> None:
        arch = get_architecture("alexnet-2012", num_classes=3, hidden=32)
        contract = ModelContract(arch.name, ("a", "b", "c"), ("a", "b", "c"))
        parent = Checkpoint(arch, contract, AlexNet(arch).state_dict())
        small = compress_to_rank(parent, decompose_hidden_layers(parent, None), 4)
        assert small.build()(torch.zeros(1, 3, 224, 224)).shape == (1, 3)


@pytest.fixture
def full(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    return save_checkpoint(tiny_checkpoint, tmp_path / "full.safetensors")


def compress(*arguments: object) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["compress", *map(str, arguments), "--workers", "0"])
    assert caught.value.code == 0


class TestCommand:
    def test_rank(self, full: Path, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "small.safetensors"
        compress(full, photo_folder, "--rank", 8, "--output", out, "--images", 10)
        small = load_checkpoint(out)
        assert small.arch.dense_rank == 8
        told = small.recipe["compressed"]
        assert (told["asked"], told["images"], told["parent_sha256"]) == ({"rank": 8}, 10, sha256_of(full))
        assert told["parent_recipe"] == {"source": "random"}
        assert f"wrote {out}" in capsys.readouterr().err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["full.safetensors", "small.safetensors"]

    def test_energy_keeps_what_was_asked_in_both_layers(self, full: Path, photo_folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "small.safetensors"
        compress(full, photo_folder, "--energy", "0.6", "--output", out)
        told = load_checkpoint(out).recipe["compressed"]
        assert min(told["energy_kept"].values()) >= 0.6
        assert told["asked"] == {"energy": 0.6}

    def test_a_stopped_fine_tuning_resumes_to_the_weights_of_an_undisturbed_one(
        self, full: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flags = ("--rank", 8, "--images", 10, "--epochs", 2, "--batch", 6)
        compress(full, photo_folder, *flags, "--output", tmp_path / "undisturbed.safetensors")
        disturbed = (full, photo_folder, *flags, "--output", tmp_path / "disturbed.safetensors")

        def stopping(run: Run, **how: Callable[..., None]) -> Path:
            def stop(step: int, total: int) -> None:
                if step == 4:
                    os.kill(os.getpid(), signal.SIGINT)

            return loop.train(run, **(how | {"on_step": stop}))

        with monkeypatch.context() as patch:
            patch.setattr("training.compress.finetune.train", stopping)
            assert main(["compress", *map(str, disturbed), "--workers", "0"]) == 130
        assert not (tmp_path / "disturbed.safetensors").exists()
        # What it began with is on disk: a second decomposition, whose signs may differ, is not asked for.
        monkeypatch.setattr(
            "training.compress.command.decompose_hidden_layers", lambda *_: pytest.fail("was taken apart again")
        )
        compress(*disturbed, "--resume")
        one, other = (load_checkpoint(tmp_path / f"{name}.safetensors") for name in ("undisturbed", "disturbed"))
        assert all(torch.equal(one.weights[key], other.weights[key]) for key in one.weights | other.weights)
        assert one.recipe["recipe"]["name"] == "finetune"
        assert one.recipe["compressed"]["parent_sha256"] == sha256_of(full)
        start = load_checkpoint(tmp_path / "disturbed.run" / "start.safetensors")
        assert one.arch == start.arch
        assert not torch.equal(one.weights["classifier.6.weight"], start.weights["classifier.6.weight"])

    def test_fine_tuning_is_neither_overwritten_nor_resumed_as_another(
        self, full: Path, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        flags = ("--images", 0, "--epochs", 1, "--batch", 18, "--output", tmp_path / "small.safetensors")
        compress(full, photo_folder, "--rank", 8, *flags)
        for more, says in (
            (("--rank", 8), "already holds a run; add --resume to continue it"),
            (("--rank", 7, "--resume"), "this run had asked {'rank': 8}, now it is {'rank': 7}"),
            (("--rank", 8, "--resume", "--lr", "0.01"), "this run had recipe.lr 0.0001, now it is 0.01"),
        ):
            capsys.readouterr()
            arguments = (full, photo_folder, *flags, *more, "--workers", 0)
            assert main(["compress", *map(str, arguments)]) == 1
            assert says in capsys.readouterr().err

    def test_the_table_begins_with_the_full_model(
        self, full: Path, photo_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("openvino")
        compress(full, photo_folder, "--table", "15", "--duration", "0.01", "--json")
        rows = json.loads(capsys.readouterr().out)
        assert [row["rank"] for row in rows] == [None, 15]
        first = 15 * (9216 + 32) - 32 * 9216  # weights more than in the full layer: fewer
        second = 15 * (32 + 32) - 32 * 32
        assert rows[1]["parameters"] - rows[0]["parameters"] == first + second
        assert rows[0]["energy_kept"] is None
        assert 0.9 < rows[1]["energy_kept"] <= 1
        assert all(row["batch1_ms"] > 0 and 0 <= row["top1_percent"] <= 100 for row in rows)

    def test_a_table_for_people(self) -> None:
        full_row = RankRow(None, 58_322_314, 111.24, None, 81.128, 5.712, "OpenVINO on CPU")
        rows = (full_row, RankRow(64, 3_896_778, 7.43, 0.98765, 80.0, 1.25, "OpenVINO on CPU"))
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(table_of(rows))
        *_, full_line, small_line, _ = console.export_text().splitlines()
        full_line, small_line = (" ".join(line.replace("│", "").split()) for line in (full_line, small_line))
        assert full_line == "full 58,322,314 100.0 % 111.24 81.13 % 5.71 ms"
        assert small_line == "64 3,896,778 6.7 % 7.43 98.77 % 80.00 % 1.25 ms"

    @pytest.mark.parametrize(
        ("flags", "code", "says"),
        [
            ([], 2, "takes one of --rank, --energy and --table"),
            (["--rank", "2", "--energy", "0.5"], 2, "takes one of --rank, --energy and --table"),
            (["--rank", "0"], 2, "--rank 0: takes rank 1 to 15 here, not 0"),
            (["--rank", "16"], 2, "--rank 16: takes rank 1 to 15 here, not 16; from 16 on the factors"),
            (["--table", "2,16"], 2, "--table 2,16: takes rank 1 to 15 here, not 16"),
            (["--table", "2,-1"], 2, "--table 2,-1: takes ranks, such as 64,128,256"),
            (["--table", "2", "--epochs", "1"], 2, "--table: measures and writes nothing"),
            (["--energy", "0"], 2, "--energy 0.0: takes a share above 0 and up to 1"),
            (["--energy", "1.5"], 2, "--energy 1.5: takes a share above 0 and up to 1"),
            (["--energy", "1", "--output", "OUT", "--images", "0"], 2, "--energy 1.0: takes rank 1 to 15 here, not 32"),
            (["--rank", "2", "--images", "1"], 2, "--images 1: one image has no variance"),
            (["--rank", "2"], 2, "--output : takes the .safetensors file to write"),
            (["--rank", "2", "--output", "small.onnx"], 2, "--output small.onnx: takes the .safetensors file"),
            (["--rank", "2", "--output", "FULL"], 2, "is the checkpoint that it is made of; choose another name"),
            (["--rank", "2", "--output", "BELOW"], 1, "cannot be written because of FULL; choose another place"),
            (["--rank", "2", "--output", "OUT", "--resume"], 2, "--resume: goes on with a fine-tuning"),
            (["--rank", "2", "--output", "OUT", "--epochs", "1", "--resume"], 1, "OUT.run: holds no run to resume"),
            (["--rank", "2", "--output", "OUT", "--epochs", "1", "--lr", "0"], 2, "--lr 0.0: is not within"),
            (["--rank", "2", "--output", "OUT", "--epochs", "1", "--batch", "19"], 2, "exceeds the 18 training images"),
            (["--rank", "2", "--output", "OUT", "--epochs", "1", "--val", "nowhere"], 1, "nowhere: no such folder"),
        ],
    )
    def test_a_flag_that_cannot_be(
        self, full: Path, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        flags: list[str], code: int, says: str,
    ) -> None:  # fmt: skip
        below = str(full / "small.safetensors")
        named = {"OUT": str(tmp_path / "OUT.safetensors"), "FULL": str(full), "BELOW": below}
        given_flags = [named.get(flag, flag) for flag in flags]
        self.refused(capsys, [str(full), str(photo_folder), *given_flags], code, says.replace("FULL", str(full)))
        assert [path.name for path in tmp_path.iterdir()] == ["full.safetensors"]

    def refused(self, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str) -> None:
        assert main(["compress", *arguments, "--workers", "0"]) == code
        *_, told = capsys.readouterr().err.splitlines()
        assert told.startswith("error: ")
        assert says in told

    def test_a_low_rank_checkpoint(
        self, tiny_checkpoint: Checkpoint, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        small = save_checkpoint(
            compress_to_rank(tiny_checkpoint, decompose_hidden_layers(tiny_checkpoint, None), 4),
            tmp_path / "small.safetensors",
        )
        self.refused(
            capsys, [str(small), str(photo_folder), "--rank", "2", "--output", str(tmp_path / "out.safetensors")],
            1, f"{small}: is of rank 4 already; give the full checkpoint that it came from",
        )  # fmt: skip

    def test_data_of_other_classes(self, full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        flags = ["--rank", "2", "--output", str(tmp_path / "out.safetensors")]
        for name in (*CLASSES, "zebra"):
            save_photo(tmp_path / "four" / name / "0.jpg", (0, 0, 0), 0)
            save_photo(tmp_path / "other" / name.replace("red", "rose") / "0.jpg", (0, 0, 0), 0)
        four, other = tmp_path / "four", tmp_path / "other"
        self.refused(
            capsys, [str(full), str(four), *flags], 1,
            f"{four}: its 4 classes are not the 3 of {full} ('zebra'); give the data that it was trained on",
        )  # fmt: skip
        (other / "zebra" / "0.jpg").unlink()
        (other / "zebra").rmdir()
        self.refused(capsys, [str(full), str(other), *flags], 1, "its 3 classes are not the 3 of")

    def test_fine_tuning_needs_held_out_images(
        self, full: Path, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        flags = ["--rank", "2", "--output", str(tmp_path / "out.safetensors"), "--epochs", "1"]
        data = photo_folder / "train"
        self.refused(capsys, [str(full), str(data), *flags], 1, f"{data}: has no val/; pass --val with images that")
