"""Weight standardisation: convolutions that train as if normalised and are saved as plain ones.

Brock et al. (arXiv:2101.08692, section 4.1) after Qiao et al. (arXiv:1903.10520): each output channel's weights are
shifted and scaled to mean 0 and a standard deviation that is learned. It needs no batch statistics, costs a thousandth
of a step, and its result is an ordinary weight, so the network stays AlexNet as published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_EPSILON = 1e-8
# Legend: O output channel, I input channels of its group, h and w kernel


class _Standardised(nn.Module):
    def __init__(self, weight_OIhw: Tensor, *, keep: bool) -> None:
        super().__init__()
        if keep:
            variance_O111 = weight_OIhw.var((1, 2, 3), unbiased=False, keepdim=True)
            self.gain_O111 = nn.Parameter((variance_O111 + _EPSILON).sqrt())
        else:
            # Kaiming's standard deviation before a ReLU, so training starts as it would without.
            deviation = math.sqrt(2 / weight_OIhw[0].numel())
            self.gain_O111 = nn.Parameter(weight_OIhw.new_full((len(weight_OIhw), 1, 1, 1), deviation))

    def forward(self, weight_OIhw: Tensor) -> Tensor:
        variance, mean = torch.var_mean(weight_OIhw, (1, 2, 3), unbiased=False, keepdim=True)
        standardised: Tensor = (weight_OIhw - mean) * torch.rsqrt(variance + _EPSILON) * self.gain_O111
        return standardised


def standardise_convolutions(model: nn.Module, *, keep: bool = False) -> None:
    """Standardise the weights of every convolution from now on, in place.

    With ``keep`` the function of the network stays the same, if its weights ``have_mean_0``.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            parametrize.register_parametrization(layer, "weight", _Standardised(layer.weight.detach(), keep=keep))


def have_mean_0(weights: Mapping[str, Tensor]) -> bool:
    """Whether every filter of a state dict has mean 0, as after training with standardised convolutions.

    Up to a thousandth of its deviation: storing as float16 moves the mean of a filter by a ten-thousandth of that.
    """
    for weight_OIhw in (value.float() for value in weights.values() if value.ndim == 4):
        variance_O, mean_O = torch.var_mean(weight_OIhw, (1, 2, 3), unbiased=False)
        if (mean_O.abs() > 1e-3 * variance_O.sqrt()).any():
            return False
    return True


@torch.no_grad()
def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state dict, on the CPU, of the ordinary network with the same function; ``model`` is unchanged."""
    # Not by torch's remove_parametrizations on a copy: that takes ``weight`` from the class, which copies share.
    plain = {name: value for name, value in model.state_dict().items() if ".parametrizations." not in name}
    for name, layer in model.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            plain[f"{name}.weight"] = layer.weight
    return {name: value.detach().cpu() for name, value in plain.items()}
