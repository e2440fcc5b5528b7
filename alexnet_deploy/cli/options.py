"""Options that several commands share, and what their texts mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from alexnet_deploy.contract import BatchProfile, Precision
from alexnet_deploy.errors import UsageError
from alexnet_deploy.onnx_graph.import_options import ImportOptions

STORE = Path("engines")
DEFAULT_ONNX = STORE / "alexnet.onnx"

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
Store = Annotated[Path, typer.Option("--engines", help="The engine store: where bundles are written and looked for.")]
Mean = Annotated[str | None, typer.Option(help="R,G,B mean on the 0..1 scale, for an ONNX of another tool.")]
Std = Annotated[str | None, typer.Option(help="R,G,B standard deviation, as --mean.")]
Labels = Annotated[Path | None, typer.Option(help="Labels, one a line, or 'imagenet1k'; for an ONNX of another tool.")]
Threads = Annotated[int | None, typer.Option(help="Threads of the runtime [default: its own choice].")]
Runtime = Annotated[str, typer.Option(help="auto, tensorrt, onnxruntime-cuda, openvino or onnxruntime.")]

Choice = TypeVar("Choice", bound=str)


def precision_of(*, fp16: bool, int8: bool, fp8: bool) -> Precision:
    """The precision that trtexec's flags mean: float32 without one; ``--fp16`` beside int8 or fp8 is for the rest."""
    match int8, fp8, fp16:
        case True, True, _:
            raise UsageError("--int8 and --fp8 exclude each other; build one bundle with each")
        case True, False, _:
            return "int8+fp16" if fp16 else "int8"
        case False, True, _:
            return "fp8+fp16" if fp16 else "fp8"
    return "fp16" if fp16 else "fp32"


def batch_profile(low: int | None, opt: int | None, high: int | None) -> BatchProfile | None:
    """The profile that the flags give, or None where none was given; an unset one follows the others."""
    if low is None and opt is None and high is None:
        return None
    low = 1 if low is None else low
    high = max(32, low, opt or 0) if high is None else high
    return BatchProfile(low, max(min(8, high), low) if opt is None else opt, high)


def import_options_of(mean: str | None, std: str | None, labels: Path | None) -> ImportOptions:
    """What the flags say of an ONNX of another tool."""
    return ImportOptions(_numbers("--mean", mean), _numbers("--std", std), labels)


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


def whole_numbers(flag: str, text: str) -> tuple[int, ...]:
    """The numbers of ``text``, each once, in its order; UsageError names the flag."""
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as exc:
        raise UsageError(f"{flag} {text}: takes whole numbers with commas between, such as 1,8,32") from exc


def choice(flag: str, value: str, choices: Sequence[Choice]) -> Choice:
    """``value`` as one of ``choices``; UsageError names the flag and what it takes."""
    for known in choices:
        if value == known:
            return known
    raise UsageError(f"{flag} {value}: unknown; choose one of {', '.join(map(str, choices))}")
