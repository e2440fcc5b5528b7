"""The command line: parse, call the stages, print. Heavy libraries load inside the command that needs them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from alexnet_deploy import __version__, show
from alexnet_deploy.calibration import DEFAULT_IMAGES, METHODS
from alexnet_deploy.contract import BatchProfile, Foreign
from alexnet_deploy.errors import DeployError, InputError, UsageError

Choice = TypeVar("Choice", bound=str)

STORE = Path("engines")
DEFAULT_ONNX = STORE / "alexnet.onnx"

app = typer.Typer(
    name="alexnet-deploy",
    help="From a trained AlexNet to an engine one can trust: export, build-engine, infer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_WIDE = 160  # columns of a table in a pipe, where no terminal tells its width
out = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _WIDE)
err = Console(highlight=False, markup=False, stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
Store = Annotated[Path, typer.Option("--engines", help="The engine store: where bundles are written and looked for.")]
Mean = Annotated[str | None, typer.Option(help="R,G,B mean on the 0..1 scale, for an ONNX of another tool.")]
Std = Annotated[str | None, typer.Option(help="R,G,B standard deviation, as --mean.")]
Labels = Annotated[Path | None, typer.Option(help="Labels, one a line, or 'imagenet1k'; for an ONNX of another tool.")]
Runtime = Annotated[str, typer.Option(help="auto, tensorrt, onnxruntime-cuda, openvino or onnxruntime.")]


@app.command()
def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")] = DEFAULT_ONNX,
    weights: Annotated[
        str | None,
        typer.Option(
            help="checkpoint.safetensors, a published .pth (path or URL), or imagenet1k; else the shipped one."
        ),
    ] = None,
    arch: Annotated[str | None, typer.Option(help="Architecture of a .pth file (see summary --help).")] = None,
    parity_images: Annotated[
        Path | None, typer.Option(help="Folder of images to prove parity on; else the sample photos.")
    ] = None,
    json_: Json = False,
) -> None:
    """Export a checkpoint to ONNX (uint8 pixels in, logits out) and prove that it answers as torch does."""
    with _needs("export"):
        from alexnet_deploy.checkpoint import load_weights
        from alexnet_deploy.export import export_onnx
    from alexnet_deploy.samples import parity_pixels

    with _progress() as progress:
        checkpoint = load_weights(weights, arch, on_progress=_bytes_into(progress, "weights"))
    pixels_NHWC = parity_pixels(parity_images, checkpoint.contract.preprocessing)
    parity = export_onnx(checkpoint, output, pixels_NHWC=pixels_NHWC)
    show.parity(out, output, checkpoint.contract, parity, as_json=json_)


@app.command()
def build_engine(
    onnx: Annotated[Path, typer.Argument(help="A classifier as ONNX: ours, or of another tool.")] = DEFAULT_ONNX,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Bundle to write; else <store>/<model>-<precision>.")
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="float16; with --int8 or --fp8, what is not quantised.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="int8 convolutions and dense layers; needs calibration.")
    ] = False,
    fp8: Annotated[bool, typer.Option("--fp8", help="float8 E4M3 instead of int8; sm89 and later.")] = False,
    calibration_data: Annotated[Path | None, typer.Option(help="Folder of images like those of production.")] = None,
    calibration_images: Annotated[int, typer.Option(help="How many of them to use.")] = DEFAULT_IMAGES,
    calibration_method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "entropy",
    seed: Annotated[int, typer.Option(help="Decides which images calibrate.")] = 0,
    target: Annotated[
        list[str] | None,
        typer.Option(help="sm75, sm80, sm86, sm89, sm120, sm121, portable, all or current; may be repeated."),
    ] = None,
    min_batch: Annotated[int | None, typer.Option(help="Smallest batch of the plan [default: 1].")] = None,
    opt_batch: Annotated[int | None, typer.Option(help="Batch to tune for [default: 8].")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Largest batch of the plan [default: 32].")] = None,
    exclude: Annotated[str | None, typer.Option(help="Regular expression of nodes not to quantise.")] = None,
    allow_fallback: Annotated[
        list[str] | None, typer.Option(help="Node that may miss its precision; a name or regular expression.")
    ] = None,
    mean: Mean = None,
    std: Std = None,
    labels: Labels = None,
    engines: Store = STORE,
    json_: Json = False,
) -> None:
    """Build an engine bundle: typed ONNX plus TensorRT plans, with the achieved precision proved."""
    precision = _precision(fp16=fp16, int8=int8, fp8=fp8)
    method = _choice("--calibration-method", calibration_method, METHODS)
    if calibration_data is not None and not (int8 or fp8):
        raise UsageError("--calibration-data has no use without --int8 or --fp8; add one, or leave it out")
    batch = _batch(min_batch, opt_batch, max_batch)
    from alexnet_deploy.assemble import EngineOptions, build_engine
    from alexnet_deploy.calibration import choose_images

    chosen = None
    if calibration_data is not None:
        chosen = choose_images(calibration_data, count=calibration_images, seed=seed)
        if len(chosen.files) < calibration_images:
            err.print(
                f"note: {calibration_data} holds {len(chosen.files)} usable images, {calibration_images} were asked for"
            )
    options = EngineOptions(
        precision=precision,
        batch=batch,
        targets=tuple(target or ()),
        calibration=chosen,
        method=method,
        exclude=exclude,
        allow_fallback=tuple(allow_fallback or ()),
        foreign=_foreign(mean, std, labels),
    )
    bundle = output or engines / f"{onnx.stem}-{precision.replace('+', '-')}".removesuffix("-")
    with _progress() as progress:
        manifest = build_engine(onnx, bundle, options, on_progress=_steps_into(progress))
    show.bundle(out, bundle, manifest, as_json=json_)


@app.command()
def infer(
    images: Annotated[list[str], typer.Argument(help="Image files, folders (recursive) and glob patterns.")],
    engine: Annotated[
        str | None, typer.Option(help="Bundle (name or path) or ONNX file; else the newest bundle of the store.")
    ] = None,
    runtime: Runtime = "auto",
    top_k: Annotated[int, typer.Option(help="Answers an image.")] = 5,
    batch: Annotated[int, typer.Option(help="Images computed at once.")] = 32,
    workers: Annotated[int | None, typer.Option(help="Decoding threads [default: one a core].")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime [default: its own choice].")] = None,
    format_: Annotated[str, typer.Option("--format", help="table, jsonl, csv or parquet.")] = "table",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write instead of the screen.")] = None,
    mean: Mean = None,
    std: Std = None,
    labels: Labels = None,
    engines: Store = STORE,
) -> None:
    """Classify images: the likeliest labels with their probabilities, one row an image.

    Exit code 0: all classified; 1: error; 2: usage; 3: finished, but some inputs failed.
    """
    from alexnet_deploy.images import find_images
    from alexnet_deploy.infer import predict
    from alexnet_deploy.outputs import Format, open_writer
    from alexnet_deploy.runners import open_runner
    from alexnet_deploy.store import resolve_engine

    kind = _choice("--format", format_, get_args(Format))
    files = find_images(images)
    with resolve_engine(engine, engines, _foreign(mean, std, labels)) as found:
        opened = open_runner(found, runtime, threads=threads)
        for reason in opened.passed_over:
            err.print(f"passed over {reason}", style="dim", soft_wrap=True)
        err.print(f"running {found.name} ({found.precision}) with {opened.runner.description}", soft_wrap=True)
        failed = count = 0
        try:
            columns = min(top_k, len(found.contract.labels))
            # One console draws bar and table where both go to a terminal, so that neither writes over the other.
            screen = err if err.is_terminal and out.is_terminal else out
            with _progress() as progress, open_writer(kind, output, top_k=columns, console=screen) as write:
                task = progress.add_task("images", total=None)
                for prediction in predict(opened.runner, files, top_k=top_k, batch=batch, workers=workers):
                    write(prediction)
                    failed += prediction.error is not None
                    count += 1
                    progress.update(task, completed=count)
        finally:
            opened.runner.close()
    if failed:
        err.print(f"{failed} of {count} inputs failed; their rows say why", style="yellow")
        raise typer.Exit(3)


@app.command()
def profile(
    engine: Annotated[list[str] | None, typer.Argument(help="Bundles or ONNX files; else all of the store.")] = None,
    batch: Annotated[int, typer.Option(help="Images a call.")] = 1,
    runtime: Runtime = "auto",
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime [default: its own choice].")] = None,
    duration: Annotated[float, typer.Option(help="Seconds to measure at least, after 200 ms of warm-up.")] = 3.0,
    engines: Store = STORE,
    json_: Json = False,
) -> None:
    """Measure the latency of engines, by trtexec's rules, on this machine."""
    from alexnet_deploy.latency import measure
    from alexnet_deploy.runners import open_runner
    from alexnet_deploy.store import bundle_names, resolve_engine

    rows = []
    for name in engine or bundle_names(engines):
        with resolve_engine(name, engines) as found:
            opened = open_runner(found, runtime, threads=threads)
            try:
                rows.append((found, measure(opened.runner, batch=batch, duration_s=duration)))
            finally:
                opened.runner.close()
    show.latencies(out, rows, as_json=json_)


