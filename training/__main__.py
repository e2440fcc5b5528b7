"""``python -m training DATA`` trains; ``evaluate`` measures a checkpoint, ``pack`` makes it small."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.distributed as dist
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from alexnet_deploy.checkpoint import load_checkpoint
from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import DeployError, InputError, UnavailableError, UsageError
from alexnet_deploy.models import FAMILY, Architecture, architecture
from training.data import Listing, list_folder, split
from training.evaluate import evaluate_checkpoint
from training.loop import EpochRow, Run, Stopped, train
from training.pack import pack
from training.preflight import ALLOW_LEAK, ALLOW_TWO_CLASSES, ALLOW_UNREADABLE, inspect_data
from training.recipes import RECIPES, recipe

MAX_SEED = 2**63 - 1
"""What torch.manual_seed takes."""

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)  # a path is shown as it is


@app.command("train")
def train_command(
    data: Annotated[
        Path, typer.Argument(help="Folder with one folder of images a class, or train/ and val/ of those.")
    ],
    output: Annotated[Path, typer.Option(help="Run directory: checkpoint, metrics and state land there.")],
    arch: Annotated[str, typer.Option(help=f"One of {', '.join(FAMILY)}.")] = "alexnet",
    recipe_name: Annotated[str, typer.Option("--recipe", help=f"One of {', '.join(RECIPES)}.")] = "modern",
    val: Annotated[Path | None, typer.Option(help="Validation folder; else DATA/val, else a seeded split.")] = None,
    val_share: Annotated[float, typer.Option(help="Share of each class to hold out where no folder is.")] = 0.1,
    class_names: Annotated[Path | None, typer.Option(help='JSON {"folder name": "name for people"}.')] = None,
    resize: Annotated[str, typer.Option(help="Preprocessing at inference: shorter-side or stretch.")] = "shorter-side",
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    batch: Annotated[int | None, typer.Option(help="Global batch instead of the recipe's.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate instead of the recipe's.")] = None,
    dense_rank: Annotated[int | None, typer.Option(help="Rank of the two hidden dense layers, else full.")] = None,
    dropout: Annotated[float, typer.Option(help="Dropout before the hidden dense layers.")] = 0.5,
    activation: Annotated[str | None, typer.Option(help="relu or tanh, instead of the architecture's own.")] = None,
    lrn: Annotated[str | None, typer.Option(help="none, before-pool or after-pool, instead of its own.")] = None,
    pool: Annotated[str | None, typer.Option(help="overlapping or plain, instead of its own.")] = None,
    groups: Annotated[str | None, typer.Option(help="Of the five convolutions, such as 1,2,1,2,2.")] = None,
    allow_unreadable: Annotated[
        bool, typer.Option(ALLOW_UNREADABLE, help="Leave out files that are no image.")
    ] = False,
    allow_leak: Annotated[bool, typer.Option(ALLOW_LEAK, help="Validate on training images, too.")] = False,
    allow_two_classes: Annotated[
        bool, typer.Option(ALLOW_TWO_CLASSES, help="Train on an image that lies in two classes.")
    ] = False,
    skip_preflight: Annotated[
        bool, typer.Option("--skip-preflight", help="Do not read all files before the first step.")
    ] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode images.")] = 2,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Decides weights, order, crops and dropout.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output.")] = False,
) -> None:
    """Train a member of the AlexNet family on a folder of labelled images."""
    train_folder = data / "train" if (data / "train").is_dir() else data
    listing = list_folder(train_folder)
    val_folder = val or (data / "val" if (data / "val").is_dir() else None)
    if val_folder is not None:
        held = list_folder(val_folder, class_ids=listing.class_ids)
    else:
        listing, held = split(listing, val_share, seed)
    network = _switched(
        architecture(arch, num_classes=len(listing.class_ids), dense_rank=dense_rank, dropout=dropout),
        _choice("--activation", activation, "relu", "tanh"),
        _choice("--lrn", lrn, "none", "before-pool", "after-pool"),
        _choice("--pool", pool, "overlapping", "plain"),
        groups,
    )
    chosen = recipe(recipe_name, epochs=epochs, batch=batch, lr=lr)
    labels = _labels(class_names, listing.class_ids)
    stretch = _choice("--resize", resize, "stretch", "shorter-side") == "stretch"
    given = {ALLOW_UNREADABLE: allow_unreadable, ALLOW_LEAK: allow_leak, ALLOW_TWO_CLASSES: allow_two_classes}
    allowed = [flag for flag, is_given in given.items() if is_given]
    if skip_preflight and allowed:
        raise UsageError(f"{allowed[0]}: has no meaning with --skip-preflight; leave one of the two out")
    _make_writable(output)
    distributed = "RANK" in os.environ  # set by torchrun
    lead = os.environ.get("RANK", "0") == "0"
    readable = torch.ones(len(listing.files) + len(held.files), dtype=torch.uint8)
    if lead and not skip_preflight:
        # Before the processes meet: torchrun then ends the others, and none waits for an answer that cannot come.
        readable = _preflight(listing, held, allowed, max(1, workers))
    if distributed:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        dist.broadcast(readable, 0)
    usable = readable.bool().numpy()
    listing, held = listing.where(usable[: len(listing.files)]), held.where(usable[len(listing.files) :])
    run = Run(
        arch=network,
        recipe=chosen,
        train=listing,
        val=held,
        data_digest=listing.digest(train_folder) + held.digest(val_folder or train_folder),
        labels=labels,
        preprocessing=Preprocessing(
            resize="stretch" if stretch else "shorter-side",
            resize_to=None if stretch else 256,
            std=chosen.pixel_std,
        ),
        output=output,
        seed=seed,
        workers=workers,
        resume=resume,
    )
    with _progress(lead) as progress:
        task = progress.add_task("training")

        def on_step(step: int, total: int) -> None:
            progress.update(task, completed=step, total=total)

        def on_epoch(row: EpochRow) -> None:
            console.print(
                f"epoch {row.epoch:3d}/{run.recipe.epochs}  train loss {row.train_loss:.3f}  "
                f"val loss {row.val_loss:.3f}  top-1 {row.val_top1_percent:.2f} %  {row.images_per_s:.0f} images/s "
                f"({row.data_wait_percent:.1f} % waiting for data)"
            )

        checkpoint = train(run, on_epoch=on_epoch, on_step=on_step)
    if lead:
        console.print(f"wrote {checkpoint}")
    if distributed:
        dist.destroy_process_group()
        # gloo's threads abort now and then at interpreter exit on a CPU, after all work is done and written.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


@app.command("evaluate")
def evaluate_command(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint.safetensors.")],
    data: Annotated[Path, typer.Argument(help="Folder with one folder of images a class.")],
    ten_crop: Annotated[bool, typer.Option("--ten-crop", help="Average over the paper's ten crops.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode images.")] = 2,
) -> None:
    """Top-1 and top-5 of a checkpoint, in total and per class."""
    result = evaluate_checkpoint(load_checkpoint(checkpoint), data, workers=workers, ten_crop=ten_crop)
    print(json.dumps(result, indent=1))


@app.command("pack")
def pack_command(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint.safetensors.")],
    output: Annotated[Path, typer.Argument(help="The float16 checkpoint to write.")],
    data: Annotated[Path, typer.Option(help="Folder to measure it on: one folder of images a class.")],
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode images.")] = 2,
) -> None:
    """Store a checkpoint as float16, with the accuracy it then has in its recipe."""
    print(json.dumps(pack(checkpoint, output, data, workers=workers), indent=1))


def _progress(lead: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not (lead and console.is_terminal))


def _preflight(train: Listing, val: Listing, allowed: Collection[str], threads: int) -> torch.Tensor:
    """Tell what is wrong with the data; 1 for each file that can be read, 0 for the others."""
    with _progress(lead=True) as progress:
        task = progress.add_task("preflight", total=len(train.files) + len(val.files))
        report = inspect_data(train, val, threads=threads, on_files=lambda count: progress.advance(task, count))
    if report.findings:
        console.print(report.table(allowed), soft_wrap=False)
    report.check(allowed)
    return torch.from_numpy(report.readable.astype(np.uint8))


def _choice(flag: str, value: str | None, *choices: str) -> str | None:
    if value is not None and value not in choices:
        raise UsageError(f"{flag} {value}: takes {', '.join(choices[:-1])} or {choices[-1]}")
    return value


def _switched(
    arch: Architecture, activation: str | None, lrn: str | None, pool: str | None, groups: str | None
) -> Architecture:
    """The architecture with those of the paper's switches that were given."""
    switches: dict[str, Any] = {"activation": activation, "lrn": lrn}
    if pool is not None:
        switches["overlapping_pool"] = pool == "overlapping"
    if groups is not None:
        switches["groups"] = _groups(groups, arch)
    return dataclasses.replace(arch, **{key: value for key, value in switches.items() if value is not None})


