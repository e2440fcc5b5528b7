"""The options that describe an ONNX of another tool: one set for all commands that take one.

A command declares one parameter, ``import_options: ImportOptions``. ``with_import_options`` makes an option of each
field in its place.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from alexnet_deploy.adoption.import_options import ImportOptions, PresetName, Resize, Scale
from alexnet_deploy.cli.quantities import Rgb, Size
from alexnet_deploy.contract import Activation, Channels, CropOffset, Interpolation

_PARAMETER = "import_options"


def _option(text: str, **settings: Any) -> Any:
    return typer.Option(help=text, rich_help_panel="Options for another tool's ONNX", **settings)


_RGB: dict[str, Any] = {"parser": Rgb.parse, "metavar": "X or R,G,B"}
_FIELDS: dict[str, Any] = {
    "preprocessing": Annotated[
        PresetName | None,
        _option(
            "Rules of a library: torchvision, timm, inception, clip, keras-tf, keras-torch, keras-caffe, keras-raw, "
            "caffe, ultralytics, paddle, raw (values 0..255). Options below override it.",
            metavar="LIBRARY",
        ),
    ],
    "resize": Annotated[Resize | None, _option("Resize both sides, or the shorter one.  [default: shorter-side]")],
    "resize_to": Annotated[
        int | None, _option("Pixels before the crop.  [default: 256 for a crop of 224; none for stretch]")
    ],
    "crop_pct": Annotated[float | None, _option("Share crop / pixels before the crop, instead of --resize-to.")],
    "crop": Annotated[
        Size | None,
        _option("Size of the input, for a model that leaves it free.", parser=Size.parse, metavar="N or HxW"),
    ],
    "crop_offset": Annotated[
        CropOffset | None, _option("Rounding of the crop's offset; Hugging Face's is floor.  [default: round]")
    ],
    "interpolation": Annotated[Interpolation | None, _option("Filter of the resize.  [default: bilinear]")],
    "channels": Annotated[Channels | None, _option("What the model computes on.  [default: by its input]")],
    "mean": Annotated[Rgb | None, _option("Mean of the pixel values, red first also for bgr.", **_RGB)],
    "std": Annotated[Rgb | None, _option("Standard deviation of the pixel values.", **_RGB)],
    "scale": Annotated[Scale | None, _option("Pixel values that --mean and --std are for.  [default: 0..1]")],
    "labels": Annotated[
        Path | None,
        _option("Labels: text, CSV, JSON or YAML file, folder with one subfolder per class, or 'imagenet1k'."),
    ],
    "output_name": Annotated[str | None, _option("Output with the class scores, if there are several.")],
    "activation": Annotated[
        Activation | None, _option("What makes probabilities of the outputs.  [default: by the graph, else softmax]")
    ],
}


def with_import_options(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with one option per field of its parameter ``import_options``."""

    @functools.wraps(command)
    def run(**kwargs: Any) -> None:
        fields = {name: kwargs.pop(name, None) for name in _FIELDS}
        command(**kwargs, **{_PARAMETER: ImportOptions(**fields)})

    # Resolved here: Typer reads the signature of ``run``, whose annotations would be names of another module.
    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name == _PARAMETER:
            parameters += [parameter.replace(name=n, annotation=kind, default=None) for n, kind in _FIELDS.items()]
        else:
            parameters.append(parameter)
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    return run
