"""How far do few photos get, from drawn and from trained weights? One training run per class count, size and seed.

    nice python -m benchmarks.training.few_images imagenette --output runs/few [--only small transfer ways] [--seeds 3]

``small``: 3 and 10 classes of 5 to 200 photos, all defaults, from drawn weights and with ``--start shipped`` (which
knows these very classes: it says what a user gets whose photos resemble the source's). ``transfer``: a network that was
trained on five of the classes learns the five others. ``ways``: freezing, rates of the last layer and distillation at
50 photos a class of that transfer. Start it again after a stop: it resumes the run and skips what has finished. The
tables are written as ``few.md`` and ``few.json``.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rounds import ROOT

STOPPED = 130
"""Exit code of a run that a signal ended: its sender wants no further run."""
RANK = ("--dense-rank", "148")
"""The size of the shipped network, for all runs of the transfer: it takes a third of the time."""
SOURCE = (*RANK, "--epochs", "30")
"""The network that the transfers start from."""


@dataclass(frozen=True, slots=True)
class Case:
    """One cell of a table: runs that differ in the seed only. ``per_class`` None: all photos."""

    group: str
    classes: tuple[int, int]
    per_class: int | None
    way: str
    flags: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its folder."""
        first, end = self.classes
        way = "".join(c if c.isalnum() else "-" for c in self.way)
        return f"{self.group}/{end - first}x{self.per_class or 'all'}-{way}"


def cases(source: Path) -> Iterator[Case]:
    """All of them; ``source`` is the run on the first five classes."""
    start = ("--start", str(source / "checkpoint.safetensors"))
    for count in (3, 10):
        for per_class in (5, 20, 60, 200):
            yield Case("small", (0, count), per_class, "drawn", ())
            yield Case("small", (0, count), per_class, "shipped", ("--start", "shipped"))
    others = (5, 10)
    for per_class in (10, 50, None):
        yield Case("transfer", others, per_class, "drawn", RANK)
        yield Case("transfer", others, per_class, "source", start)
    for way, flags in (
        ("features fixed", ("--freeze", "features")),
        ("all but the last layer fixed", ("--freeze", "all-but-head")),
        ("one layer more every 4 epochs", ("--freeze", "all-but-head", "--unfreeze-every", "4")),
        ("head at the rate of the others", ("--head-lr", "1e-4")),
        ("head at 3e-3", ("--head-lr", "3e-3")),
        ("all at 3e-4", ("--lr", "3e-4")),
        ("40 epochs", ("--epochs", "40")),
    ):
        yield Case("ways", others, 50, way, (*start, *flags))


def main() -> None:
    """Run what is asked for, and write the tables after each run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with train/ and val/")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=("small", "transfer", "ways"))
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    data, output = asked.data.resolve(), asked.output.resolve()
    source = output / "source"
    if set(asked.only) & {"transfer", "ways"}:
        stop_if(train(manifest(data, output, (0, 5), None, 0), source, 0, SOURCE))
    for seed in range(asked.seeds):  # one seed of everything first
        for case in cases(source):
            if case.group in asked.only:
                data_csv = manifest(data, output, case.classes, case.per_class, seed)
                stop_if(train(data_csv, output / case.name / str(seed), seed, case.flags))
                write_tables(output, list(cases(source)), asked.seeds)


def stop_if(code: int) -> None:
    """End here if a signal ended the run."""
    if code == STOPPED:
        sys.exit(STOPPED)


def manifest(data: Path, output: Path, classes: tuple[int, int], per_class: int | None, seed: int) -> Path:
    """A CSV of ``per_class`` training photos of each class, drawn with ``seed``, and all validation photos of them."""
    first, end = classes
    path = output / "data" / f"{first}-{end}-{per_class or 'all'}-{seed}.csv"
    names = sorted(folder.name for folder in (data / "train").iterdir() if folder.is_dir())[first:end]
    rows = [("file", "label", "split")]
    for name in names:
        photos = sorted((data / "train" / name).iterdir())
        if per_class is not None:
            photos = random.Random(f"{seed} {name}").sample(photos, per_class)
        rows += [(str(photo), name, "train") for photo in photos]
        rows += [(str(photo), name, "val") for photo in sorted((data / "val" / name).iterdir())]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def train(data: Path, run: Path, seed: int, flags: Sequence[str]) -> int:
    """One run, or the rest of it; its exit code, 0 if it has finished before."""
    if (run / "code").is_file():
        return 0
    resume = ["--resume"] if (run / "state.safetensors").is_file() else []
    print(f"\n{run}", flush=True)
    command = [sys.executable, "-m", "training", "train", str(data), "--output", str(run), "--seed", str(seed)]
    command += ["--val-every", "4", "--skip-preflight", "--skip-report", *flags, *resume]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code in (0, 1) and (run / "metrics.jsonl").is_file():
        (run / "code").write_text(str(code))
        (run / "state.safetensors").unlink(missing_ok=True)
        if run.name != "source":  # 24 of full size would take 5 GB
            for weights in run.glob("checkpoint*.safetensors"):
                weights.unlink()
    return code


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run reached."""

    top1: float
    epochs: int
    """Epochs until it was within a point of its last top-1."""
    at_chance: bool


def outcome(run: Path) -> Outcome | None:
    """None while it has not finished."""
    if not (run / "code").is_file():
        return None
    rows: list[dict[str, Any]] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = [(row["epoch"], row["val_top1_percent"]) for row in rows if row["val_top1_percent"] is not None]
    last = measured[-1][1]
    return Outcome(last, next(epoch for epoch, top1 in measured if top1 >= last - 1), (run / "code").read_text() == "1")


def write_tables(output: Path, of: Sequence[Case], seeds: int) -> None:
    """``few.md`` and ``few.json`` from all finished runs."""
    lines = ["| classes | photos each | weights | top-1 % (lowest..highest) | epochs to within a point | refused |"]
    lines.append("|---|---|---|---|---|---|")
    found = []
    for case in of:
        done = [one for seed in range(seeds) if (one := outcome(output / case.name / str(seed))) is not None]
        if not done:
            continue
        top1, epochs = [one.top1 for one in done], [one.epochs for one in done]
        spread = f"{statistics.mean(top1):.1f} ({min(top1):.1f}..{max(top1):.1f}), {len(done)} seeds"
        refused = sum(one.at_chance for one in done)
        count = f"{case.classes[1] - case.classes[0]}"
        cells = (count, str(case.per_class or "all"), f"{case.group}: {case.way}", spread)
        lines.append(f"| {' | '.join(cells)} | {statistics.median(epochs):g} | {refused or ''} |")
        found.append({"case": case.name, "top1_percent": top1, "epochs": epochs, "at_chance": refused})
    (output / "few.json").write_text(json.dumps(found, indent=1) + "\n")
    (output / "few.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
