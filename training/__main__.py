"""``python -m training``: train, and evaluate, compress or pack the checkpoint that training leaves."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import torch.distributed as dist
import typer
from typer.core import TyperGroup

from alexnet_deploy.cli.flags import with_flags
from alexnet_deploy.cli.standard_output import checked_standard_output
from alexnet_deploy.cli.terminal import note
from alexnet_deploy.errors import DeployError
from alexnet_deploy.model.checkpoint import load_checkpoint
from training.compress.command import compress_command
from training.data.listing import list_val_images
from training.evaluate import evaluate_checkpoint
from training.loop.fit import Interrupted
from training.options import CheckpointFile, ValLabels, Workers
from training.pack import pack
from training.train import leads
from training.train_command import train_command


class _Commands(TyperGroup):
    """Lists the commands where the one that was typed is unknown: none is guessed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands:
            names = ", ".join(self.commands)
            ctx.fail(f"No such command '{args[0]}'; name one of {names}: {ctx.command_path} train {args[0]} ...")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,  # a shell completes the name of a program, and this is an argument of python
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def evaluate_command(
    checkpoint: CheckpointFile,
    data: Annotated[Path, typer.Argument(help="Folder with one folder of images per class, or ImageNet's flat val.")],
    val_labels: ValLabels = None,
    ten_crop: Annotated[bool, typer.Option("--ten-crop", help="Average over the paper's ten crops.")] = False,
    confusion: Annotated[bool, typer.Option("--confusion", help="Add the counts of each class's answers.")] = False,
    workers: Workers = 2,
) -> None:
    """Top-1 and top-5 of a checkpoint, in total and per class, as JSON."""
    loaded = load_checkpoint(checkpoint)
    images = list_val_images(data, loaded.contract.class_ids, val_labels)
    result = evaluate_checkpoint(loaded, images, workers=workers, ten_crop=ten_crop, confusion=confusion)
    print(json.dumps(result, indent=1))


def pack_command(
    checkpoint: CheckpointFile,
    output: Annotated[Path, typer.Argument(help="The float16 checkpoint to write.")],
    data: Annotated[Path, typer.Option(help="Images to measure it on: one folder per class, or a flat val.")],
    val_labels: ValLabels = None,
    workers: Workers = 2,
) -> None:
    """Store a checkpoint as float16, with the accuracy it then has in its recipe and on the standard output."""
    print(json.dumps(pack(checkpoint, output, data, val_labels=val_labels, workers=workers), indent=1))


for name, command in (
    ("train", train_command),
    ("evaluate", evaluate_command),
    ("compress", compress_command),
    ("pack", pack_command),
):
    app.command(name)(with_flags(command))


def main(arguments: list[str]) -> int:
    """Run a command; the exit code. Typer itself ends usage errors with 2."""
    try:
        with checked_standard_output():
            app(arguments, prog_name="python -m training")
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except Interrupted as exc:
        if leads():
            note(str(exc))
        return exc.exit_code
    except DeployError as exc:
        note(f"error: {exc}", style="red")
        return exc.exit_code
    except (RuntimeError, ConnectionError) as exc:
        # torch's own words, raised wherever the trainer is just then; or a pipe's, while a batch was handed over.
        if isinstance(exc, RuntimeError) and "DataLoader worker" not in str(exc):
            raise
        cause = "a process that decodes images was killed, most often for lack of memory"
        note(f"error: {cause}; go on with --resume and fewer --workers", style="red")
        return 1
    return 0


def _exit(code: int) -> None:
    """Exit; one of several processes at once where it has done its work."""
    if dist.is_initialized() and code in (0, Interrupted.exit_code):
        dist.destroy_process_group()
        # gloo's threads abort now and then at interpreter exit on a CPU, after all work is done and written.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    _exit(main(sys.argv[1:]))
