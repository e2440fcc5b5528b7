"""Two engines on the same pixels."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.cli.commands import show_comparison
from alexnet_deploy.cli.engines import exit_where_left_out, needs, running
from alexnet_deploy.cli.options import STORE, Json, Labels, Mean, Std, Store, Threads, import_options_of
from alexnet_deploy.cli.terminal import out, progress_bars, steps_into
from alexnet_deploy.errors import UsageError
from alexnet_deploy.onnx_graph.import_options import NO_IMPORT_OPTIONS

LAYER_BATCH = 8
"""Images whose every tensor is in memory at once, twice."""


def compare(
    a: Annotated[str, typer.Argument(help="Bundle (name or path) or ONNX file: the reference.")],
    b: Annotated[
        str, typer.Argument(help="Bundle or ONNX file to hold against it; may be the same on another runtime.")
    ],
    data: Annotated[Path, typer.Option(help="Folder of images, labelled or not.")],
    images: Annotated[
        int | None, typer.Option(help="How many of them, evenly from its folders [default: all].")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show where along the graph the two part, too.")] = False,
    max_error: Annotated[float | None, typer.Option(help="Exit 1 if a logit differs by more.")] = None,
    min_agreement: Annotated[
        float | None, typer.Option(help="Exit 1 if fewer than this percentage of first answers agree.")
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="auto, tensorrt, onnxruntime-cuda, openvino or onnxruntime; given twice: of A and of B."),
    ] = None,
    threads: Threads = None,
    mean: Mean = None,
    std: Std = None,
    labels: Labels = None,
    engines: Store = STORE,
    json_: Json = False,
) -> None:
    """Run the same pixels through two engines: how far apart are their logits, on which images do answers differ?

    Exit code 3: finished, but some images cannot be read.
    """
    with needs("measure"):
        from alexnet_deploy.evaluation.compare import check_bounds, gate, same_graph
        from alexnet_deploy.evaluation.compare import compare as compared
    if layers:
        with needs("cpu"):
            from alexnet_deploy.evaluation.compare_layers import compare_layers
    from alexnet_deploy.images.choose import choose_images
    from alexnet_deploy.images.find import find_images
    from alexnet_deploy.inference.predict import read_batches

    check_bounds(max_error, min_agreement)
    runtimes = runtime or ["auto"]
    if len(runtimes) > 2:
        raise UsageError(f"--runtime is given {len(runtimes)} times for two engines; give it once or twice")
    if a == b and len(set(runtimes)) == 1:
        raise UsageError(f"{a} on {runtimes[0]} is compared with itself; name another engine, or a second --runtime")
    foreign = import_options_of(mean, std, labels)
    # What the flags describe is an ONNX of another tool; where neither is an ONNX, opening the first says so.
    is_onnx = [name.endswith(".onnx") for name in (a, b)]
    of_a, of_b = (foreign if this or not any(is_onnx) else NO_IMPORT_OPTIONS for this in is_onnx)
    if images is None:
        files = tuple(find_images([data]))
    else:
        files = choose_images(data, count=images, flags=("--data", "--images")).files
    with (
        running(a, engines, runtimes[0], threads, of_a) as (engine_a, runner_a),
        running(b, engines, runtimes[-1], threads, of_b) as (engine_b, runner_b),
        progress_bars() as progress,
    ):
        same = same_graph(engine_a.onnx_path, engine_b.onnx_path)
        if layers and same:
            raise UsageError(
                f"--layers runs both graphs in ONNX Runtime, and {a} and {b} have the same one: no layer could differ; "
                "leave it out, or name another engine"
            )
        report = steps_into(progress)
        found = compared(
            runner_a,
            runner_b,
            files,
            root=data,
            names=(a, b),
            on_progress=lambda done, total: report("images", done, total),
        )
        parted = None
        if layers:
            with closing(read_batches(files, engine_a.contract.preprocessing, batch=LAYER_BATCH)) as batches:
                pixels = (read.pixels_NHWC for read in batches if len(read.pixels_NHWC))
                parted = compare_layers(engine_a.onnx_path, engine_b.onnx_path, pixels)
        sides = tuple(
            (name, f"{engine.precision}, {runner.description}")
            for name, engine, runner in ((a, engine_a, runner_a), (b, engine_b, runner_b))
        )
    show_comparison.comparison(out, sides, found, parted, as_json=json_)
    gate(found, max_error=max_error, min_agreement=min_agreement, same_graph=same)
    exit_where_left_out(found.unreadable, found.images)
