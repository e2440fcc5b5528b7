"""``explain``: where an engine looks, and whether another one looks at the same place."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import needs, running
from alexnet_deploy.cli.output.tables import add_row, number, print_json, print_line, table
from alexnet_deploy.cli.output.terminal import note, note_written, out, reporting
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError, UnavailableError, UsageError, printable

if TYPE_CHECKING:
    from alexnet_deploy.explanation.explain import Explanation, GradCamOf
    from alexnet_deploy.inference.engine import OpenEngine


@opt.with_import_options
def explain(
    photos: Annotated[
        list[str], typer.Argument(metavar="PHOTO", help="Image files, folders, glob patterns or addresses (https://).")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write: a page, PNG files and JSON.")
    ],
    engine: opt.Engine = None,
    beside: Annotated[
        str | None,
        typer.Option(
            metavar="ENGINE",
            autocompletion=opt.complete_engine,
            help="Engine to compare with, of the same model; NAME@RUNTIME chooses its runtime.",
        ),
    ] = None,
    class_: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="Class to explain.  [default: the engine's answer per photo]"),
    ] = None,
    patch: Annotated[
        int | None,
        typer.Option(help="Side of the square that covers the photo, in pixels of the model.  [default: a fifth: 45]"),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Pixels from one place to the next.  [default: a quarter of the patch: 11]")
    ] = None,
    fill: Annotated[
        str,
        typer.Option(metavar="COLOUR", help="Colour of the square: mean (of the model), black, grey, white, R,G,B."),
    ] = "mean",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint that the engine was made from, for Grad-CAM.  [default: the shipped one, if it is that]"
        ),
    ] = None,
    grad_cam: Annotated[
        bool, typer.Option("--grad-cam/--no-grad-cam", help="Draw Grad-CAM of the checkpoint as well.")
    ] = True,
    runtime: opt.Runtime = "auto",
    threads: opt.Threads = None,
    full_decode: opt.FullDecode = False,
    device: opt.OneDevice = None,
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Show which parts of photos an engine answers by.

    Occlusion sensitivity: a square covers one place after another, and the engine itself answers each picture. Exit
    code 3: finished, but some photos failed.
    """
    with needs("measure"):
        from alexnet_deploy.explanation.explain import check_beside, class_number, explain_photos
        from alexnet_deploy.explanation.output import About, check_folder, explanation_folder
        from alexnet_deploy.explanation.page import EngineFacts
        from alexnet_deploy.explanation.settings import occlusion_settings
    from alexnet_deploy.files import check_directory
    from alexnet_deploy.images.sources import Source, find_sources
    from alexnet_deploy.runtime.openers import RUNTIMES
    from alexnet_deploy.runtime.select import split_runtime

    if checkpoint is not None and not grad_cam:
        raise UsageError("`checkpoint` is for Grad-CAM; leave one of --checkpoint and --no-grad-cam out")
    check_folder(output)
    check_directory(output)
    found = list(find_sources(photos))
    files = [each.read if isinstance(each, Source) else each for each in found]
    check_folder(output, [file for file in files if isinstance(file, Path)])
    opt.one_device(device)
    how = {"full_decode": full_decode, "device": device}
    with ExitStack() as stack:
        named, its_runtime = split_runtime(beside or "", store=store, known=("auto", *RUNTIMES))
        ours, theirs = import_options.for_each((engine, named))
        first = stack.enter_context(running(engine, store, runtime, threads, ours, **how))  # type: ignore[arg-type]
        engines = [first]
        settings = occlusion_settings(first.contract.preprocessing, patch=patch, stride=stride, fill=fill)
        if class_ is not None:
            class_number(first.contract, class_)
        if beside is not None:
            second = stack.enter_context(
                running(named, store, its_runtime or runtime, threads, theirs, **how)  # type: ignore[arg-type]
            )
            check_beside(first, second)
            engines.append(second)
        cam, cam_note = (None, "it was turned off") if not grad_cam else _grad_cam(first, checkpoint)
        if cam is None and grad_cam:
            note(f"no Grad-CAM: {cam_note}")
        same = len({each.name for each in engines}) < len(engines)  # one engine on two runtimes
        facts = tuple(
            EngineFacts(f"{e.name} in {e.description}" if same else e.name, e.precision, e.description) for e in engines
        )
        about = About(facts, first.contract, settings, cam_note, cam is not None)
        results = []
        with reporting() as report, explanation_folder(output, about) as folder:
            for result in explain_photos(engines, found, settings, class_name=class_, grad_cam=cam, on_progress=report):
                folder.add(result)
                results.append(result.error or _cells(result, first.contract))
    failed = _print(results, folder.numbers() if json_ else None, both=beside is not None)
    note_written(output / "index.html")
    if failed:
        note(f"{failed} of {len(results)} photos failed; the page contains the reason", style="yellow")
        raise typer.Exit(3)


def _grad_cam(engine: OpenEngine, checkpoint: Path | None) -> tuple[GradCamOf | None, str]:
    """Grad-CAM and the layer, or None and the reason; an error only for a checkpoint that the user named."""
    try:
        from alexnet_deploy.explanation.origin import reason_against
        from alexnet_deploy.model.checkpoint import load_weights, shipped_checkpoint
        from alexnet_deploy.model.grad_cam import GradCam
    except ModuleNotFoundError as exc:
        missing = f"it needs {exc.name}; pip install 'alexnet-deploy[export]'"
        if checkpoint is not None:
            raise UnavailableError(f"`checkpoint` {checkpoint}: is for Grad-CAM, and {missing}") from exc
        return None, missing
    loaded = load_weights(checkpoint or shipped_checkpoint())
    with engine.held():
        reason = reason_against(engine.onnx_path, engine.contract, loaded)
    if reason is None:
        cam = GradCam(loaded)
        return cam, cam.layer
    if checkpoint is not None:
        raise InputError(f"{checkpoint}: {engine.name} was not made from it: {reason}; name its own checkpoint")
    return None, f"the engine was not made from the shipped checkpoint ({reason}); name its own with --checkpoint"


def _cells(found: Explanation, contract: ModelContract) -> tuple[str, ...]:
    """One row of the table."""
    view = found.views[0]
    left, top, drop = view.occlusion.strongest()
    said = f"{contract.labels[found.target]} {100 * view.probability:.1f} %"
    cells = (found.file, said, f"{100 * drop:+.1f}", f"{left}, {top}")
    both = found.agreement
    return (
        cells
        if both is None
        else (*cells, number(both.rank_correlation, 2), f"{both.shared_top_percent:.0f}", both.verdict)
    )


def _print(results: list[str | tuple[str, ...]], numbers: object, *, both: bool) -> int:
    """Print JSON or a table; the number of photos that failed."""
    failed = [each for each in results if isinstance(each, str)]
    if numbers is not None:
        print_json(numbers)
        return len(failed)
    more = (">rank correlation", ">same tenth %", "places") if both else ()
    grid = table("photo", "class", ">points lost", ">at x, y", *more)
    for each in results:
        if not isinstance(each, str):
            add_row(grid, each)
    if grid.row_count:
        out.print(grid)
    for each in failed:
        print_line(printable(each), style="red")
    return len(failed)
