"""``compare``, ``preprocessing-parity``: another engine, other pixels."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import exit_where_left_out, needs, running
from alexnet_deploy.cli.flags import in_flags
from alexnet_deploy.cli.output.tables import add_row, print_json, print_left_out, print_line, table
from alexnet_deploy.cli.output.terminal import out, reporting

if TYPE_CHECKING:  # these load SciPy; only the types are needed here
    from alexnet_deploy.evaluation.comparison.compare import Comparison
    from alexnet_deploy.evaluation.comparison.preprocessing import PreprocessingParity

_SIDE = "Bundle (name in the store, or path), ONNX file or checkpoint; NAME@RUNTIME chooses its runtime"


@opt.with_import_options
def compare(
    a: Annotated[str, typer.Argument(metavar="A", autocompletion=opt.complete_engine, help=f"The reference. {_SIDE}.")],
    b: Annotated[str, typer.Argument(metavar="B", autocompletion=opt.complete_engine, help="Compared with A.")],
    *,
    data: opt.ImagesData,
    images: opt.ImageCount = None,
    layers: Annotated[bool, typer.Option("--layers", help="Compare the layers of the two graphs as well.")] = False,
    max_error: Annotated[float | None, typer.Option(help="Exit code 1 if a logit differs by more.")] = None,
    min_agreement: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="Exit code 1 if fewer of the first answers agree.")
    ] = None,
    runtime: opt.Runtime = "auto",
    threads: opt.Threads = None,
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Compare two engines on the same images.

    The same engine on two runtimes: compare alexnet-int8@openvino alexnet-int8@onnxruntime. Exit code 3: finished, but
    some images cannot be read.
    """
    with needs("measure"):
        from alexnet_deploy.evaluation.comparison.compare import check_bounds, gate
        from alexnet_deploy.evaluation.comparison.compare import compare as compared

    check_bounds(max_error, min_agreement)
    with reporting() as report:
        found = compared(
            a,
            b,
            data,
            store=store,
            runtime=runtime,
            threads=threads,
            import_options=import_options,
            images=images,
            layers=layers,
            on_progress=report,
        )
    if json_:
        print_json(_raw(found))
    else:
        _print_comparison(found)
    gate(found, max_error=max_error, min_agreement=min_agreement)
    exit_where_left_out(found.logits.unreadable, found.logits.images)


def _print_comparison(comparison: Comparison) -> None:
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
        print_line("layers: both graphs in ONNX Runtime with its basic optimisations only, not in the runtimes above")
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
    worst = [_finite(dataclasses.asdict(row)) for row in found.worst]
    derived = {"agreement_percent": found.agreement_percent, "relative": found.relative}
    numbers = _finite(dataclasses.asdict(found) | derived) | {"worst": worst}
    return raw | numbers | {"layers": None if layers is None else [_finite(dataclasses.asdict(row)) for row in layers]}


def _finite(raw: dict[str, Any]) -> dict[str, Any]:
    """JSON has neither infinity nor NaN: null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in raw.items()}


@opt.with_import_options
def preprocessing_parity(
    engine: opt.OneEngine,
    *,
    data: opt.ImagesData,
    images: opt.ImageCount = None,
    runtime: opt.Runtime = "auto",
    threads: opt.Threads = None,
    full_decode: opt.FullDecode = False,
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Show what another image decoder or resizer changes.

    Exit code 3: finished, but some images cannot be read.
    """
    with needs("measure"):
        from alexnet_deploy.evaluation.comparison.preprocessing import preprocessing_parity as measured

    with (
        running(engine, store, runtime, threads, import_options, full_decode=full_decode) as opened,
        reporting() as report,
    ):
        found = measured(opened, data, images=images, on_progress=report)
    if found.unlabelled is not None:
        found = dataclasses.replace(found, unlabelled=in_flags(found.unlabelled))
    if json_:
        print_json(found)
    else:
        _print_variants(found)
    exit_where_left_out(found.unreadable, found.images)


def _print_variants(found: PreprocessingParity) -> None:
    """Print every variant compared with our own pixels."""
    pre = found.preprocessing
    rule = pre.resize if pre.resize_to is None else f"{pre.resize} {pre.resize_to}"
    labelled = found.top1_percent is not None
    accuracy = f", top-1 {found.top1_percent:.2f} %" if labelled else ""
    decoding = "" if pre.decoded_side is None else f", large JPEGs decoded to {pre.decoded_side} or more"
    print_line(
        f"reference: {rule} to {pre.width} x {pre.height}, {pre.interpolation}, antialiased{decoding}: "
        f"{found.images} images"
        f"{accuracy}, largest logit {found.largest_logit:.1f}"
    )
    grid = table(
        *("variant", ">answers changed", ">%", *([">top-1 points (95 %)"] if labelled else [])),
        *(">max logit change", ">mean pixel change", ">max", ">images touched", "differs in"),
    )
    for row in found.variants:
        cells = [row.name, str(row.changed), f"{100 * row.changed / found.images:.2f}"]
        if row.top1_points is not None and row.points_interval is not None:
            low, high = row.points_interval.low, row.points_interval.high
            cells.append(f"{row.top1_points:+.2f} ({low:+.2f}..{high:+.2f})")
        cells += [
            f"{row.max_logit_change:.2f}",
            f"{row.mean_abs_pixel:.2f}",
            str(row.max_pixel),
            str(row.touched),
            row.differs,
        ]
        add_row(grid, cells)
    out.print(grid)
    if found.unlabelled is not None:
        print_line(f"no accuracy: {found.unlabelled}")
    print_left_out(found.unreadable)
