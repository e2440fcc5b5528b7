"""How much of a bare loop's speed does training keep on real images?

    python -m benchmarks.training.loop imagenette [--rounds 3] [--steps 20]

Alternates, in one process: our Trainer fed by our loader from real files, and a hand-written loop on one synthetic
batch in memory with the same network, precision, layout and optimizer (in torch's default implementation). Prints each
round's ratio and their median.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.model.architecture import AlexNet, PixelClassifier, get_architecture, initialise
from training.data.augment import measure_colours
from training.data.lists.listing import find_splits, list_class_folders
from training.data.loader import Batch, ResumableBatchSampler
from training.loop.device import pick_device
from training.loop.fit import open_batches
from training.loop.run import Run
from training.loop.step import Trainer
from training.recipes.named import RECIPES, get_recipe

WARM_UP = 3
Step = Callable[[int], float]
"""Trains on one batch; the loss."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train/ and val/, or class folders")
    parser.add_argument("--recipe", choices=RECIPES, default="torchvision", help="a recipe; at 224 pixels throughout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cache", action="store_true", help="decode every picture once")
    asked = parser.parse_args()
    images = list_class_folders(find_splits(asked.data)[0])
    recipe = dataclasses.replace(get_recipe(asked.recipe), sides=())
    pre = Preprocessing(resize="stretch", resize_to=None)
    arch = get_architecture("alexnet", num_classes=len(images.class_ids))
    with tempfile.TemporaryDirectory() as folder:  # of the cache, which outlives its name
        run = Run(
            arch, recipe, images, images, images.class_ids, pre, Path(folder), workers=asked.workers, cache=asked.cache
        )
        trainer, batches = begin(run)

    def ours(step: int) -> float:
        pixels_NHWC, targets_N = next(batches)
        return trainer.step(step, 1e-4, pixels_NHWC, targets_N).item()

    bare = bare_loop(run, trainer.device)
    rounds = []
    for number in range(asked.rounds):
        rates = [rate(step, asked.steps, recipe.batch) for step in (ours, bare)]
        rounds.append({"ours_images_per_s": rates[0], "bare_images_per_s": rates[1], "ratio": rates[0] / rates[1]})
        print(f"round {number + 1}: ours {rates[0]:.0f}, bare {rates[1]:.0f} images/s, {rates[0] / rates[1]:.3f}")
    ratios = [round_["ratio"] for round_ in rounds]
    print(f"ours / bare: {statistics.median(ratios):.3f} ({min(ratios):.3f}..{max(ratios):.3f})")
    print(json.dumps({"recipe": recipe.name, "batch": recipe.batch, "rounds": rounds}))


def begin(run: Run) -> tuple[Trainer, Iterator[Batch]]:
    """Our Trainer, ready for its first step, and the batches of our loader, without end."""
    trainer = Trainer(run, pick_device(), 0)
    trainer.classifier.train()
    sampler = ResumableBatchSampler(len(run.train.files), run.recipe.batch, run.seed, 0, 0, 1)
    colours = measure_colours(run.train.files, run.seed) if run.recipe.pca_sigma else None
    return trainer, open_batches(run, sampler, colours)


def bare_loop(run: Run, device: torch.device) -> Step:
    """A step on synthetic pixels as one would write it by hand, with torch's defaults for the optimizer."""
    model = AlexNet(run.arch)
    initialise(model, "kaiming")
    network = PixelClassifier(model, run.preprocessing.mean, run.preprocessing.std)
    network.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9, weight_decay=1e-4)
    pixels_NHWC = torch.randint(0, 256, (run.recipe.batch, 224, 224, 3), dtype=torch.uint8, device=device)
    targets_N = torch.randint(0, run.arch.num_classes, (run.recipe.batch,), device=device)

    def step(number: int) -> float:
        with torch.autocast(device.type, torch.bfloat16):
            logits_NK = network(pixels_NHWC)
        loss = nn.functional.cross_entropy(logits_NK.float(), targets_N)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def rate(step: Step, steps: int, batch: int) -> float:
    """Images per second, after a warm-up that also fills the loader's queue."""
    for number in range(WARM_UP):
        step(number)
    started = time.perf_counter()
    for number in range(steps):
        step(number)
    return steps * batch / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
