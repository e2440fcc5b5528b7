"""At which size a checkpoint looks at photos: it needs no training, and need not be the one that training assumed."""

from __future__ import annotations

import dataclasses

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import UsageError
from alexnet_deploy.model.checkpoint import Checkpoint

EVALUATION = "evaluation"
"""Key of a checkpoint's recipe under which ``pack`` records the accuracy of its very weights and contract."""
LARGEST = 1024
"""Beyond it the crop would show a twentieth of a photo."""


def at_scale(checkpoint: Checkpoint, resize_to: int | None) -> Checkpoint:
    """``checkpoint`` with another ``resize_to`` (pixels) in its contract; None: as it is.

    Random crops show objects larger than the whole photo does (Touvron et al., arXiv:1906.06423), so a larger size,
    of which the centre is cropped, can be closer to what was trained. An accuracy that the recipe records was measured
    at the old size, so it is left out with another one. UsageError for a size below the crop or beyond
    ``LARGEST``.
    """
    if resize_to is None:
        return checkpoint
    contract = checkpoint.contract
    least = max(contract.preprocessing.height, contract.preprocessing.width)
    if not least <= resize_to <= LARGEST:
        raise UsageError(f"`resize_to` {resize_to}: must be from {least}, the size of the crop, to {LARGEST}")
    preprocessing = dataclasses.replace(contract.preprocessing, resize_to=resize_to)
    if preprocessing != contract.preprocessing:
        contract = contract.uncalibrated()  # other pixels give other logits
    return with_contract(checkpoint, dataclasses.replace(contract, preprocessing=preprocessing))


def with_contract(checkpoint: Checkpoint, contract: ModelContract) -> Checkpoint:
    """``checkpoint`` with ``contract``; under another one its recipe loses the accuracy, which nobody measured."""
    same = contract == checkpoint.contract
    recipe = {key: value for key, value in checkpoint.recipe.items() if same or key != EVALUATION}
    return dataclasses.replace(checkpoint, contract=contract, recipe=recipe)
