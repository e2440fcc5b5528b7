"""How far do few photos get, from drawn and from trained weights? One training run per class count, size and seed.

    nice python -m benchmarks.training.few_images imagenette --output runs/few [--only transfer/5x50 ways]

``small``: 3 and 10 classes of 5 to 200 photos, all defaults, from drawn weights and with ``--start shipped`` (which
knows these very classes: it says what a user gets whose photos resemble the source's). ``transfer``: a network that was
trained on five of the classes learns the five others. ``ways``: freezing, learning rates and longer runs at 50 photos
a class of that transfer. Each finished run is a row of ``results/few_images.jsonl``, which a new start leaves
out; a run that was stopped is resumed. Several may run at once, with another ``--only`` each. ``few.md`` in
``--output`` has the tables.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rounds import RESULTS, ROOT, environment
from training.loop.device import default_precision
from training.run_files import AT_CHANCE

STOPPED = 130
"""Exit code of a run that a signal ended: its sender wants no further run."""
FINISHED = RESULTS / "few_images.jsonl"
"""One line per finished run."""
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
        ("the recipe of drawn weights", ("--recipe", "modern")),
    ):
        yield Case("ways", others, 50, way, (*start, *flags))


def main() -> None:
    """Run what is asked for, and write the tables after each run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with train/ and val/")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=("small", "transfer", "ways"), help="beginnings of cases' names")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    data, output = asked.data.resolve(), asked.output.resolve()
    source = output / "source"
    chosen = [case for case in cases(source) if case.name.startswith(tuple(asked.only))]
    if any(case.group != "small" for case in chosen):
        stop_if(train(manifest(data, output, (0, 5), None, 0), source, 0, SOURCE))
    for seed in range(asked.seeds):  # one seed of everything first
        for case in chosen:
            if any((one.case, one.seed) == (case.name, seed) for one in finished()):
                continue
            run = output / case.name / str(seed)
            photos = manifest(data, output, case.classes, case.per_class, seed)
            # Validation takes longer than training here; how fast it learns is a question of the transfer alone.
            code = train(photos, run, seed, case.flags, val_every=20 if case.group == "small" else 4)
            stop_if(code)
            at_chance = (run / AT_CHANCE).is_file()  # which is a result, though it ends with an error
            if code == 0 or at_chance:
                record(outcome(case.name, seed, run, at_chance=at_chance))
                shutil.rmtree(run)  # of full size 24 would take 5 GB
            (output / "few.md").write_text("\n".join(table(list(cases(source)), finished())) + "\n")


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


def train(data: Path, run: Path, seed: int, flags: Sequence[str], val_every: int = 4) -> int:
    """One run, or the rest of it; its exit code."""
    resume = ["--resume"] if (run / "state.safetensors").is_file() else []
    print(f"\n{run}", flush=True)
    command = [sys.executable, "-m", "training", "train", str(data), "--output", str(run), "--seed", str(seed)]
    command += ["--val-every", str(val_every), "--cache", "--skip-preflight", "--skip-report", *flags, *resume]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run reached."""

    case: str
    seed: int
    top1_percent: float
    epochs: int
    """Epochs until it was within a point of its last top-1."""
    at_chance: bool
    measured: dict[str, str]
    """When, on which processor and in which precision."""


def outcome(case: str, seed: int, run: Path, *, at_chance: bool) -> Outcome:
    """Read from the record of a finished run."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = [(row["epoch"], row["val_top1_percent"]) for row in rows if row["val_top1_percent"] is not None]
    last = measured[-1][1]
    epochs = next(epoch for epoch, top1 in measured if top1 >= last - 1)
    here = environment()
    measured = {"date": here["date"], "cpu": here["CPU"], "precision": default_precision()}
    return Outcome(case, seed, round(last, 2), epochs, at_chance, measured)


def finished() -> list[Outcome]:
    """All runs that have finished, here or before."""
    lines = FINISHED.read_text(encoding="utf-8").splitlines() if FINISHED.is_file() else []
    return [Outcome(**json.loads(line)) for line in lines]


def record(one: Outcome) -> None:
    """One line more, in one write, so two processes cannot mix theirs."""
    with FINISHED.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(one)) + "\n")


def table(of: Sequence[Case], runs: Sequence[Outcome]) -> Iterator[str]:
    """The finished runs of each case as rows of Markdown."""
    yield "| classes | photos each | weights | top-1 % (lowest..highest) | epochs to within a point | refused |"
    yield "|---|---|---|---|---|---|"
    for case in of:
        done = [one for one in runs if one.case == case.name]
        if not done:
            continue
        top1 = [one.top1_percent for one in done]
        spread = f"{statistics.mean(top1):.1f} ({min(top1):.1f}..{max(top1):.1f}), {len(done)} seeds"
        refused = sum(one.at_chance for one in done)
        count = f"{case.classes[1] - case.classes[0]}"
        cells = (count, str(case.per_class or "all"), f"{case.group}: {case.way}", spread)
        yield f"| {' | '.join(cells)} | {statistics.median(one.epochs for one in done):g} | {refused or ''} |"


if __name__ == "__main__":
    main()
