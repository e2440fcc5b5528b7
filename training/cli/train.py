"""``python -m training train``: from a folder of labelled images to a checkpoint."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from typer import Argument, BadParameter, Option

from alexnet_deploy.cli.engines import needs
from alexnet_deploy.cli.flags import flag_of, in_flags
from alexnet_deploy.cli.output.terminal import note, note_written, reporting
from alexnet_deploy.cli.quantities import Seconds
from alexnet_deploy.contract import ArchitectureName
from alexnet_deploy.progress import no_progress
from training.choices import Activation, Freeze, Lrn, Pool, Resize
from training.cli.options import (
    MAX_SEED,
    AllowUnreadable,
    BalanceClasses,
    Batch,
    ConvRate,
    EarlyStop,
    Exclude,
    Folds,
    LearningRate,
    MatrixPrecision,
    ScaleEpochs,
    ScaleRate,
    Teacher,
    Temperature,
    Val,
    ValLabels,
    View,
    Weight,
    Workers,
    settings_from,
)
from training.loop.stop import stop_signals
from training.processes import is_distributed, leads
from training.recipes.recipe import RecipeName

if TYPE_CHECKING:
    from training.data.preflight import PreflightReport
    from training.results.outcome import Outcome

_SAVE_EVERY_S = Seconds(600)


class _Groups(tuple[int, ...]):
    """Typed ``1,2,1,2,2``. A class of its own: typer takes a plain tuple for an option with several values."""

    @classmethod
    def parse(cls, text: str) -> Self:
        try:
            return cls(map(int, text.split(",")))
        except ValueError as exc:
            raise BadParameter(f"{text!r} is not five whole numbers with commas, such as 1,2,1,2,2") from exc


def train_command(
    data: Annotated[
        Path,
        Argument(
            metavar="DATA", help="Class folders with images, train/ and val/ of those, or a .csv: file,label[,split]."
        ),
    ],
    output: Annotated[Path, Option(help="Run directory, for checkpoint, metrics and state.")],
    arch: Annotated[
        ArchitectureName | None, Option(help="Member of the AlexNet family.  [default: that of --start, or alexnet]")
    ] = None,
    dense_rank: Annotated[int | None, Option(help="Rank of the two hidden dense layers.  [default: full]")] = None,
    dropout: Annotated[
        float | None, Option(help="Dropout before the hidden dense layers.  [default: that of --start, or 0.5]")
    ] = None,
    activation: Annotated[Activation | None, Option(help="Activation, instead of the architecture's.")] = None,
    lrn: Annotated[Lrn | None, Option(help="Response normalisation, instead of the architecture's.")] = None,
    pool: Annotated[Pool | None, Option(help="Max-pooling, instead of the architecture's.")] = None,
    groups: Annotated[
        _Groups | None, Option(parser=_Groups.parse, metavar="N,N,N,N,N", help="Groups of each convolution.")
    ] = None,
    recipe: Annotated[RecipeName | None, Option(help="How to train.  [default: modern; with --start transfer]")] = None,
    epochs: Annotated[int | None, Option(help="Number of epochs, instead of the recipe's.")] = None,
    batch: Batch = None,
    lr: LearningRate = None,
    overrides: Annotated[
        list[str] | None,
        Option("--set", metavar="FIELD=VALUE", help="Any other field of the recipe, such as label_smoothing=0."),
    ] = None,
    balance: BalanceClasses = None,
    early_stop: EarlyStop = None,
    exclude: Exclude = None,
    folds: Folds = None,
    val: Val = None,
    val_labels: ValLabels = None,
    val_share: Annotated[
        float | None,
        Option(help="Share of each class to hold out, without a validation folder.  [default: 0.1; of few images 0.2]"),
    ] = None,
    class_names: Annotated[Path | None, Option(help='JSON {"folder name": "name for people"}.')] = None,
    resize: Annotated[
        Resize | None, Option(help="How inference resizes a photo.  [default: that of --start, or shorter-side]")
    ] = None,
    allow_unreadable: AllowUnreadable = False,
    allow_leak: Annotated[bool, Option("--allow-leak", help="Validate on training images.")] = False,
    allow_two_classes: Annotated[
        bool, Option("--allow-two-classes", help="Train on images that are in two classes.")
    ] = False,
    skip_preflight: Annotated[bool, Option("--skip-preflight", help="Do not read all files first.")] = False,
    skip_report: Annotated[bool, Option("--skip-report", help="Write no report.html and card.md at the end.")] = False,
    *,
    workers: Workers,
    cache: Annotated[bool, Option("--cache", help="Decode every picture once: 147 KiB for 224 x 224.")] = False,
    full_decode: Annotated[
        bool, Option("--full-decode", help="Decode large JPEGs in full for a crop that needs less.")
    ] = False,
    seed: Annotated[int, Option(min=0, max=MAX_SEED, help="Seed of weights, order, crops and dropout.")] = 0,
    precision: MatrixPrecision,
    compile: Annotated[bool, Option("--compile", help="Compile the network with torch.compile.")] = False,
    val_every: Annotated[int, Option(min=1, help="Epochs from one validation to the next.")] = 1,
    save_every_s: Annotated[
        float, Option("--save-every", parser=Seconds.parse, metavar="TIME", help="Time between saves in an epoch.")
    ] = _SAVE_EVERY_S,
    start: Annotated[
        str | None,
        Option(
            metavar="SOURCE",
            help="Trained weights to start from: shipped, imagenet1k, a file, an https address, a run's folder.",
        ),
    ] = None,
    freeze: Annotated[Freeze, Option(help="Layers of --start that stay as they are.")] = "none",
    head_lr: Annotated[float | None, Option(help="Peak learning rate of the last layer.")] = None,
    unfreeze_every: Annotated[
        int | None, Option(help="Epochs after which one more of the frozen layers learns, the last first.")
    ] = None,
    teacher: Teacher = None,
    teacher_view: View = None,
    distill_temperature: Temperature = None,
    distill_weight: Weight = None,
    test_scale_epochs: ScaleEpochs = 0,
    test_scale_lr: ScaleRate = None,
    test_scale_conv_lr: ConvRate = None,
    resume: Annotated[bool, Option("--resume", help="Continue the run in --output.")] = False,
) -> None:
    """Train a member of the AlexNet family on a folder of labelled images."""
    with needs("train"):
        from training.cli.show import show_epoch, show_fold, show_folds, show_outcome, show_preflight, show_start
        from training.folds import FOLDS_FILE, cross_validate
        from training.plan import TrainSettings
        from training.train import PREFLIGHT_FILE, train

    settings = settings_from(TrainSettings, locals())

    def on_preflight(report: PreflightReport) -> None:
        show_preflight(report, settings.allowed(), partial(flag_of, train_command))
        if report.findings:
            note(f"every case: {output / PREFLIGHT_FILE}")

    def on_note(text: str) -> None:
        if leads():
            note(in_flags(text, train_command))

    outcomes: list[Outcome] = []
    # Of several processes, one that waits for the first could not handle a signal: there torchrun ends it.
    stop = nullcontext() if is_distributed() else stop_signals(output)
    with reporting() if leads() else nullcontext(no_progress) as on_progress, stop:
        if folds is not None:
            result = cross_validate(
                data, output, settings, folds, on_start=show_start, on_note=on_note, on_preflight=on_preflight,
                on_epoch=show_epoch, on_progress=on_progress,
                on_outcome=show_fold,
            )  # fmt: skip
            note_written(output / FOLDS_FILE)
            show_folds(result)
            return
        checkpoint = train(
            data, output, settings, on_start=show_start, on_note=on_note, on_preflight=on_preflight,
            on_epoch=show_epoch, on_progress=on_progress, on_outcome=outcomes.append,
        )  # fmt: skip
    if leads():
        note_written(checkpoint)
    for outcome in outcomes:  # the last lines
        show_outcome(outcome)
