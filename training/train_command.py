"""``python -m training DATA``: from a folder of labelled images to a checkpoint."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast, get_args

import numpy as np
import torch
import torch.distributed as dist
import typer

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError, UnavailableError, UsageError
from alexnet_deploy.model.architecture import FAMILY, Architecture, architecture
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint
from training.listing import Listing, list_folder, list_held, split, splits_below
from training.loop import STOPPED, Stopped, train
from training.options import ValLabels, Workers
from training.preflight import ALLOW_LEAK, ALLOW_TWO_CLASSES, ALLOW_UNREADABLE, inspect_data
from training.recipes import RECIPES, recipe, with_settings
from training.run import EpochRow, Precision, Run
from training.state import check_folder
from training.switches import choice, switched
from training.terminal import console, progress_bars

MAX_SEED = 2**63 - 1
"""What torch.manual_seed takes."""
PATIENCE = timedelta(days=1)
"""How long processes wait for each other: while the first one reads every file, where torch's own 30 minutes are too
short for ImageNet's 1.28 million. Where one dies torchrun ends the others, so none waits in vain."""
PREFLIGHT = "preflight.txt"


def train_command(
    data: Annotated[
        Path, typer.Argument(help="Folder with one folder of images a class, or train/ and val/ of those.")
    ],
    output: Annotated[Path, typer.Option(help="Run directory: checkpoint, metrics and state land there.")],
    arch: Annotated[str, typer.Option(help=f"One of {', '.join(FAMILY)}.")] = "alexnet",
    recipe_name: Annotated[str, typer.Option("--recipe", help=f"One of {', '.join(RECIPES)}.")] = "modern",
    val: Annotated[Path | None, typer.Option(help="Validation folder; else DATA/val, else a seeded split.")] = None,
    val_labels: ValLabels = None,
    val_share: Annotated[
        float | None, typer.Option(help="Share of each class to hold out where no folder is [default: 0.1].")
    ] = None,
    class_names: Annotated[Path | None, typer.Option(help='JSON {"folder name": "name for people"}.')] = None,
    resize: Annotated[str, typer.Option(help="Preprocessing at inference: shorter-side or stretch.")] = "shorter-side",
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    batch: Annotated[int | None, typer.Option(help="Global batch instead of the recipe's.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate instead of the recipe's.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE of the recipe, such as label_smoothing=0; may be repeated."),
    ] = None,
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
    workers: Workers = 2,
    cache: Annotated[
        bool, typer.Option("--cache", help="Decode every picture once: 147 KiB of memory or disk for 224 x 224.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Decides weights, order, crops and dropout.")] = 0,
    precision: Annotated[str, typer.Option(help="Of the matrix products: bf16, fp16 (CUDA) or fp32.")] = "bf16",
    compile_: Annotated[bool, typer.Option("--compile", help="Run the network through torch.compile.")] = False,
    val_every: Annotated[int, typer.Option(min=1, help="Epochs from one validation to the next.")] = 1,
    save_minutes: Annotated[float, typer.Option(min=0, help="Save within an epoch, too, after so long.")] = 10.0,
    start: Annotated[Path | None, typer.Option(help="Checkpoint to begin with; not with modern.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output.")] = False,
) -> None:
    """Train a member of the AlexNet family on a folder of labelled images."""
    train_folder, val_folder = splits_below(data)
    val_folder = val or val_folder
    if val_folder is not None and val_share is not None:
        raise UsageError(f"--val-share {val_share}: {val_folder} is there to validate on; leave --val-share out")
    if val_folder is None and val_labels is not None:
        raise UsageError(f"--val-labels {val_labels}: there is no folder of validation images; add --val")
    listing = list_folder(train_folder)
    if val_folder is not None:
        held = list_held(val_folder, listing.class_ids, val_labels)
    else:
        listing, held = split(listing, 0.1 if val_share is None else val_share, seed)
    network = switched(
        architecture(arch, num_classes=len(listing.class_ids), dense_rank=dense_rank, dropout=dropout),
        activation=activation,
        lrn=lrn,
        pool=pool,
        groups=groups,
    )
    chosen = with_settings(recipe(recipe_name, epochs=epochs, batch=batch, lr=lr), set_ or ())
    labels = _labels(class_names, listing.class_ids)
    stretch = choice("--resize", resize, "stretch", "shorter-side") == "stretch"
    given = {ALLOW_UNREADABLE: allow_unreadable, ALLOW_LEAK: allow_leak, ALLOW_TWO_CLASSES: allow_two_classes}
    allowed = [flag for flag, is_given in given.items() if is_given]
    if skip_preflight and allowed:
        raise UsageError(f"{allowed[0]}: has no meaning with --skip-preflight; leave one of the two out")
    roots = train_folder, val_folder or train_folder
    run = Run(
        arch=network,
        recipe=chosen,
        train=listing,
        val=held,
        data_digest=_digest(listing, held, roots),
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
        start=_start(start, network, listing.class_ids) if start else None,
        precision=_precision(precision),
        cache=cache,
        compile=compile_,
        val_every=val_every,
        save_minutes=save_minutes,
    )
    _make_writable(output)
    distributed = "RANK" in os.environ  # set by torchrun
    lead = os.environ.get("RANK", "0") == "0"
    readable = torch.ones(len(listing.files) + len(held.files), dtype=torch.uint8)
    if lead:
        # Before the processes meet: torchrun then ends the others, and none waits for an answer that cannot come.
        check_folder(run, unknown=("data",) if allow_unreadable else ())
        if not skip_preflight:
            readable = _preflight(listing, held, allowed, max(1, workers), output / PREFLIGHT)
    if distributed:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
        dist.broadcast(readable, 0)
    usable = readable.bool().numpy()
    listing, held = listing.where(usable[: len(listing.files)]), held.where(usable[len(listing.files) :])
    run = dataclasses.replace(run, train=listing, val=held, data_digest=_digest(listing, held, roots))
    try:
        checkpoint = _told(run, lead)
    except Stopped as exc:
        if not distributed:
            raise
        if lead:
            console.print(str(exc))
        _leave(STOPPED)
    if lead:
        console.print(f"wrote {checkpoint}")
    if distributed:
        _leave(0)


