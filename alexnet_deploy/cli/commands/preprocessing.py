"""``preprocessing-parity``: what other decoders and resizers would do to the answers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import exit_where_left_out, needs, running
from alexnet_deploy.cli.tables import add_row, print_json, print_left_out, print_line, table
from alexnet_deploy.cli.terminal import out, reporting
from alexnet_deploy.onnx_graph.import_options import ImportOptions

if TYPE_CHECKING:  # it loads SciPy; here it is only a shape to print
    from alexnet_deploy.evaluation.preprocessing import PreprocessingParity


def preprocessing_parity(
    engine: opt.OneEngine,
    *,
    data: opt.ImagesData,
    images: opt.ImageCount = None,
    runtime: opt.Runtime = "auto",
    threads: opt.Threads = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
    labels: opt.Labels = None,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Show what another image decoder or resizer changes.

    Exit code 3: finished, but some images cannot be read.
    """
    with needs("measure"):
        from alexnet_deploy.evaluation.preprocessing import preprocessing_parity as measured

    with (
        running(engine, store, runtime, threads, ImportOptions(mean, std, labels)) as opened,
        reporting() as report,
    ):
        found = measured(opened, data, images=images, on_progress=report)
    if json_:
        print_json(dataclasses.asdict(found))
    else:
        _print_table(found)
    exit_where_left_out(found.unreadable, found.images)


def _print_table(found: PreprocessingParity) -> None:
    """Every variant beside our own pixels."""
    pre = found.preprocessing
    rule = pre.resize if pre.resize_to is None else f"{pre.resize} {pre.resize_to}"
    labelled = found.top1_percent is not None
    accuracy = f", top-1 {found.top1_percent:.2f} %" if labelled else ""
    print_line(
        f"reference: {rule} to {pre.width} x {pre.height}, {pre.interpolation}, antialiased: {found.images} images"
        f"{accuracy}, largest logit {found.largest_logit:.1f}"
    )
    grid = table(
        *("variant", ">answers changed", ">%", *([">top-1 points (95 %)"] if labelled else [])),
        *(">max logit change", ">mean pixel change", ">images touched", "differs in"),
    )
    for row in found.variants:
        cells = [row.name, str(row.changed), f"{100 * row.changed / found.images:.2f}"]
        if row.top1_points is not None and row.points_interval is not None:
            low, high = row.points_interval.low, row.points_interval.high
            cells.append(f"{row.top1_points:+.2f} ({low:+.2f}..{high:+.2f})")
        cells += [f"{row.max_logit_change:.2f}", f"{row.mean_abs_pixel:.2f}", str(row.touched), row.differs]
        add_row(grid, cells)
    out.print(grid)
    if found.unlabelled is not None:
        print_line(f"no accuracy: {found.unlabelled}")
    print_left_out(found.unreadable)
