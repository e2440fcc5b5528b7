"""``python -m training compress``: a trained checkpoint with its hidden dense layers at a lower rank."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.table import Table
from typer import Argument, Option

from alexnet_deploy.cli.engines import needs
from alexnet_deploy.cli.options import Duration, Json
from alexnet_deploy.cli.output.tables import add_row, print_json, print_line, table
from alexnet_deploy.cli.output.terminal import note, note_written, out, reporting
from alexnet_deploy.cli.quantities import Numbers, Seconds
from alexnet_deploy.errors import UsageError
from training.cli.options import (
    MAX_SEED,
    Batch,
    ConvRate,
    LearningRate,
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

if TYPE_CHECKING:
    from training.compress.rank_table import RankRow

_DURATION_S = Seconds(3)


def compress_command(
    checkpoint: Annotated[Path, Argument(metavar="CHECKPOINT", help="A trained checkpoint of full rank.")],
    data: Annotated[Path, Argument(metavar="DATA", help="Its training data: train/ and val/, or class folders.")],
    rank: Annotated[int | None, Option(help="Rank of the two hidden dense layers.")] = None,
    energy: Annotated[
        float | None, Option(help="Instead of --rank: share of each layer's energy to keep, such as 0.9.")
    ] = None,
    ranks: Annotated[
        Numbers | None,
        Option("--table", parser=Numbers.parse, metavar="N,N,...", help="Instead of both: ranks to measure."),
    ] = None,
    output: Annotated[Path | None, Option(help="The .safetensors to write.")] = None,
    images: Annotated[
        int, Option(min=0, help="Training images to fit the outputs on; 0: fit the weights, a plain SVD.")
    ] = 512,
    epochs: Annotated[int, Option(min=0, help="Epochs of fine-tuning; 0: no fine-tuning.")] = 0,
    batch: Batch = None,
    lr: LearningRate = None,
    teacher: Teacher = None,
    teacher_view: View = None,
    distill_temperature: Temperature = None,
    distill_weight: Weight = None,
    test_scale_epochs: ScaleEpochs = 0,
    test_scale_lr: ScaleRate = None,
    test_scale_conv_lr: ConvRate = None,
    val: Val = None,
    val_labels: ValLabels = None,
    *,
    workers: Workers,
    seed: Annotated[int, Option(min=0, max=MAX_SEED, help="Seed of the choice of images, their order and crops.")] = 0,
    duration_s: Duration = _DURATION_S,
    resume: Annotated[bool, Option("--resume", help="Continue the fine-tuning of --output.")] = False,
    as_json: Json = False,
) -> None:
    """Factorise the two hidden dense layers, which hold nine tenths of all weights, and fine-tune the result."""
    if sum(choice is not None for choice in (rank, energy, ranks)) != 1:
        raise UsageError("give one of --rank, --energy and --table; --table shows the cost of ranks")
    if ranks is None and duration_s != _DURATION_S:
        raise UsageError("--duration: is how long --table times each rank; leave it out")
    if ranks is not None and (output is not None or epochs or test_scale_epochs):
        raise UsageError("--table: only measures; leave --output, --epochs and --test-scale-epochs out")
    with needs("train"):
        from training.cli.show import show_epoch
        from training.compress.compress import CompressSettings, compress, measure_ranks, run_folder
        from training.compress.low_rank import count_weights

    settings = settings_from(CompressSettings, locals())
    if ranks is not None:
        with reporting() as on_progress:
            rows = measure_ranks(checkpoint, data, ranks, settings, duration_s=duration_s, on_progress=on_progress)
        if as_json:
            print_json([dataclasses.asdict(row) for row in rows])
        else:
            print_line(f"Without fine-tuning; latency in {rows[0].runtime}:")
            out.print(rank_table(rows))
        return
    if output is None:
        raise UsageError("--output: is missing; name the .safetensors file to write, such as small.safetensors")
    with reporting() as on_progress, stop_signals(run_folder(output)):
        compressed = compress(checkpoint, data, output, settings, on_epoch=show_epoch, on_progress=on_progress)
    arch, summary = compressed.arch, compressed.recipe["compressed"]
    kept = ", ".join(f"{100 * share:.2f} % in {name}" for name, share in summary["energy_kept"].items())
    full = count_weights(dataclasses.replace(arch, dense_rank=None))
    note(f"rank {arch.dense_rank}, {count_weights(arch):,} of {full:,} weights; energy kept: {kept}")
    note_written(output)
    if as_json:
        print_json(summary)


def rank_table(rows: Sequence[RankRow]) -> Table:
    """The rows for people; the first one is the full model, whose size is 100 %."""
    full = rows[0]
    grid = table(">rank", ">parameters", ">of full", ">MiB float16", ">energy kept", ">top-1", ">batch 1")
    for row in rows:
        cells = (
            "full" if row.rank is None else row.rank,
            f"{row.parameters:,}",
            f"{100 * row.parameters / full.parameters:.1f} %",
            f"{row.float16_mib:.2f}",
            "" if row.energy_kept is None else f"{100 * row.energy_kept:.2f} %",
            f"{row.top1_percent:.2f} %",
            f"{row.batch1_ms:.2f} ms",
        )
        add_row(grid, cells)
    return grid