@app.command()
def evaluate(
    data: Annotated[Path, typer.Argument(help="Folder with one folder of images a class.")],
    engine: Annotated[
        list[str] | None, typer.Option(help="Bundle or ONNX file; may be repeated; else all of the store.")
    ] = None,
    runtime: Runtime = "auto",
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime [default: its own choice].")] = None,
    engines: Store = STORE,
    json_: Json = False,
) -> None:
    """Measure top-1 and top-5 accuracy of engines on labelled images."""
    from alexnet_deploy.evaluate import evaluate as accuracy_of
    from alexnet_deploy.runners import open_runner
    from alexnet_deploy.store import bundle_names, resolve_engine

    rows = []
    for name in engine or bundle_names(engines):
        with resolve_engine(name, engines) as found:
            opened = open_runner(found, runtime, threads=threads)
            try:
                rows.append((found, accuracy_of(opened.runner, data)))
            finally:
                opened.runner.close()
    show.accuracies(out, rows, as_json=json_)


@app.command("engines")
def list_engines(engines: Store = STORE, json_: Json = False) -> None:
    """List the engine store."""
    from alexnet_deploy.bundle import list_bundles

    show.store(out, engines, list_bundles(engines), as_json=json_)


@app.command()
def inspect(
    engine: Annotated[str, typer.Argument(help="Bundle: a name in the store, or a path.")],
    engines: Store = STORE,
    json_: Json = False,
) -> None:
    """Show one bundle: contract, files, plans and the precision that each layer got. Verifies every checksum."""
    from alexnet_deploy.bundle import verify
    from alexnet_deploy.store import find_bundle

    directory = find_bundle(engine, engines)
    show.bundle(out, directory, verify(directory), as_json=json_, layers=True)


