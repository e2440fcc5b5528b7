"""The mathematics of low-rank compression: a hidden dense layer as the product of two thin ones.

A layer y = W x + b becomes U (Uᵀ W) x + b', where the ``rank`` columns of U are orthonormal. Where U holds the leading
left singular vectors of W, this is the truncated SVD: the nearest *weights* (Eckart & Young 1936). The nearest
*outputs* on images matter more, and for those U holds the principal axes of y (Zhang et al., arXiv:1505.06798): the
optimum of a whitened SVD (SVD-LLM, arXiv:2403.07378) without a root of the inputs' 9216 x 9216 moments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alexnet_deploy.errors import UsageError
from alexnet_deploy.model.architecture import FEATURE_SIDE, AlexNet, Architecture, PixelClassifier
from alexnet_deploy.model.checkpoint import Checkpoint
from alexnet_deploy.progress import Progress, no_progress
from training.data.loader import Batch
from training.loop.device import pick_device, without_tf32

# Legend: N image, O output, I input, R rank

HIDDEN_LAYERS = ("classifier.1", "classifier.4")
"""Names of the hidden dense layers in every member of the family."""
WEIGHTS_SHARE = 1.0
"""Influence of the weights on the axes; that of the images is 1. Some hundred images show only few of 4096 axes.

Tried with 512 images at rank 192, on a full dense head that was trained for six epochs on another model's features:
validation logits were off by 7.2 % with 0.01, 6.9 % with 0.1, 5.7 % with 1 and with 2.3, 10.6 % with the weights alone.
Top-1 was the same for all."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """One dense layer, decomposed in float64 along orthonormal axes of its output space, the best first."""

    weight_OI: Tensor
    bias_O: Tensor
    mean_O: Tensor
    """The mean output: what the removed axes contribute on average, which a bias can keep."""
    axes_OO: Tensor
    """One axis per column."""
    shares_O: Tensor
    """Share of the energy along each axis; they sum to 1. Energy is the variance of the outputs on images or, without
    images, the squared singular values of the weights."""

    def rank_for(self, energy: float) -> int:
        """The smallest rank that keeps ``energy``, a share above 0 and up to 1."""
        # Rounding may leave the total a little below 1.
        reached = self.shares_O.cumsum(0) >= energy * self.shares_O.sum() * (1 - 1e-12)
        return int(reached.nonzero()[0].item()) + 1

    def energy_kept(self, rank: int) -> float:
        """Share of the energy in the first ``rank`` axes."""
        return float(self.shares_O[:rank].sum())

    def factors(self, rank: int) -> tuple[Tensor, Tensor, Tensor]:
        """First factor ``[R, I]``, second ``[O, R]`` and bias ``[O]``: second @ first @ x + bias approximates y.

        Both factors of an axis get the same norm, the root of the axis' own (with a plain SVD: of its singular value).
        The product is the same for any balance, but training is not: the gradient of one factor is scaled by the
        other, so balanced factors learn at one rate and decay alike, and neither leaves float16's range.
        """
        axes_OR = self.axes_OO[:, :rank]
        first_RI = axes_OR.T @ self.weight_OI
        root_R = first_RI.norm(dim=1).sqrt()
        root_R = torch.where(root_R > 0, root_R, 1.0)  # an axis without any weight
        bias_O = self.mean_O + axes_OR @ (axes_OR.T @ (self.bias_O - self.mean_O))
        return first_RI / root_R[:, None], axes_OR * root_R, bias_O


def decompose(weight_OI: Tensor, bias_O: Tensor, outputs_NO: Tensor | None = None) -> Spectrum:
    """Decompose a dense layer by its outputs on images (at least two), else by its weights alone (a plain SVD)."""
    weight_OI, bias_O = weight_OI.double(), bias_O.double()
    energy_OO = by_weights_OO = _trace_1(weight_OI @ weight_OI.T)
    weighted_OO, mean_O = by_weights_OO, bias_O
    if outputs_NO is not None:
        mean_O = outputs_NO.double().mean(0)
        centred_NO = outputs_NO.double() - mean_O
        energy_OO = _trace_1(centred_NO.T @ centred_NO)
        weighted_OO = energy_OO + WEIGHTS_SHARE * by_weights_OO
    # The left singular vectors of W are the eigenvectors of W Wᵀ: 4096 wide, where W is 9216 long.
    axes_OO = torch.linalg.eigh(weighted_OO).eigenvectors.flip(1)
    shares_O = ((energy_OO @ axes_OO) * axes_OO).sum(0).clamp(min=0)
    return Spectrum(weight_OI, bias_O, mean_O, axes_OO, shares_O)


def _trace_1(moments_OO: Tensor) -> Tensor:
    return moments_OO / moments_OO.trace().clamp(min=torch.finfo(moments_OO.dtype).tiny)  # a layer may be all zero


def decompose_hidden_layers(
    checkpoint: Checkpoint, batches: Iterable[Batch] | None, *, on_progress: Progress = no_progress
) -> dict[str, Spectrum]:
    """The spectrum of each hidden dense layer, by its outputs on ``batches``, else by its weights alone.

    Takes a minute for AlexNet's 4096 outputs on two cores. The checkpoint must not be low-rank already.
    """
    on_progress("decomposing", 0, len(HIDDEN_LAYERS))
    outputs = _outputs(checkpoint, batches) if batches is not None else {}
    spectra = {}
    for done, name in enumerate(HIDDEN_LAYERS, 1):
        weight_OI, bias_O = (checkpoint.weights[f"{name}.{kind}"] for kind in ("weight", "bias"))
        spectra[name] = decompose(weight_OI, bias_O, outputs.get(name))
        on_progress("decomposing", done, len(HIDDEN_LAYERS))
    return spectra


@torch.inference_mode()
def _outputs(checkpoint: Checkpoint, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Outputs ``[N, O]`` of the hidden dense layers, before their activation."""
    pre = checkpoint.contract.preprocessing
    device = pick_device()
    classifier = PixelClassifier(checkpoint.build(), pre.mean, pre.std).to(device).eval()
    found: dict[str, list[Tensor]] = {name: [] for name in HIDDEN_LAYERS}

    def keep(name: str, output_NO: Tensor) -> None:
        found[name].append(output_NO.to("cpu", copy=True))  # the activation that follows works in place

    for name in HIDDEN_LAYERS:
        layer = classifier.model.get_submodule(name)
        layer.register_forward_hook(lambda _layer, _inputs, output, name=name: keep(name, output))
    for pixels_NHWC, _ in batches:
        with without_tf32():
            classifier(pixels_NHWC.to(device))
    return {name: torch.cat(parts) for name, parts in found.items()}