def _groups(text: str, arch: Architecture) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) != len(arch.widths) or not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"--groups {text}: takes five whole numbers, one a convolution, such as 1,2,1,2,2")
    groups = tuple(int(part) for part in parts)
    for number, (count, fan_in, fan_out) in enumerate(zip(groups, (3, *arch.widths), arch.widths, strict=False), 1):
        if fan_in % count or fan_out % count:
            raise UsageError(
                f"--groups {text}: {count} does not divide the {fan_in} channels into convolution {number} of "
                f"{arch.name} and the {fan_out} out of it; choose a number that does"
            )
    return groups


def _make_writable(output: Path) -> None:
    """Find out now, and not after the first epoch, that nothing can be saved."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UnavailableError(f"--output {output}: cannot be made ({exc.strerror}); choose another place") from exc
    if not os.access(output, os.W_OK | os.X_OK):
        raise UnavailableError(f"--output {output}: cannot be written; choose another place")


def _labels(class_names: Path | None, class_ids: tuple[str, ...]) -> tuple[str, ...]:
    if class_names is None:
        return class_ids
    try:
        names: dict[str, Any] = json.loads(class_names.read_text(encoding="utf-8"))
        return tuple(str(names[class_id]) for class_id in class_ids)
    except (OSError, ValueError, TypeError) as exc:
        raise InputError(f"{class_names}: is not a readable JSON object ({exc}); see --help") from exc
    except KeyError as exc:
        raise InputError(f"{class_names}: names no class {exc.args[0]!r}; add it") from exc


def main(arguments: list[str]) -> int:
    """Run a command; ``train`` is the one meant where none is named. A DeployError becomes its exit code."""
    if arguments and arguments[0] not in ("train", "evaluate", "pack", "--help"):
        arguments = ["train", *arguments]
    try:
        app(arguments, standalone_mode=True)
    except DeployError as exc:
        console.print(f"error: {exc}", style="red")
        return exc.exit_code
    except Stopped as exc:
        console.print(str(exc))
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
