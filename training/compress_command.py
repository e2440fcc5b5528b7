"""``python -m training compress``: a trained checkpoint with its hidden dense layers at a lower rank."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.compress import (
    Spectrum,
    check_energy,
    check_full,
    check_rank,
    compressed,
    rank_for,
    take_apart,
    weight_count,
)
from training.data import check_batch, plain_batches
from training.finetune import fine_tune
from training.listing import Listing, list_folder, list_held, splits_below
from training.options import ValLabels, Workers
from training.rank_table import measure_row, table_of
from training.recipes import recipe
from training.run import EpochRow, Run
from training.target import check_target
from training.terminal import console


def compress_command(
    checkpoint: Annotated[Path, typer.Argument(help="A trained checkpoint.safetensors of full rank.")],
    data: Annotated[Path, typer.Argument(help="The data it was trained on: train/ and val/, or training images.")],
    rank: Annotated[int | None, typer.Option(help="Rank of the two hidden dense layers.")] = None,
    energy: Annotated[
        float | None, typer.Option(help="Instead of --rank: the share of each layer's energy to keep, such as 0.9.")
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="Instead of both: ranks to measure without fine-tuning, such as 64,128,256.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The .safetensors to write.")] = None,
    images: Annotated[
        int, typer.Option(min=0, help="Training images whose outputs are kept best; 0: the weights, a plain SVD.")
    ] = 512,
    epochs: Annotated[int, typer.Option(min=0, help="Of fine-tuning; 0: none.")] = 0,
    batch: Annotated[int | None, typer.Option(help="Global batch instead of the recipe's.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate instead of the recipe's.")] = None,
    val: Annotated[Path | None, typer.Option(help="Validation folder; else DATA/val.")] = None,
    val_labels: ValLabels = None,
    workers: Workers = 2,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Decides which images, their order and crops.")] = 0,
    duration: Annotated[float, typer.Option(help="Seconds to measure each latency of --table for.")] = 3.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the fine-tuning of --output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")] = False,
) -> None:
    """Factorise the two hidden dense layers, which hold nine tenths of all weights, and fine-tune the result."""
    if sum(choice is not None for choice in (rank, energy, table)) != 1:
        raise UsageError("compress: takes one of --rank, --energy and --table; --table shows what a rank costs")
    if images == 1:
        raise UsageError("--images 1: one image has no variance; take some hundred, or 0 for the weights alone")
    parent = load_checkpoint(checkpoint)
    check_full(parent, checkpoint)
    ranks = _ranks(table) if table is not None else [rank] if rank is not None else []
    for one in ranks:
        check_rank(f"--table {table}" if table is not None else f"--rank {one}", one, parent.arch)
    if energy is not None:
        check_energy(energy)
    train_folder, _ = splits_below(data)
    listing = _same_classes(train_folder, parent, checkpoint)
    chosen = _sample(listing, images, seed)
    if table is not None:
        if output is not None or epochs:
            raise UsageError("--table: measures and writes nothing; leave --output and --epochs out")
        held = list_held(_val_folder(data, val), listing.class_ids, val_labels)
        _print_table(parent, ranks, chosen, held, workers, duration, as_json)
        return

    output = check_target("--output", output, checkpoint)
    if resume and not epochs:
        raise UsageError("--resume: goes on with a fine-tuning; give the --epochs that it had, too")
    record = {
        "asked": {"rank": rank} if rank is not None else {"energy": energy},
        "images": len(chosen.files),
        "seed": seed,
        "parent_sha256": sha256_of(checkpoint),
    }

    def begin() -> Checkpoint:
        spectra = _take_apart(parent, chosen, workers)
        found = rank if rank is not None else rank_for(spectra, energy or 0.0)
        check_rank(f"--energy {energy}" if rank is None else f"--rank {rank}", found, parent.arch)
        return compressed(parent, spectra, found, **record)

    if epochs:
        held_folder = _val_folder(data, val)
        held = list_held(held_folder, listing.class_ids, val_labels)
        pre = parent.contract.preprocessing
        run = Run(
            arch=parent.arch,
            recipe=recipe("finetune", epochs=epochs, batch=batch, lr=lr, pixel_std=pre.std),
            train=listing,
            val=held,
            data_digest=listing.digest(train_folder) + held.digest(held_folder),
            labels=parent.contract.labels,
            preprocessing=pre,
            output=output.with_suffix(".run"),
            seed=seed,
            workers=workers,
            resume=resume,
        )
        if not resume:
            check_batch(run.recipe.batch, len(listing.files))  # the loop does, too, but after the decomposition
        made = fine_tune(run, begin, record, on_epoch=lambda row: _print_epoch(row, epochs))
    else:
        made = begin()
    save_checkpoint(made, output)
    told = made.recipe["compressed"]
    kept = ", ".join(f"{100 * share:.2f} % in {name}" for name, share in told["energy_kept"].items())
    console.print(
        f"rank {told['rank']}, {weight_count(made):,} of {weight_count(parent):,} weights; energy kept: {kept}"
    )
    console.print(f"wrote {output}")


def _ranks(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--table {text}: takes ranks, such as 64,128,256")
    return [int(part) for part in parts]


def _same_classes(folder: Path, parent: Checkpoint, source: Path) -> Listing:
    """The images of ``folder``, which must hold the classes of the checkpoint: all of them, and no other."""
    listing = list_folder(folder)
    known = parent.contract.class_ids
    if listing.class_ids != known:
        odd = sorted(set(listing.class_ids) ^ set(known))
        raise InputError(
            f"{folder}: its {len(listing.class_ids)} classes are not the {len(known)} of {source} "
            f"({odd[0] if odd else 'another order'!r}); give the data that it was trained on"
        )
    return listing


def _val_folder(data: Path, val: Path | None) -> Path:
    found = val or splits_below(data)[1]
    if found is None:
        raise InputError(f"{data}: has no val/; pass --val with images that the checkpoint was not trained on")
    return found


def _sample(listing: Listing, count: int, seed: int) -> Listing:
    chosen = np.zeros(len(listing.files), bool)
    chosen[np.random.default_rng(seed).permutation(len(chosen))[:count]] = True
    return listing.where(chosen)


def _take_apart(parent: Checkpoint, images: Listing, workers: int) -> dict[str, Spectrum]:
    console.print("taking the hidden dense layers apart: a minute or two at full width")
    pre = parent.contract.preprocessing
    return take_apart(parent, plain_batches(images, pre, batch=64, workers=workers) if images.files else None)


def _print_table(
    parent: Checkpoint, ranks: list[int], images: Listing, held: Listing, workers: int, duration_s: float, as_json: bool
) -> None:
    spectra = _take_apart(parent, images, workers)
    rows = []
    for checkpoint in (parent, *(compressed(parent, spectra, rank) for rank in ranks)):
        console.print(f"measuring {'the full model' if checkpoint is parent else checkpoint.arch.dense_rank}")
        rows.append(measure_row(checkpoint, held, workers=workers, duration_s=duration_s))
    if as_json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    else:
        Console().print(table_of(rows))


def _print_epoch(row: EpochRow, epochs: int) -> None:
    top1 = "" if row.val_top1_percent is None else f"  top-1 {row.val_top1_percent:.2f} %"
    console.print(f"epoch {row.epoch:3d}/{epochs}  train loss {row.train_loss:.3f}{top1}")