def _told(run: Run, lead: bool) -> Path:
    """Train, with a progress bar and a line an epoch."""
    with progress_bars(lead) as progress:
        task = progress.add_task("training")

        def on_step(step: int, total: int) -> None:
            progress.update(task, completed=step, total=total)

        def on_epoch(row: EpochRow) -> None:
            held = "" if row.val_loss is None else f"val loss {row.val_loss:.3f}  top-1 {row.val_top1_percent:.2f} %  "
            console.print(
                f"epoch {row.epoch:3d}/{run.recipe.epochs}  train loss {row.train_loss:.3f}  {held}"
                f"{row.images_per_s:.0f} images/s ({row.data_wait_percent:.1f} % waiting for data)"
            )

        return train(run, on_epoch=on_epoch, on_step=on_step)


def _leave(code: int) -> NoReturn:
    """End one of several processes."""
    dist.destroy_process_group()
    # gloo's threads abort now and then at interpreter exit on a CPU, after all work is done and written.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _digest(train: Listing, val: Listing, roots: tuple[Path, Path]) -> str:
    return train.digest(roots[0]) + val.digest(roots[1])


def _preflight(train: Listing, val: Listing, allowed: Collection[str], threads: int, cases: Path) -> torch.Tensor:
    """Tell what is wrong with the data, in the file ``cases`` in full; 1 for each file that can be read, else 0."""
    with progress_bars(lead=True) as progress:
        task = progress.add_task("preflight", total=len(train.files) + len(val.files))
        report = inspect_data(train, val, threads=threads, on_files=lambda count: progress.advance(task, count))
    report.write(cases)
    if report.findings:
        console.print(report.table(allowed), soft_wrap=False)
        console.print(f"every case: {cases}")
    report.check(allowed)
    return torch.from_numpy(report.readable.astype(np.uint8))


def _precision(name: str) -> Precision:
    for known in get_args(Precision):
        if name == known:
            return cast(Precision, known)
    raise UsageError(f"--precision {name}: takes bf16, fp16 or fp32")


def _start(path: Path, arch: Architecture, class_ids: tuple[str, ...]) -> Checkpoint:
    """The checkpoint to begin with; its weights must fit and its outputs mean the same classes."""
    start = load_checkpoint(path)
    if start.contract.class_ids != class_ids:
        raise InputError(
            f"--start {path}: knows {len(start.contract.class_ids)} classes ({start.contract.class_ids[0]}, ...), the "
            f"data has {len(class_ids)} ({class_ids[0]}, ...); train on the same classes, or without --start"
        )
    shaped = dataclasses.replace(arch, dropout=start.arch.dropout)
    if start.arch != shaped:
        raise InputError(
            f"--start {path}: is of another architecture ({start.arch.name}, dense rank {start.arch.dense_rank}); "
            "give the --arch, --dense-rank and switches that it was trained with"
        )
    return start


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
