"""``compare``: two engines on the same pixels."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import exit_where_left_out, needs
from alexnet_deploy.cli.tables import add_row, print_json, print_left_out, print_line, table
from alexnet_deploy.cli.terminal import out, reporting
from alexnet_deploy.onnx_graph.import_options import ImportOptions

if TYPE_CHECKING:  # it loads SciPy; here it is only a shape to print
    from alexnet_deploy.evaluation.compare import Comparison

_SIDE = "Bundle (name in the store, or path), ONNX file or checkpoint; NAME@RUNTIME chooses its runtime"


def compare(
    a: Annotated[str, typer.Argument(metavar="A", autocompletion=opt.complete_engine, help=f"The reference. {_SIDE}.")],
    b: Annotated[str, typer.Argument(metavar="B", autocompletion=opt.complete_engine, help="What to compare with it.")],
    *,
    data: opt.ImagesData,
    images: opt.ImageCount = None,
    layers: Annotated[bool, typer.Option("--layers", help="Compare the layers of the two graphs as well.")] = False,
    max_error: Annotated[float | None, typer.Option(help="Exit 1 if a logit differs by more.")] = None,
    min_agreement: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="Exit 1 if fewer of the first answers agree.")
    ] = None,
    runtime: opt.Runtime = "auto",
    threads: opt.Threads = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
    labels: opt.Labels = None,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Compare two engines on the same images.

    The same engine on two runtimes: compare alexnet-int8@openvino alexnet-int8@onnxruntime. Exit code 3: finished, but
    some images cannot be read.
    """
    with needs("measure"):
        from alexnet_deploy.evaluation.compare import check_bounds, gate
        from alexnet_deploy.evaluation.compare import compare as compared

    check_bounds(max_error, min_agreement)
    with reporting() as report:
        found = compared(
            a,
            b,
            data,
            store=store,
            runtime=runtime,
            threads=threads,
            import_options=ImportOptions(mean, std, labels),
            images=images,
            layers=layers,
            on_progress=report,
        )
    if json_:
        print_json(_raw(found))
    else:
        _print_tables(found)
    gate(found, max_error=max_error, min_agreement=min_agreement)
    exit_where_left_out(found.logits.unreadable, found.logits.images)


def _print_tables(comparison: Comparison) -> None:
    found, layers = comparison.logits, comparison.layers
    for letter, side in (("A", comparison.a), ("B", comparison.b)):
        print_line(f"{letter}  {side.name} ({side.precision}, {side.runner})")
    grid = table("", ">")
    grid.show_header = False
    for row in (
        ("images", found.images),
        ("first answers that agree, %", f"{found.agreement_percent:.2f}"),
        ("max |A - B| of a logit", f"{found.max_abs:.4g}"),
        ("  of the largest |A|, %", f"{100 * found.relative:.3g}"),
        ("mean |A - B|", f"{found.mean_abs:.4g}"),
        ("cosine, mean", f"{found.cosine_mean:.6f}"),
        ("cosine, least", f"{found.cosine_min:.6f}"),
        ("KL(A || B), nats per image", f"{found.kl_nats:.3g}"),
    ):
        add_row(grid, row)
    out.print(grid)
    if found.worst:
        grid = table("images with the largest difference", ">max |A - B|", ">KL", "answer of A", "answer of B")
        for image in found.worst:
            answers = [answer or "nothing finite" for answer in (image.answer_a, image.answer_b)]
            style = None if image.answer_a == image.answer_b else "yellow"
            add_row(grid, (image.file, f"{image.max_abs:.4g}", f"{image.kl_nats:.3g}", *answers), style=style)
        out.print()
        out.print(grid)
    if layers is not None:
        grid = table("layer", "op", ">SQNR dB", ">cosine", ">max |A - B|", ">mean |A - B|")
        for layer in layers:
            numbers = (f"{layer.sqnr_db:.1f}", f"{layer.cosine:.6f}", f"{layer.max_abs:.4g}", f"{layer.mean_abs:.4g}")
            add_row(grid, (layer.layer, layer.op, *numbers))
        out.print()
        out.print(grid)
        print_line("layers: both graphs in ONNX Runtime with its basic optimisations only, whatever runs A and B above")
    for letter, broken in (("A", found.not_finite_a), ("B", found.not_finite_b)):
        if broken:
            print_line(f"{letter}: {broken} answers are not finite and count as disagreement", style="yellow")
    print_left_out(found.unreadable)


def _raw(comparison: Comparison) -> dict[str, Any]:
    found, layers = comparison.logits, comparison.layers
    raw = {
        letter: {"engine": side.name, "runner": f"{side.precision}, {side.runner}"}
        for letter, side in (("a", comparison.a), ("b", comparison.b))
    }
    worst = [_finite(dataclasses.asdict(row) | {"file": str(row.file)}) for row in found.worst]
    derived = {"agreement_percent": found.agreement_percent, "relative": found.relative}
    numbers = _finite(dataclasses.asdict(found) | derived) | {"worst": worst}
    return raw | numbers | {"layers": None if layers is None else [_finite(dataclasses.asdict(row)) for row in layers]}


def _finite(raw: dict[str, Any]) -> dict[str, Any]:
    """JSON has neither infinity nor NaN: null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in raw.items()}
