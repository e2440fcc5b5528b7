"""The recipes, every number with its source."""

from __future__ import annotations

import dataclasses
from typing import Any

from alexnet_deploy.errors import UsageError
from training.recipes.recipe import Recipe, RecipeName

# For trained weights that were changed a little (training/compress/). A first choice, not yet compared: a
# fifth of "modern"'s rate, which was chosen for drawn weights, and milder crops. The average spans 100 steps,
# some 1.4 epochs of Imagenette: over eight epochs one of 500 would still hold a third of its first weights.
_FINETUNE = Recipe(
    "finetune",
    8,
    128,
    "adamw",
    1e-4,
    0.05,
    "kaiming",
    "cosine",
    warmup_epochs=1,
    label_smoothing=0.1,
    crop_scale=(0.35, 1.0),
    ema_decay=0.99,
    clip_norm=1.0,
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        # torchvision's published AlexNet reference: references/classification, "--lr 1e-2", step 30, 90 epochs.
        Recipe("torchvision", 90, 128, "sgd", 0.01, 1e-4, "kaiming", "step"),
        # docs/training.md has a measurement of each part. Optimizer: AdamW (Loshchilov & Hutter, arXiv:1711.05101)
        # with a clipped gradient starts a net without batch norm at once. Standardised weights: Brock et al.
        # (arXiv:2101.08692). Crops from a quarter of the area: 0.08 is tuned for 90 epochs of ImageNet's million.
        # Sides: random crops enlarge what they show, so the test picture may be larger (Touvron et al.,
        # arXiv:1906.06423), and small pictures cost a third. Smoothing: Szegedy et al. 2015 (arXiv:1512.00567). No
        # averaged weights: where the rate ends at 0 they change nothing.
        Recipe(
            "modern",
            64,
            128,
            "adamw",
            5e-4,
            0.05,
            "kaiming",
            "cosine",
            warmup_epochs=2,
            label_smoothing=0.1,
            crop_scale=(0.25, 1.0),
            augment="trivial",
            sides=((0.0, 128), (0.5, 176), (0.8, 224)),
            standardise=True,
            clip_norm=1.0,
        ),
        # Krizhevsky et al. 2012. Section 5: SGD, batch 128, momentum 0.9, weight decay 0.0005; weights N(0, 0.01),
        # biases 0 and 1; 0.01 divided by 10 when the validation error stops improving, three times; some 90 cycles.
        # Section 4.1: crops out of 256 x 256, reflections, colour noise of 0.1. Section 2: pixels on the 0..255 scale
        # less their mean (by pixel there, by channel here): with unit variance so small an initialisation has no
        # signal left after five layers. The authors lowered the rate by hand; 5 epochs of patience are ours. The rate
        # is for 1000 classes: ten need 0.0003 (docs/training.md has the reason).
        Recipe(
            "paper",
            90,
            128,
            "sgd",
            0.01,
            5e-4,
            "paper",
            "plateau",
            crop_scale=None,
            pca_sigma=0.1,
            pixel_std=(1 / 255, 1 / 255, 1 / 255),
        ),
        _FINETUNE,
        # For trained weights and other classes: as "finetune" but for ten times the rate in the last layer, which alone
        # is drawn anew, 20 epochs, and no average. docs/training.md compares its numbers with others.
        dataclasses.replace(_FINETUNE, name="transfer", epochs=20, ema_decay=None, head_lr=1e-3),
    )
}


def get_recipe(name: RecipeName, **changes: Any) -> Recipe:
    """The recipe ``name`` with some fields changed (None: unchanged)."""
    if name not in RECIPES:
        raise UsageError(f"`recipe` {name}: unknown; choose one of {', '.join(RECIPES)}")
    return dataclasses.replace(RECIPES[name], **{key: value for key, value in changes.items() if value is not None})
