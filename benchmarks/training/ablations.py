"""What does each idea of the paper, and each ingredient of the modern recipe, change? One training run per row.

    python -m benchmarks.training.ablations imagenette --output runs/ablations [--only NAME ...] [--epochs 15]

Start the script again after a stop: it resumes the run and skips finished rows. It writes ablations.md and
ablations.json (the metrics of every run) into the output folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rounds import ROOT

STOPPED = 130
"""Exit code of a run that a signal ended: its sender wants no further row."""

RANK = ("--dense-rank", "148", "--val-every", "3")
"""The size of the shipped network takes a third of the time; the comparisons do not concern the dense layers."""
PAPER = (*RANK, "--recipe", "torchvision", "--lr", "0.01", "--set", "clip_norm=1.0", "--set", "crop_scale=null")
PAPER = (*PAPER, "--set", "sides=[[0.0, 128], [0.8, 224]]")
"""Base of the paper's rows: its optimizer, batch and crops of 224 x 224 out of 256 x 256, scaled to 128 x 128 until
the last fifth, with Kaiming's weights: with the paper's own, ten classes do not leave chance within 15 epochs
(docs/training.md)."""
MODERN = (*RANK, "--recipe", "modern", "--set", "sides=[[0.0, 96], [0.5, 132], [0.8, 168]]")
"""Base of the modern rows: the recipe at three quarters of its picture sides, which halves the time."""
LEVEL = 1.2
"""Training loss that figure 1 is read at."""


@dataclass(frozen=True, slots=True)
class Row:
    """One run. Rows of a ``group`` are compared with its first row, the base."""

    group: str
    name: str
    flags: tuple[str, ...]


ROWS = (
    Row("paper", "base: ReLU, no LRN, overlapping pools, dropout 0.5, crop + flip", PAPER),
    Row("paper", "tanh", (*PAPER, "--activation", "tanh")),
    Row("paper", "LRN", (*PAPER, "--lrn", "before-pool")),
    Row("paper", "plain pools", (*PAPER, "--pool", "plain")),
    Row("paper", "no dropout", (*PAPER, "--dropout", "0")),
    Row("paper", "two groups", (*PAPER, "--groups", "1,2,1,2,2")),
    Row("paper", "crop + flip + PCA colour", (*PAPER, "--set", "pca_sigma=0.1")),
    Row("paper", "no augmentation", (*PAPER, "--set", "flip=false", "--set", "crop_scale=[1.0, 1.0]")),
    Row("modern", "base: all of modern", MODERN),
    Row("modern", "no standardised weights", (*MODERN, "--set", "standardise=false")),
    Row("modern", "no TrivialAugment", (*MODERN, "--set", "augment=none")),
    Row("modern", "SGD 0.01 instead of AdamW", (*MODERN, "--set", "optimizer=sgd", "--lr", "0.01")),
    Row("modern", "crops from 8 %", (*MODERN, "--set", "crop_scale=[0.08, 1.0]")),
    Row("modern", "no label smoothing", (*MODERN, "--set", "label_smoothing=0")),
    Row("modern", "with averaged weights", (*MODERN, "--set", "ema_decay=0.998")),
    Row("modern", "168 pixels from the start", (*MODERN, "--set", "sides=[[0.0, 168]]")),
    Row("modern", "RandAugment instead", (*MODERN, "--set", "augment=rand")),
    Row("modern", "with CutMix", (*MODERN, "--set", "mix=cutmix")),
    Row("models", "alexnet-2012, paper", ("--arch", "alexnet-2012", "--recipe", "paper", "--lr", "0.0003")),
    Row("models", "alexnet-review-code, modern", ("--arch", "alexnet-review-code", "--recipe", "modern")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train/ and val/")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--only", nargs="*", default=(), help="names, or the group, of the rows to run")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="more flags for every run")
    asked = parser.parse_args()
    rows = [row for row in ROWS if not asked.only or row.name in asked.only or row.group in asked.only]
    for row in rows:
        stopped = train(row, asked.data, asked.output, asked.epochs, asked.flags) == STOPPED
        report(asked.output, asked.epochs)
        if stopped:
            sys.exit(STOPPED)


def train(row: Row, data: Path, output: Path, epochs: int, flags: Sequence[str]) -> int:
    """Run one row, or the rest of it; the exit code."""
    folder = folder_of(row, output)
    if finished(row, output, epochs):
        return 0
    resume = ["--resume"] if (folder / "state.safetensors").is_file() else []
    print(f"{row.group}: {row.name}", flush=True)
    command = [sys.executable, "-m", "training", "train", str(data.resolve()), "--output", str(folder.resolve())]
    command += ["--epochs", str(epochs), "--resize", "stretch", "--skip-preflight", *row.flags, *flags, *resume]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code:
        print(f"{row.name}: did not finish", flush=True)
    return code


def folder_of(row: Row, output: Path) -> Path:
    return output / row.group / "".join(c if c.isalnum() else "-" for c in row.name)


def finished(row: Row, output: Path, epochs: int) -> list[dict[str, Any]]:
    """The metrics of all epochs; [] where some are still to do."""
    path = folder_of(row, output) / "metrics.jsonl"
    metrics = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return metrics if metrics and metrics[-1]["epoch"] >= epochs else []


def report(output: Path, epochs: int) -> None:
    """Write both files from all finished runs."""
    found: list[dict[str, Any]] = []
    lines = [f"| run ({epochs} epochs) | top-1 % | to its base | train loss | epochs to {LEVEL} | images/s |"]
    lines.append("|---|---|---|---|---|---|")
    base: dict[str, float] = {}
    for row in ROWS:
        if not (metrics := finished(row, output, epochs)):
            continue
        found.append({"group": row.group, "name": row.name, "flags": row.flags, "metrics": metrics})
        last = metrics[-1]
        top1 = last["val_top1_percent"]
        difference = f"{top1 - base[row.group]:+.2f}" if row.group in base else ""
        base.setdefault(row.group, top1)
        reached = next((str(m["epoch"]) for m in metrics if m["train_loss"] <= LEVEL), "-")
        rate = sorted(m["images_per_s"] for m in metrics)[len(metrics) // 2]
        cells = (row.name, f"{top1:.2f}", difference, f"{last['train_loss']:.3f}", reached, f"{rate:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    output.mkdir(parents=True, exist_ok=True)
    (output / "ablations.json").write_text(json.dumps(found, indent=1))
    (output / "ablations.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