def largest_rank(arch: Architecture) -> int:
    """The largest rank at which the factors of both layers have fewer weights than the layers."""
    flat = arch.widths[-1] * FEATURE_SIDE**2
    return min((arch.hidden * fan_in - 1) // (arch.hidden + fan_in) for fan_in in (flat, arch.hidden))


def check_rank(rank: int, arch: Architecture, *, asked: str) -> None:
    """UsageError if ``rank`` would not make ``arch`` smaller; ``asked`` is the parameter with its value."""
    largest = largest_rank(arch)
    if not 1 <= rank <= largest:
        raise UsageError(
            f"{asked}: rank {rank} is not within 1..{largest}, where the factors of a layer have fewer weights than "
            "the layer; choose one within"
        )


def rank_for(spectra: dict[str, Spectrum], energy: float) -> int:
    """The rank at which every layer keeps at least ``energy``.

    An architecture has one rank for both layers: this is the larger of the two, and the other layer keeps more.
    """
    return max(one.rank_for(energy) for one in spectra.values())


def compress_to_rank(checkpoint: Checkpoint, spectra: dict[str, Spectrum], rank: int, **record: Any) -> Checkpoint:
    """``checkpoint`` with its hidden dense layers at ``rank``, float32.

    Its recipe holds, under ``compressed``, the rank, the energy kept in each layer, ``record`` and the parent's recipe.
    """
    weights = {key: value.float() for key, value in checkpoint.weights.items()}
    for name, one in spectra.items():
        first_RI, second_OR, bias_O = one.factors(rank)
        del weights[f"{name}.weight"], weights[f"{name}.bias"]
        factors = {"0.weight": first_RI, "1.weight": second_OR, "1.bias": bias_O}
        weights |= {f"{name}.{key}": value.float() for key, value in factors.items()}
    summary = {
        "rank": rank,
        "energy_kept": {name: round(one.energy_kept(rank), 6) for name, one in spectra.items()},
        **record,
        "parent_recipe": checkpoint.recipe,
    }
    arch = dataclasses.replace(checkpoint.arch, dense_rank=rank)
    return Checkpoint(arch, checkpoint.contract.uncalibrated(), weights, {"compressed": summary})


def count_weights(arch: Architecture) -> int:
    """Number of weights and biases."""
    with torch.device("meta"):
        return sum(value.numel() for value in AlexNet(arch).parameters())