@app.command()
def summary(
    arch: Annotated[
        str, typer.Argument(help="alexnet, alexnet-2012, alexnet-review, alexnet-review-code, or a checkpoint.")
    ] = "alexnet",
    num_classes: Annotated[int, typer.Option(help="Classes of a named architecture.")] = 1000,
) -> None:
    """Print each layer's output shape and parameters."""
    with _needs("export"):
        from alexnet_deploy.models import FAMILY, architecture
        from alexnet_deploy.summary import layer_table
    if arch not in FAMILY and Path(arch).suffix == ".safetensors":
        from alexnet_deploy.checkpoint import load_checkpoint

        print(layer_table(load_checkpoint(Path(arch)).arch))
    else:
        print(layer_table(architecture(arch, num_classes=num_classes)))


def _version(asked: bool) -> None:
    if asked:
        print(f"alexnet-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what the libraries below report.")] = False,
) -> None:
    logging.basicConfig(level=logging.DEBUG if verbose else logging.ERROR, stream=sys.stderr)


def _precision(*, fp16: bool, int8: bool, fp8: bool) -> Any:
    if int8 and fp8:
        raise UsageError("--int8 and --fp8 exclude each other; build one bundle with each")
    low = "int8" if int8 else "fp8" if fp8 else ""
    return f"{low}+fp16" if low and fp16 else low or ("fp16" if fp16 else "fp32")


def _batch(low: int | None, opt: int | None, high: int | None) -> BatchProfile | None:
    """The profile that the flags give, or None where none was given; an unset one follows the others."""
    if low is None and opt is None and high is None:
        return None
    low = 1 if low is None else low
    high = max(32, low, opt or 0) if high is None else high
    return BatchProfile(low, max(min(8, high), low) if opt is None else opt, high)


def _foreign(mean: str | None, std: str | None, labels: Path | None) -> Foreign:
    return Foreign(_numbers("--mean", mean), _numbers("--std", std), labels)


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as exc:
        raise UsageError(f"{flag} {text}: takes three numbers, such as 0.485,0.456,0.406") from exc
    if len(numbers) != 3:
        raise UsageError(f"{flag} {text}: takes three numbers (R,G,B), got {len(numbers)}")
    return numbers


def _choice(flag: str, value: str, choices: Sequence[Choice]) -> Choice:
    for choice in choices:
        if value == choice:
            return choice
    raise UsageError(f"{flag} {value}: unknown; choose one of {', '.join(map(str, choices))}")


@contextlib.contextmanager
def _needs(extra: str) -> Iterator[None]:
    """Turn a missing package into the name of the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as exc:
        raise InputError(f"this command needs {exc.name}; pip install 'alexnet-deploy[{extra}]'") from exc


def _progress() -> Progress:
    """A progress bar on a terminal; nothing in a pipe."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def _bytes_into(progress: Progress, label: str) -> Callable[[int, int | None], None]:
    task = progress.add_task(label, total=None, visible=False)
    return lambda done, total: progress.update(task, completed=done, total=total, visible=True)


def _steps_into(progress: Progress) -> Callable[[str, int, int], None]:
    tasks: dict[str, Any] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = progress.add_task(stage, total=total)
        progress.update(tasks[stage], completed=done, total=total)

    return report


def main() -> None:
    """Entry point: the one place where an error of ours becomes a line and an exit code."""
    try:
        app()
    except DeployError as exc:
        err.print(f"error: {exc}", style="red", soft_wrap=True)
        sys.exit(exc.exit_code)
    except KeyboardInterrupt:
        err.print("interrupted; nothing was left half written", style="yellow")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
