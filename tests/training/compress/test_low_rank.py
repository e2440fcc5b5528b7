"""A compressed layer is the best of its rank; a compressed network answers as its factors say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.model.architecture import AlexNet, PixelClassifier, get_architecture
from alexnet_deploy.model.checkpoint import Checkpoint
from training.compress import low_rank
from training.data.lists.listing import list_class_folders
from training.data.loader import eval_batches

EXACT = 1e-10
"""Float64 products of numbers near 1, in another order."""


def product(factors: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return factors[1] @ factors[0]


class TestByWeights:
    def test_layers_by_hand(self) -> None:
        # (0.6, 0.8) times 5 times (1, 0): the singular value 5 is split into a root for each factor.
        weight_OI, bias_O = torch.tensor([[3.0, 0.0], [4.0, 0.0]]), torch.tensor([1.0, -1.0])
        first_RI, second_OR, bias = low_rank.decompose(weight_OI, bias_O).factors(1)
        sign = second_OR[0, 0].sign()  # either sign of a singular vector is right
        torch.testing.assert_close(sign * first_RI, torch.tensor([[5**0.5, 0.0]], dtype=torch.float64))
        torch.testing.assert_close(sign * second_OR, 5**0.5 * torch.tensor([[0.6], [0.8]], dtype=torch.float64))
        torch.testing.assert_close(bias, bias_O.double())
        # The smaller singular value goes.
        taken = low_rank.decompose(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2))
        torch.testing.assert_close(product(taken.factors(1)), torch.tensor([[0.0, 0.0], [0.0, 2.0]]).double())
        assert taken.energy_kept(1) == pytest.approx(4 / 5)

    @given(arrays(np.float64, (4, 7), elements=st.floats(-3, 3)), st.integers(1, 4))
    def test_it_is_numpys_truncated_svd(self, weight_OI: np.ndarray[Any, Any], rank: int) -> None:
        taken = low_rank.decompose(torch.from_numpy(weight_OI), torch.zeros(4))
        u, s, vt = np.linalg.svd(weight_OI, full_matrices=False)
        best = np.linalg.norm(weight_OI - (u[:, :rank] * s[:rank]) @ vt[:rank])
        left = np.linalg.norm(weight_OI - product(taken.factors(rank)).numpy())
        assert left == pytest.approx(best, abs=1e-6)  # equal singular values leave the product open, not its error
        first_RI, second_OR, _ = taken.factors(rank)
        alive = first_RI.norm(dim=1) > 0
        torch.testing.assert_close(first_RI.norm(dim=1)[alive], second_OR.norm(dim=0)[alive], rtol=1e-6, atol=1e-6)

    def test_full_rank_gives_the_layer_back_and_a_layer_of_zeros_stays_one(self) -> None:
        weight_OI, bias_O = torch.randn(5, 9, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
        for outputs in (None, torch.randn(20, 5)):
            factors = low_rank.decompose(weight_OI, bias_O, outputs).factors(5)
            torch.testing.assert_close(product(factors), weight_OI, rtol=0, atol=EXACT)
            torch.testing.assert_close(factors[2], bias_O, rtol=0, atol=EXACT)
        for outputs in (None, torch.zeros(3, 4)):
            factors = low_rank.decompose(torch.zeros(4, 6), torch.zeros(4), outputs).factors(2)
            assert all(torch.isfinite(part).all() for part in factors)
            assert not product(factors).any()


class TestByOutputs:
    def test_the_axis_on_which_images_differ_stays_and_the_mean_of_the_other_becomes_bias(self) -> None:
        weight_OI, bias_O = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0.5, 0.25])
        inputs_NI = torch.tensor([[1.0, -3.0], [1.0, 3.0]])
        outputs_NO = inputs_NI @ weight_OI.T + bias_O
        taken = low_rank.decompose(weight_OI, bias_O, outputs_NO)
        factors = taken.factors(1)
        torch.testing.assert_close(product(factors), torch.tensor([[0.0, 0.0], [0.0, 1.0]]).double())
        torch.testing.assert_close(factors[2], torch.tensor([2.5, 0.25]).double())
        assert taken.energy_kept(1) == pytest.approx(1.0)

    @pytest.mark.parametrize("rank", [1, 3, 6])
    def test_no_rank_is_nearer_to_the_outputs(self, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
        monkeypatch.setattr("training.compress.low_rank.WEIGHTS_SHARE", 0.0)  # the images alone have a closed optimum
        rng = np.random.default_rng(0)
        weight_OI, bias_O = rng.normal(size=(8, 12)), rng.normal(size=8)
        inputs_NI = rng.normal(size=(40, 12)) * np.geomspace(10, 0.1, 12) + 1
        outputs_NO = inputs_NI @ weight_OI.T + bias_O
        taken = low_rank.decompose(*map(torch.from_numpy, (weight_OI, bias_O, outputs_NO)))
        first_RI, second_OR, bias = (part.numpy() for part in taken.factors(rank))
        left = np.linalg.norm(inputs_NI @ first_RI.T @ second_OR.T + bias - outputs_NO)
        singular = np.linalg.svd(outputs_NO - outputs_NO.mean(0), compute_uv=False)
        assert left == pytest.approx(np.sqrt((singular[rank:] ** 2).sum()), rel=1e-9)
        assert taken.energy_kept(rank) == pytest.approx((singular[:rank] ** 2).sum() / (singular**2).sum(), rel=1e-9)

    def test_what_is_taken_are_the_outputs_before_the_activation(
        self, tiny_checkpoint: Checkpoint, photo_folder: Path
    ) -> None:
        images = list_class_folders(photo_folder / "train")
        pre = tiny_checkpoint.contract.preprocessing
        spectra = low_rank.decompose_hidden_layers(tiny_checkpoint, eval_batches(images, pre, batch=4, workers=0))
        model = tiny_checkpoint.build()
        features = torch.nn.Sequential(model.get_submodule("features"), torch.nn.Flatten())
        classifier = PixelClassifier(features, pre.mean, pre.std)
        with torch.inference_mode():
            (pixels_NHWC, _), *_ = eval_batches(images, pre, batch=99, workers=0)
            first_NO = model.classifier[1](classifier(pixels_NHWC))
            second_NO = model.classifier[4](first_NO.relu())
        assert (first_NO < 0).any()
        for name, outputs_NO in zip(low_rank.HIDDEN_LAYERS, (first_NO, second_NO), strict=True):
            torch.testing.assert_close(spectra[name].mean_O.float(), outputs_NO.mean(0), rtol=1e-4, atol=1e-5)


class TestRank:
    def test_the_smallest_that_keeps_the_energy_in_both_layers(self) -> None:
        taken = low_rank.decompose(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2))
        assert [taken.rank_for(energy) for energy in (0.01, 0.8, 0.81, 1.0)] == [1, 1, 2, 2]
        even, one_sided = (
            low_rank.decompose(torch.diag(torch.tensor(d)), torch.zeros(2)) for d in ([1.0, 1.0], [1.0, 0.0])
        )
        assert low_rank.rank_for({"a": one_sided, "b": even}, 0.9) == 2
        assert low_rank.rank_for({"a": one_sided, "b": one_sided}, 0.9) == 1

    @given(st.integers(0, 999), st.floats(0.01, 1.0))
    def test_one_less_would_not_keep_it(self, seed: int, energy: float) -> None:
        taken = low_rank.decompose(torch.from_numpy(np.random.default_rng(seed).normal(size=(6, 6))), torch.zeros(6))
        rank = taken.rank_for(energy)
        assert taken.energy_kept(rank) >= energy - 1e-9
        assert rank == 1 or taken.energy_kept(rank - 1) < energy

    def test_the_largest_is_the_last_that_makes_both_layers_smaller(self) -> None:
        assert (
            low_rank.largest_rank(get_architecture("alexnet")) == 2047
        )  # 4096 * 4096 / (4096 + 4096) = 2048 is no smaller
        assert low_rank.largest_rank(get_architecture("alexnet", hidden=32)) == 15


class TestCompressed:
    def test_weights_that_have_the_rank_already_give_the_same_logits(self, tiny_checkpoint: Checkpoint) -> None:
        weights = dict(tiny_checkpoint.weights)
        for name in low_rank.HIDDEN_LAYERS:
            u, s, vt = torch.linalg.svd(weights[f"{name}.weight"], full_matrices=False)
            weights[f"{name}.weight"] = (u[:, :6] * s[:6]) @ vt[:6]
        parent = dataclasses.replace(tiny_checkpoint, weights=weights)
        small = low_rank.compress_to_rank(parent, low_rank.decompose_hidden_layers(parent, None), 6, images=0)
        assert small.arch == dataclasses.replace(parent.arch, dense_rank=6)
        assert small.contract == parent.contract
        x_NCHW = torch.rand(3, 3, 224, 224)
        with torch.inference_mode():
            # float32 sums in another order
            torch.testing.assert_close(small.build()(x_NCHW), parent.build()(x_NCHW), rtol=1e-4, atol=1e-4)
        summary = small.recipe["compressed"]
        assert summary["energy_kept"] == pytest.approx(dict.fromkeys(low_rank.HIDDEN_LAYERS, 1.0), abs=1e-6)
        assert (summary["rank"], summary["images"], summary["parent_recipe"]) == (6, 0, {"source": "random"})
        assert low_rank.count_weights(small.arch) == sum(value.numel() for value in small.weights.values())

    def test_groups_in_the_convolutions_do_not_matter(self) -> None:
        arch = get_architecture("alexnet-2012", num_classes=3, hidden=32)
        contract = ModelContract(arch.name, ("a", "b", "c"), ("a", "b", "c"))
        parent = Checkpoint(arch, contract, AlexNet(arch).state_dict())
        small = low_rank.compress_to_rank(parent, low_rank.decompose_hidden_layers(parent, None), 4)
        assert small.build()(torch.zeros(1, 3, 224, 224)).shape == (1, 3)
