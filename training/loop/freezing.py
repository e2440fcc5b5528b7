"""Which layers learn, at which rate, and from which epoch on."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from torch import nn

from alexnet_deploy.model.architecture import KERNELS, AlexNet
from training.recipes.recipe import Recipe

_CONVOLUTIONS = len(KERNELS)
_LAYERS = _CONVOLUTIONS + 3
_HELD = {None: 0, "features": _CONVOLUTIONS, "all-but-head": _LAYERS - 1}


def hold(model: AlexNet, recipe: Recipe, epoch: int) -> bool:
    """Let exactly those parameters learn that do so in ``epoch`` (from 0); return whether that changed any.

    For a held parameter no gradient is computed, and the optimizer passes it over, so no decay shrinks it.
    """
    held, changed = held_parameters(model, recipe, epoch), False
    for parameter in model.parameters():
        learns = id(parameter) not in held
        changed |= parameter.requires_grad != learns
        parameter.requires_grad_(learns)
    return changed


def held_parameters(model: AlexNet, recipe: Recipe, epoch: int) -> set[int]:
    """The ids of the parameters that do not learn in ``epoch`` (from 0). No later epoch has others."""
    held = _HELD[recipe.freeze]
    if recipe.unfreeze_every is not None:  # the last first: Howard & Ruder, arXiv:1801.06146, section 3.3
        held = max(held - epoch // recipe.unfreeze_every, 0)
    if recipe.conv_lr == 0:
        held = max(held, _CONVOLUTIONS)
    return {id(parameter) for layer in _layers(model)[:held] for parameter in layer.parameters()}


def parameter_groups(model: AlexNet, recipe: Recipe) -> list[dict[str, Any]]:
    """The parameters that ever learn, in groups; ``rate`` is a group's rate relative to that of the schedule."""
    conv_lr = recipe.lr if recipe.conv_lr is None else recipe.conv_lr
    head_lr = recipe.lr if recipe.head_lr is None else recipe.head_lr
    rates = [conv_lr] * _CONVOLUTIONS + [recipe.lr] * 2 + [head_lr]
    never = held_parameters(model, recipe, recipe.epochs - 1)
    groups: list[dict[str, Any]] = []
    # Layers of one rate make one group, in the order of earlier runs: their states number the parameters in it.
    for lr, pairs in groupby(zip(rates, _layers(model), strict=True), key=lambda pair: pair[0]):
        parameters = [p for _, layer in pairs for p in layer.parameters() if id(p) not in never]
        rate = lr / recipe.lr
        if recipe.optimizer == "sgd":
            parts = [{"params": parameters, "rate": rate}]
        else:
            # No weight decay for biases and gains: they have no scale to keep small.
            decayed = [p for p in parameters if p.numel() > len(p)]
            plain = [p for p in parameters if p.numel() == len(p)]
            parts = [{"params": decayed, "rate": rate}, {"params": plain, "rate": rate, "weight_decay": 0.0}]
        groups += [part for part in parts if part["params"]]
    return groups


def _layers(model: AlexNet) -> list[nn.Module]:
    """The five convolutions, the two hidden dense layers and the last layer."""
    convolutions = [m for m in model.get_submodule(model.arch.feature_name).children() if isinstance(m, nn.Conv2d)]
    return [*convolutions, *(model.classifier[number] for number in (1, 4, 6))]
