"""``evaluate``: accuracy of engines, each compared with the first; tables for people, Markdown to paste, JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import exit_where_left_out, needs, note_passed_over
from alexnet_deploy.cli.output.evaluation_json import evaluation_json
from alexnet_deploy.cli.output.replace import check_output
from alexnet_deploy.cli.output.tables import add_row, print_json, print_line, print_markdown, table
from alexnet_deploy.cli.output.terminal import note_written, out, reporting
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import UsageError, printable, require_positive
from alexnet_deploy.precision.types import quantized_type
from alexnet_deploy.report.settings import GALLERY_IMAGES
from alexnet_deploy.runtime.select import Runtime

if TYPE_CHECKING:  # these load SciPy; only the types are needed here
    from alexnet_deploy.evaluation.evaluate import Evaluation
    from alexnet_deploy.evaluation.results import Accuracy, AccuracyDelta, Confidence, Interval

CLASSES_SHOWN = 10
EngineRuntime = Literal[Runtime, "all"]


@opt.with_import_options
def evaluate(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of images, one subfolder per class.")],
    engines: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            metavar="ENGINE",
            autocompletion=opt.complete_engine,
            help="Bundle, ONNX file or checkpoint (.safetensors); NAME@RUNTIME chooses its runtime. The others are "
            "compared with the first.  [repeatable; default: all bundles of the store]",
        ),
    ] = None,
    runtimes: Annotated[
        EngineRuntime,
        typer.Option("--runtime", help="Runtime; auto uses the first that can run the engine here, all uses each."),
    ] = "auto",
    threads: opt.Threads = None,
    max_drop: opt.MaxDrop = None,
    confident: opt.Confident = False,
    ten_crop: Annotated[
        bool, typer.Option("--ten-crop", help="Average ten views of each image; ten times as slow.")
    ] = False,
    outliers: Annotated[
        Path | None,
        typer.Option(help="Folder of images that show none of the classes: how well the scores separate them."),
    ] = None,
    gallery: Annotated[
        Path | None,
        typer.Option(help="HTML page to write: confused classes, images with the highest loss, changed answers."),
    ] = None,
    gallery_images: Annotated[
        int | None,
        typer.Option(help=f"Maximum number of pictures per engine and kind.  [default: {GALLERY_IMAGES}]"),
    ] = None,
    latency: Annotated[bool, typer.Option("--latency/--no-latency", help="Measure the time of one image.")] = True,
    allow_calibration_images: opt.AllowCalibrationImages = False,
    full_decode: opt.FullDecode = False,
    tf32: opt.Tf32 = False,
    device: opt.OneDevice = None,
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables instead.")] = False,
) -> None:
    """Measure accuracy and confidence on labelled images.

    Engines after the first are compared with it. Exit code 1: --max-drop is exceeded; 3: finished, but some images
    cannot be read.
    """
    if json_ and markdown:
        raise UsageError("--json and --markdown cannot be combined; choose one")
    if confident and max_drop is None:
        raise UsageError("`confident` needs `max_drop`; add it")
    if gallery_images is not None and gallery is None:
        raise UsageError("`gallery_images` needs `gallery`; add it")
    with needs("measure"):
        from alexnet_deploy.evaluation.evaluate import LATENCY_S, gate
        from alexnet_deploy.evaluation.evaluate import evaluate as measured
        from alexnet_deploy.evaluation.max_drop import check_max_drop

        if gallery is not None:
            from alexnet_deploy.report.gallery import write_gallery
    if max_drop is not None:
        check_max_drop(max_drop)
    if gallery is not None:
        require_positive(gallery_images=gallery_images)
        check_output(
            gallery, "gallery", (data, outliers, *(engines or ()), import_options.labels), formats=(".html", ".htm")
        )
    with reporting() as report:
        found = measured(
            engines,
            data,
            store=store,
            runtimes=runtimes,
            threads=threads,
            import_options=import_options,
            full_decode=full_decode,
            tf32=tf32,
            device=opt.one_device(device),
            ten_crop=ten_crop,
            outliers=outliers,
            allow_calibration_images=allow_calibration_images,
            latency_s=LATENCY_S if latency else None,
            min_engines=1 if max_drop is None else 2,
            on_progress=report,
        )
    note_passed_over(found.passed_over, unused_gpu=found.unused_gpu)
    if json_:
        print_json(evaluation_json(found))
    elif markdown:
        _print_markdown(found)
    else:
        _print_tables(found)
    if gallery is not None:
        write_gallery(found, gallery, limit=GALLERY_IMAGES if gallery_images is None else gallery_images)
        note_written(gallery)
    if max_drop is not None:
        for result, delta in zip(found.engines[1:], found.deltas, strict=True):
            gate(delta, found.engines[0].name, result.name, max_drop, confident=confident)
    exit_where_left_out(found.unreadable, found.images)


def _print_tables(found: Evaluation) -> None:
    """Print for people."""
    for i, (title, grid) in enumerate(_tables(found)):
        if i:
            out.print()
        print_line(title)
        out.print(grid)
    for remark in _remarks(found):
        print_line(remark, style="yellow")


def _print_markdown(found: Evaluation) -> None:
    """Print Markdown, to paste into an issue or a README."""
    for title, grid in _tables(found):
        print(f"{printable(title)}\n")
        print_markdown(grid)
        print()
    for remark in _remarks(found):
        print(f"- {printable(remark)}")


def _tables(found: Evaluation) -> Iterator[tuple[str, Table]]:
    """Yield each table with its title."""
    first, *others = found.engines
    time = [] if first.latency_ms is None else [">ms"]
    grid = table("engine", ">top-1 %", ">top-5 %", ">NLL", ">ECE %", *time, ">MiB", "runner")
    for result in found.engines:
        cells = [
            result.name,
            _share(result.accuracy.top1_percent, result.accuracy.top1_interval),
            _share(result.accuracy.top5_percent, result.accuracy.top5_interval),
            _before_and_after(result.accuracy, "nll_nats", 3),
            _before_and_after(result.accuracy, "ece_percent", 1),
        ]
        if result.latency_ms is not None:
            cells.append(f"{result.latency_ms:.2f}")
        add_row(grid, [*cells, f"{result.model_bytes / 2**20:.1f}", f"{result.runner} ({result.precision})"])
    views = "" if found.views == 1 else f", {found.views} views of each"
    title = f"{found.images} images of {found.data}{views}, folders named by {found.naming}; in brackets 95 % intervals"
    yield title, grid
    yield from _selective_table(found)
    if not others:
        return
    grid = table("engine", ">agree %", ">right→wrong", ">wrong→right", ">top-1 points", ">McNemar p")
    for result, delta in zip(others, found.deltas, strict=True):
        interval = f"{delta.points_interval.low:+.2f}..{delta.points_interval.high:+.2f}"
        counts = (f"{delta.agreement_percent:.2f}", delta.lost, delta.won)
        add_row(grid, (result.name, *counts, f"{delta.points:+.2f} ({interval})", f"{delta.mcnemar_p:.2g}"))
    yield f"compared with {first.name}", grid
    for result, delta in zip(others, found.deltas, strict=True):
        yield from _class_table(found, result.name, delta)


def _selective_table(found: Evaluation) -> Iterator[tuple[str, Table]]:
    rows = [(result, each) for result in found.engines if (each := result.accuracy.selective) is not None]
    if not rows:
        return
    outliers = next((each.outliers for _, each in rows if each.outliers), None)
    columns = [">AUROC %", ">FPR at 95 % TPR", ">outliers unknown %"] if outliers else []
    grid = table(
        "engine", ">ECE % (chance subtracted)", "score", ">coverage %", ">top-1 % of these", ">AURC %", *columns
    )
    for result, each in rows:
        of, confidence = each.accuracy_interval, result.accuracy.confidence
        cells = [
            "-"
            if confidence is None or confidence.ece_interval is None or confidence.ece_debiased_percent is None
            else _share(confidence.ece_debiased_percent, confidence.ece_interval),
            each.score,
            f"{each.coverage_percent:.1f}",
            "-" if of is None or each.accuracy_percent is None else _share(each.accuracy_percent, of),
            f"{each.aurc_percent:.2f}",
        ]
        if outliers:
            numbers = (each.auroc_percent, each.fpr95_percent, each.outliers_unknown_percent)
            cells += ["-" if number is None else f"{number:.1f}" for number in numbers]
        add_row(grid, (result.name, *cells))
    beside = f"; {outliers} outliers" if outliers else ""
    yield f"confidence{beside}", grid


def _class_table(found: Evaluation, name: str, delta: AccuracyDelta) -> Iterator[tuple[str, Table]]:
    changed = [c for c in delta.classes if c.points]
    shown = changed[:CLASSES_SHOWN]
    grid = table("class", ">images", f">{found.engines[0].name} %", f">{name} %", ">points")
    for c in shown:
        shares = (f"{c.first_percent:.1f}", f"{c.second_percent:.1f}", f"{c.points:+.1f}")
        add_row(grid, (_class_name(found.contract, c.target), c.images, *shares))
    which = f"the worst {len(shown)} of {len(changed)} classes" if len(shown) < len(changed) else "classes"
    if shown:
        yield f"{which} whose top-1 differs in {name}", grid


def _remarks(found: Evaluation) -> Iterator[str]:
    if found.unreadable:
        yield f"{len(found.unreadable)} images left out: {found.unreadable[0]}"
    if found.copies:
        are = "image is a copy of another" if found.copies == 1 else "images are copies of others"
        yield f"{found.copies} {are} (same content) and count like any other image, so the intervals are too narrow"
    if found.views > 1 and not found.has_margin:
        from alexnet_deploy.images.ten_crops import NO_MARGIN

        yield NO_MARGIN
    if found.contract.activation == "sigmoid":
        yield (
            "multi-label: the answer is the class with the highest score; NLL is the mean binary cross-entropy over "
            "the classes, with all but the folder's class counted as absent"
        )
    for result in found.engines:
        if result.accuracy.not_finite:
            yield f"{result.name}: {result.accuracy.not_finite} answers are not finite and count as wrong"
        if result.calibration_images:
            count = result.calibration_images
            yield f"{result.name}: {count} of these images calibrated it, so its accuracy is too high"
        elif result.calibration_images is None and quantized_type(result.precision) is not None:
            yield f"{result.name}: no record shows whether these images calibrated it"
        if result.temperature_images:
            yield (
                f"{result.name}: its probabilities were calibrated on {result.temperature_images} of these images, so "
                "its NLL and ECE are too low"
            )
        elif result.temperature_images is None and result.accuracy.confidence != result.accuracy.uncalibrated:
            yield f"{result.name}: no record shows whether its probabilities were calibrated on these images"


def _class_name(contract: ModelContract, k: int) -> str:
    label = contract.labels[k]
    return label if contract.labels.count(label) == 1 else f"{label} ({contract.class_ids[k]})"


def _share(percent: float, interval: Interval) -> str:
    return f"{percent:.2f} ({interval.low:.2f}..{interval.high:.2f})"


def _before_and_after(accuracy: Accuracy, field: str, digits: int) -> str:
    """The value at temperature 1 and, if the contract has another temperature, at that one."""

    def text(confidence: Confidence | None) -> str:
        return "-" if confidence is None else f"{getattr(confidence, field):.{digits}f}"

    same = accuracy.confidence == accuracy.uncalibrated
    return text(accuracy.confidence) if same else f"{text(accuracy.uncalibrated)} → {text(accuracy.confidence)}"
