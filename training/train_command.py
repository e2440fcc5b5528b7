"""``python -m training train``: from a folder of labelled images to a checkpoint."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Self

import typer

from alexnet_deploy.cli.flags import flag_of
from alexnet_deploy.cli.quantities import Seconds
from alexnet_deploy.cli.terminal import note, note_written
from training.data.preflight import PreflightReport
from training.loop.run import TrainingPrecision
from training.options import MAX_SEED, Batch, LearningRate, Val, ValLabels, Workers
from training.recipe import RecipeName
from training.show import show_epoch, show_preflight, shown_progress
from training.train import PREFLIGHT_FILE, TrainSettings, leads, train

ArchitectureName = Literal["alexnet", "alexnet-2012", "alexnet-review", "alexnet-review-code"]


_SAVE_EVERY_S = Seconds(600)


class _Groups(tuple[int, ...]):
    """Typed ``1,2,1,2,2``. A class of its own: typer takes a plain tuple for an option with several values."""

    @classmethod
    def parse(cls, text: str) -> Self:
        try:
            return cls(map(int, text.split(",")))
        except ValueError as exc:
            raise typer.BadParameter(f"{text!r} is not five whole numbers with commas, such as 1,2,1,2,2") from exc


def train_command(
    data: Annotated[
        Path, typer.Argument(help="Folder with one folder of images per class, or with train/ and val/ of those.")
    ],
    output: Annotated[Path, typer.Option(help="Run directory, for checkpoint, metrics and state.")],
    arch: Annotated[ArchitectureName, typer.Option(help="Member of the AlexNet family.")] = "alexnet",
    dense_rank: Annotated[
        int | None, typer.Option(help="Rank of the two hidden dense layers.  [default: full]")
    ] = None,
    dropout: Annotated[float, typer.Option(help="Dropout before the hidden dense layers.")] = 0.5,
    activation: Annotated[
        Literal["relu", "tanh"] | None, typer.Option(help="Activation, instead of the architecture's.")
    ] = None,
    lrn: Annotated[
        Literal["none", "before-pool", "after-pool"] | None,
        typer.Option(help="Local response normalisation, instead of the architecture's."),
    ] = None,
    pool: Annotated[
        Literal["overlapping", "plain"] | None, typer.Option(help="Max-pooling, instead of the architecture's.")
    ] = None,
    groups: Annotated[
        _Groups | None,
        typer.Option(parser=_Groups.parse, metavar="N,N,N,N,N", help="Groups per convolution, instead of its own."),
    ] = None,
    recipe: Annotated[RecipeName, typer.Option(help="How to train.")] = "modern",
    epochs: Annotated[int | None, typer.Option(help="Number of epochs, instead of the recipe's.")] = None,
    batch: Batch = None,
    lr: LearningRate = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Any other field of the recipe, such as label_smoothing=0."),
    ] = None,
    val: Val = None,
    val_labels: ValLabels = None,
    val_share: Annotated[
        float | None, typer.Option(help="Share of each class to hold out if there is no validation folder.")
    ] = None,
    class_names: Annotated[Path | None, typer.Option(help='JSON {"folder name": "name for people"}.')] = None,
    resize: Annotated[
        Literal["shorter-side", "stretch"], typer.Option(help="How inference resizes a photo.")
    ] = "shorter-side",
    allow_unreadable: Annotated[
        bool, typer.Option("--allow-unreadable", help="Leave out files that cannot be read.")
    ] = False,
    allow_leak: Annotated[bool, typer.Option("--allow-leak", help="Validate on training images.")] = False,
    allow_two_classes: Annotated[
        bool, typer.Option("--allow-two-classes", help="Train on an image that lies in two classes.")
    ] = False,
    skip_preflight: Annotated[
        bool, typer.Option("--skip-preflight", help="Do not read all files before the first step.")
    ] = False,
    workers: Workers = 2,
    cache: Annotated[
        bool, typer.Option("--cache", help="Decode every picture once: 147 KiB of memory or disk for 224 x 224.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Decides weights, order, crops and dropout.")] = 0,
    precision: Annotated[TrainingPrecision, typer.Option(help="Of the matrix products; fp16 needs CUDA.")] = "bf16",
    compile_: Annotated[bool, typer.Option("--compile", help="Run the network through torch.compile.")] = False,
    val_every: Annotated[int, typer.Option(min=1, help="Epochs from one validation to the next.")] = 1,
    save_every_s: Annotated[
        float,
        typer.Option(
            "--save-every", parser=Seconds.parse, metavar="TIME", help="Save the state after this time in an epoch."
        ),
    ] = _SAVE_EVERY_S,
    start: Annotated[Path | None, typer.Option(help="Checkpoint to begin with; not with modern.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --output.")] = False,
) -> None:
    """Train a member of the AlexNet family on a folder of labelled images."""
    settings = TrainSettings(
        arch=arch,
        dense_rank=dense_rank,
        dropout=dropout,
        activation=activation,
        lrn=lrn,
        pool=pool,
        groups=groups,
        recipe=recipe,
        epochs=epochs,
        batch=batch,
        lr=lr,
        overrides=overrides or (),
        val=val,
        val_labels=val_labels,
        val_share=val_share,
        class_names=class_names,
        resize=resize,
        allow_unreadable=allow_unreadable,
        allow_leak=allow_leak,
        allow_two_classes=allow_two_classes,
        skip_preflight=skip_preflight,
        workers=workers,
        cache=cache,
        seed=seed,
        precision=precision,
        compile=compile_,
        val_every=val_every,
        save_every_s=save_every_s,
        start=start,
        resume=resume,
    )

    def on_preflight(report: PreflightReport) -> None:
        show_preflight(report, settings.allowed(), partial(flag_of, train_command))
        if report.findings:
            note(f"every case: {output / PREFLIGHT_FILE}")

    with shown_progress(leads=leads()) as on_progress:
        checkpoint = train(
            data, output, settings, on_preflight=on_preflight, on_epoch=show_epoch, on_progress=on_progress
        )
    if leads():
        note_written(checkpoint)
