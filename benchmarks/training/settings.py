"""What do sleeping threads and kept memory change in training on a CPU?

    python -m benchmarks.training.settings imagenette/val [--rounds 3]

In turn, each in a process of its own: our loader and Trainer with the defaults of torch and glibc, and with what
``python -m training`` sets (training/__init__.py, training/loop/device.py). Prints images/s and the ratio within a
round.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from alexnet_deploy.contract import Preprocessing
from benchmarks import rounds
from benchmarks.render import table
from benchmarks.rounds import Report, Row

WARM_UP = 4
CASES = {
    "alexnet-2012, paper, 224 pixels": ("alexnet-2012", None, "paper", 224, 8),
    "alexnet rank 148, modern, 224 pixels": ("alexnet", 148, "modern", 224, 12),
    "alexnet rank 148, modern, 96 pixels": ("alexnet", 148, "modern", 96, 30),
}
"""Architecture, dense rank, recipe, side of the pictures, steps."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder with one folder of images per class")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--as-they-come", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.case:
        one_pass(asked.photos, asked.case, as_they_come=asked.as_they_come)
        return
    rows = []
    for case in CASES:
        command = [sys.executable, "-m", "benchmarks.training.settings", str(asked.photos.resolve()), "--case", case]
        ways = {
            "as set": lambda command=command: rounds.in_process(command)["images_per_s"],
            "as they come": lambda command=command: rounds.in_process([*command, "--as-they-come"])["images_per_s"],
        }
        found = rounds.in_turn(ways, asked.rounds)
        rows.append(Row(case, "images/s", found["as set"], "as they come", found["as they come"]))
    print(table(Report((__doc__ or "").partition("\n")[0], rows)))


def one_pass(photos: Path, case: str, *, as_they_come: bool) -> None:
    """Train some steps and print the rate and the process's peak memory as JSON."""
    # OpenMP reads the environment when torch is imported; training sets it.
    importlib.import_module("torch" if as_they_come else "training")
    from alexnet_deploy.model.architecture import get_architecture
    from benchmarks.training.loop import begin
    from training.data.lists.listing import list_class_folders
    from training.loop.device import keep_freed_memory
    from training.loop.run import Run
    from training.recipes.named import get_recipe

    if not as_they_come:
        keep_freed_memory()
    name, rank, recipe_name, side, steps = CASES[case]
    images = list_class_folders(photos)
    recipe = dataclasses.replace(get_recipe(recipe_name, lr=1e-6), sides=((0.0, side),))
    pre = Preprocessing(resize="stretch", resize_to=None)
    arch = get_architecture(name, num_classes=len(images.class_ids), dense_rank=rank)
    with tempfile.TemporaryDirectory() as folder:  # of the cache, which outlives its name
        trainer, batches = begin(Run(arch, recipe, images, images, images.class_ids, pre, Path(folder), cache=True))
    for number in range(WARM_UP):  # also fills the loader's queue
        trainer.step(number, 1e-6, *next(batches))
    started = time.perf_counter()
    for number in range(steps):
        trainer.step(number, 1e-6, *next(batches))
    rate = steps * recipe.batch / (time.perf_counter() - started)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"images_per_s": round(rate, 1), "peak_mib": round(peak_mib)}), flush=True)


if __name__ == "__main__":
    main()
