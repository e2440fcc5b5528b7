"""The commands of ``python -m training``: train, and evaluate, compress or pack the resulting checkpoint."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from alexnet_deploy.cli import print_version
from alexnet_deploy.cli.engines import needs
from alexnet_deploy.cli.flags import CommandGroup, PlainCommand, with_flags
from alexnet_deploy.cli.output.standard_output import checked_standard_output
from alexnet_deploy.cli.output.tables import print_json
from alexnet_deploy.cli.output.terminal import note, note_written
from alexnet_deploy.errors import DeployError
from alexnet_deploy.machine.process import losing_standard_error
from training.cli.compress import compress_command
from training.cli.options import AllowUnreadable, CheckpointFile, ResizeTo, ValLabels, Workers
from training.cli.report import report_command
from training.cli.train import train_command
from training.loop.stop import Interrupted
from training.processes import leads, leave_group


class _Commands(CommandGroup):
    """Lists the commands if the typed one is unknown: no command is guessed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands:
            names = ", ".join(self.commands)
            ctx.fail(f"No such command '{args[0]}'; name one of {names}, such as {ctx.command_path} train {args[0]}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Commands,
    help="Train an image classifier of the AlexNet family, and work on its checkpoint.",
    no_args_is_help=True,
    add_completion=False,  # a shell completes names of programs, and this one is an argument of python
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _options(
    version: Annotated[
        bool, Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def evaluate_command(
    checkpoint: CheckpointFile,
    data: Annotated[Path, Argument(metavar="DATA", help="Class folders with images, or ImageNet's flat val.")],
    val_labels: ValLabels = None,
    ten_crop: Annotated[bool, Option("--ten-crop", help="Average over the paper's ten crops.")] = False,
    confusion: Annotated[bool, Option("--confusion", help="Add the confusion matrix, in counts.")] = False,
    resize_to: ResizeTo = None,
    allow_unreadable: AllowUnreadable = False,
    *,
    workers: Workers,
) -> None:
    """Measure top-1 and top-5 of a checkpoint, in total and per class, as JSON."""
    with needs("train"):
        from alexnet_deploy.model.checkpoint import load_checkpoint
        from training.data.lists.listing import list_val_images
        from training.data.preflight import readable_part
        from training.packing.scale import at_scale
        from training.results.evaluate import evaluate_checkpoint

    loaded = at_scale(load_checkpoint(checkpoint), resize_to)
    images = list_val_images(data, loaded.contract.class_ids, val_labels)
    for text in images.notes:
        note(text)
    unreadable: tuple[str, ...] = ()
    if allow_unreadable:
        images, unreadable = readable_part(images, threads=max(1, workers))
    result = evaluate_checkpoint(loaded, images, workers=workers, ten_crop=ten_crop, confusion=confusion)
    print_json(result | ({"unreadable": len(unreadable)} if unreadable else {}))
    if unreadable:
        note(f"{len(unreadable)} images cannot be read and are left out, first {unreadable[0]}", style="yellow")


def pack_command(
    checkpoint: CheckpointFile,
    output: Annotated[Path | None, Argument(metavar="OUTPUT", help="The float16 checkpoint to write.")] = None,
    data: Annotated[
        Path | None, Option(help="Images to measure it on: one subfolder per class, or a flat val. OUTPUT needs them.")
    ] = None,
    hf: Annotated[Path | None, Option(metavar="DIR", help="Folder to write for the Hugging Face hub.")] = None,
    val_labels: ValLabels = None,
    resize_to: ResizeTo = None,
    calibration: Annotated[
        Path | None,
        Option(metavar="BUNDLE", help="Calibrated float32 bundle of the checkpoint, whose calibration it gets."),
    ] = None,
    allow_unreadable: AllowUnreadable = False,
    *,
    workers: Workers,
) -> None:
    """Store a checkpoint as float16 and measure the accuracy that it then has, or write it for the Hugging Face hub."""
    with needs("train"):
        from training.packing.pack import pack

    result = pack(
        checkpoint,
        output,
        data,
        hf=hf,
        val_labels=val_labels,
        resize_to=resize_to,
        calibration=calibration,
        allow_unreadable=allow_unreadable,
        workers=workers,
    )
    if result is not None:
        print_json(result)
        if unreadable := result.get("unreadable"):
            note(f"{unreadable} images cannot be read and are left out", style="yellow")
        if count := result.get("calibration_images"):
            note(f"the calibration was fitted on {count} of these images, so NLL and ECE are too low", style="yellow")
    if hf is not None:
        note_written(hf)


for name, command in (
    ("train", train_command),
    ("evaluate", evaluate_command),
    ("compress", compress_command),
    ("pack", pack_command),
    ("report", report_command),
):
    app.command(name, cls=PlainCommand)(with_flags(command))


@losing_standard_error()
def main(arguments: list[str]) -> int:
    """Run a command and return the exit code. Typer itself ends usage errors with 2."""
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
        # Raised by torch at any point of the trainer, or by a pipe while a batch was transferred.
        if isinstance(exc, RuntimeError) and "DataLoader worker" not in str(exc):
            raise
        cause = "a process that decodes images was killed, most often for lack of memory"
        note(f"error: {cause}; continue with --resume and fewer --workers", style="red")
        return 1
    return 0


def exit_with(code: int) -> None:
    """Exit; as one of several processes, immediately when its work is done."""
    if code in (0, Interrupted.exit_code) and leave_group():
        # On a CPU, gloo's threads sometimes abort at interpreter exit, after all work is done and written.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
