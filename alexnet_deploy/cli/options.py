"""Options that several commands share: each has one spelling, one type and one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from alexnet_deploy.adoption.import_options import NO_IMPORT_OPTIONS as NO_IMPORT_OPTIONS
from alexnet_deploy.adoption.import_options import ImportOptions as ImportOptions
from alexnet_deploy.bundle.store import DEFAULT_ONNX as DEFAULT_ONNX
from alexnet_deploy.bundle.store import STORE as STORE
from alexnet_deploy.bundle.store import bundle_names
from alexnet_deploy.cli.import_options import with_import_options as with_import_options
from alexnet_deploy.cli.quantities import Devices, Numbers, Seconds
from alexnet_deploy.contract import BatchProfile, Precision
from alexnet_deploy.errors import UsageError
from alexnet_deploy.precision.types import QUANTIZED_TYPES, Method, QuantizedType
from alexnet_deploy.runtime.select import Runtime as RuntimeName


def complete_engine(ctx: typer.Context) -> list[str]:
    """Names that the shell completes an engine with."""
    return bundle_names(ctx.params.get("store") or STORE)


def engine_argument(default: str | None = None, *, kind: str = "ENGINE") -> Any:
    """An argument for engines; ``default`` describes the default. ``kind`` BUNDLE excludes ONNX files."""
    what = "Bundle (name in the store, or path)" + (" or ONNX file." if kind == "ENGINE" else ".")
    text = what if default is None else f"{what}  [default: {default}]"
    return typer.Argument(metavar=kind, autocompletion=complete_engine, help=text)


def time_option(flag: str, text: str, *, parser: Any = Seconds.parse, default: str | None = None) -> Any:
    """An option whose value is a time with its unit; ``default`` is the default as it would be typed."""
    return typer.Option(flag, parser=parser, metavar="TIME", help=text, show_default=default or True)


_NEWEST, _ALL = "newest bundle of the store", "all bundles of the store"

# The subject of a command
OneEngine = Annotated[str, engine_argument()]
NewestEngine = Annotated[str | None, engine_argument(_NEWEST)]
Engines = Annotated[list[str] | None, engine_argument(_ALL)]
Bundle = Annotated[str, engine_argument(kind="BUNDLE")]
Bundles = Annotated[list[str] | None, engine_argument(_ALL, kind="BUNDLE")]
Images = Annotated[list[str], typer.Argument(metavar="IMAGES", help="Image files, folders and glob patterns.")]
FloatOnnx = Annotated[Path, typer.Argument(metavar="ONNX", help="Float classifier as ONNX: ours or another tool's.")]

# Stores and data
Engine = Annotated[
    str | None,
    typer.Option("--engine", autocompletion=complete_engine, help=f"Bundle or ONNX file.  [default: {_NEWEST}]"),
]
Store = Annotated[Path, typer.Option("--store", help="Folder of engine bundles.")]
LabelledData = Annotated[Path, typer.Option("--data", help="Folder of images, one subfolder per class.")]
ImagesData = Annotated[Path, typer.Option("--data", help="Folder of images, labelled or not.")]
ImageCount = Annotated[int | None, typer.Option(help="Number of images, evenly from the subfolders.  [default: all]")]
Plot = Annotated[Path | None, typer.Option(help="Figure to write: .png, .svg or .pdf.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]

# How an engine runs
Runtime = Annotated[RuntimeName, typer.Option(help="Runtime; auto uses the first that can run the engine here.")]
Threads = Annotated[int | None, typer.Option(help="Number of threads of the runtime.  [default: the runtime's own]")]


def _device(metavar: str, what: str) -> Any:
    help_text = f"{what}; a GPU runtime is used.  [default: the first GPU, or the CPU]"
    return typer.Option("--device", parser=Devices.parse, metavar=metavar, help=help_text)


Device = Annotated[Devices | None, _device("N,N|all", "GPUs by their numbers, from 0, or all")]
OneDevice = Annotated[Devices | None, _device("N", "GPU by its number, from 0")]
Tf32 = Annotated[
    bool,
    typer.Option("--tf32", help="Let onnxruntime-cuda multiply float32 with 10 bits of mantissa, as float16 has."),
]
Workers = Annotated[int | None, typer.Option(help="Number of decoding threads.  [default: one per core]")]
FullDecode = Annotated[
    bool,
    typer.Option(
        "--full-decode", help="Decode large JPEGs in full; by default they are decoded smaller, which is faster."
    ),
]
Concurrency = Annotated[int, typer.Option(help="Number of calls at the same time.")]
Batch = Annotated[int, typer.Option(help="Number of images per call.")]
BatchSizes = Annotated[Numbers, typer.Option(parser=Numbers.parse, metavar="N,N,...", help="Batch sizes to measure.")]
Duration = Annotated[float, time_option("--duration", "Minimum time per measurement.")]

# Precision and calibration
Fp16 = Annotated[bool, typer.Option("--fp16", help="float16; with --int8 or --fp8, for the other layers.")]
Int8 = Annotated[bool, typer.Option("--int8", help="int8 convolutions and dense layers; needs calibration.")]
Fp8 = Annotated[bool, typer.Option("--fp8", help="float8 (E4M3) instead of int8; GPUs from sm89 on.")]
Int8Weights = Annotated[
    bool, typer.Option("--int8-weights", help="int8 weights, float16 arithmetic; calibration is optional.")
]
Int4 = Annotated[
    bool, typer.Option("--int4", help="int4 weights of dense layers, float16 arithmetic; calibration is optional.")
]
CalibrationImages = Annotated[int, typer.Option(help="Number of calibration images.")]
CalibrationMethod = Annotated[
    Method | None, typer.Option(help="How value ranges are chosen.  [default: entropy; max for fp8; gptq for weights]")
]
Seed = Annotated[int, typer.Option(help="Seed of the choice of images.")]
Exclude = Annotated[str | None, typer.Option(metavar="REGEX", help="Nodes not to quantise.")]
MaxDrop = Annotated[float | None, typer.Option(metavar="POINTS", help="Maximum drop of top-1.")]
Confident = Annotated[bool, typer.Option("--confident", help="Apply --max-drop to the whole 95 % interval.")]
AllowCalibrationImages = Annotated[
    bool,
    typer.Option("--allow-calibration-images", help="Accept images that calibrated an engine or its temperature."),
]


def one_device(device: Devices | None) -> int | None:
    """The number of ``--device`` of a command that measures one GPU; UsageError for several."""
    if device is None:
        return None
    if len(device) != 1:
        raise UsageError(f"`device` {device}: this command measures one GPU; give one number, such as 0")
    return device[0]


def quantized_type_of(**flags: bool) -> QuantizedType | None:
    """The type of ``--int8``, ``--fp8``, ``--int8-weights`` or ``--int4``; None without a flag, UsageError for two."""
    given = [name for name, is_given in flags.items() if is_given]
    if len(given) > 1:
        raise UsageError(f"`{given[0]}` and `{given[1]}` cannot be combined; choose one")
    return next((dtype for dtype in QUANTIZED_TYPES if [dtype.replace("-", "_")] == given), None)


def precision_of(*, fp16: bool, **flags: bool) -> Precision:
    """The precision of trtexec's flags: float32 without a flag; ``--fp16`` with int8 or fp8 is for the other layers.

    Where weights alone are quantised the other layers are float16 anyway.
    """
    dtype = quantized_type_of(**flags)
    if dtype is None:
        return "fp16" if fp16 else "fp32"
    if dtype == "int8":
        return "int8+fp16" if fp16 else "int8"
    if dtype == "fp8":
        return "fp8+fp16" if fp16 else "fp8"
    return dtype


def batch_profile(low: int | None, opt: int | None, high: int | None) -> BatchProfile | None:
    """The profile of the flags, None without any; a missing one follows from the others."""
    if low is None and opt is None and high is None:
        return None
    low = 1 if low is None else low
    high = max(32, low, opt or 0) if high is None else high
    return BatchProfile(low, max(min(8, high), low) if opt is None else opt, high)
