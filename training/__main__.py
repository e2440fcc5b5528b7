"""``python -m training DATA`` trains; ``evaluate`` measures a checkpoint, ``pack`` makes it small."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from alexnet_deploy.checkpoint import load_checkpoint
from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import DeployError, InputError, UnavailableError, UsageError
from alexnet_deploy.models import FAMILY, architecture
from training.data import list_folder, split
from training.evaluate import evaluate_checkpoint
from training.loop import EpochRow, Run, Stopped, train
from training.pack import pack
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
    if resize not in ("stretch", "shorter-side"):
        raise UsageError(f"--resize {resize}: takes stretch or shorter-side")
    run = Run(
        arch=architecture(arch, num_classes=len(listing.class_ids), dense_rank=dense_rank, dropout=dropout),
        recipe=recipe(recipe_name, epochs=epochs, batch=batch, lr=lr),
        train=listing,
        val=held,
        data_digest=listing.digest(train_folder),
        labels=_labels(class_names, listing.class_ids),
        preprocessing=Preprocessing(resize="stretch", resize_to=None) if resize == "stretch" else Preprocessing(),
        output=output,
        seed=seed,
        workers=workers,
        resume=resume,
    )
    _make_writable(output)
    distributed = "RANK" in os.environ  # set by torchrun
    if distributed:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    lead = not distributed or dist.get_rank() == 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (lead and console.is_terminal)) as progress:
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
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode images.")] = 2,
) -> None:
    """Top-1 and top-5 of a checkpoint, in total and per class."""
    result = evaluate_checkpoint(load_checkpoint(checkpoint), data, workers=workers)
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
