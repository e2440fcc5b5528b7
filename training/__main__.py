"""``python -m training DATA`` trains; ``evaluate``, ``compress`` and ``pack`` work on the checkpoint it leaves."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.cli.standard_output import checked_standard_output
from alexnet_deploy.errors import DeployError
from alexnet_deploy.model.checkpoint import load_checkpoint
from training.compress_command import compress_command
from training.evaluate import evaluate_checkpoint
from training.listing import list_held
from training.loop import STOPPED, Stopped
from training.options import ValLabels, Workers
from training.pack import pack
from training.terminal import console
from training.train_command import train_command

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.command("evaluate")
def evaluate_command(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint.safetensors.")],
    data: Annotated[Path, typer.Argument(help="Folder with one folder of images a class, or ImageNet's flat val.")],
    val_labels: ValLabels = None,
    ten_crop: Annotated[bool, typer.Option("--ten-crop", help="Average over the paper's ten crops.")] = False,
    confusion: Annotated[bool, typer.Option("--confusion", help="Count the answers of each class, too.")] = False,
    workers: Workers = 2,
) -> None:
    """Top-1 and top-5 of a checkpoint, in total and per class."""
    loaded = load_checkpoint(checkpoint)
    images = list_held(data, loaded.contract.class_ids, val_labels)
    result = evaluate_checkpoint(loaded, images, workers=workers, ten_crop=ten_crop, confusion=confusion)
    print(json.dumps(result, indent=1))


@app.command("pack")
def pack_command(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint.safetensors.")],
    output: Annotated[Path, typer.Argument(help="The float16 checkpoint to write.")],
    data: Annotated[Path, typer.Option(help="Folder to measure it on: one folder of images a class, or a flat val.")],
    val_labels: ValLabels = None,
    workers: Workers = 2,
) -> None:
    """Store a checkpoint as float16, with the accuracy it then has in its recipe."""
    print(json.dumps(pack(checkpoint, output, data, labels=val_labels, workers=workers), indent=1))


app.command("train")(train_command)
app.command("compress")(compress_command)


def main(arguments: list[str]) -> int:
    """Run a command; ``train`` is the one meant where none is named. A DeployError becomes its exit code."""
    named = arguments[0] if arguments and arguments[0] in ("train", "evaluate", "pack", "compress") else None
    if arguments and named is None and arguments[0] != "--help":
        arguments = ["train", *arguments]
    try:
        with checked_standard_output():
            app(arguments, standalone_mode=True)
    except SystemExit as exc:
        if named and exc.code == 2 and Path(named).is_dir():
            console.print(f"{named!r} was taken for the command; if the folder of that name is meant, give ./{named}")
        raise
    except DeployError as exc:
        console.print(f"error: {exc}", style="red")
        return exc.exit_code
    except Stopped as exc:
        console.print(str(exc))
        return STOPPED
    except (RuntimeError, ConnectionError) as exc:
        # torch's own words, raised wherever the trainer is just then; or a pipe's, while a batch was handed over.
        if isinstance(exc, RuntimeError) and "DataLoader worker" not in str(exc):
            raise
        cause = "a process that decodes images was killed, most often for want of memory"
        console.print(f"error: {cause}; go on with --resume, and with fewer --workers", style="red")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
