"""``summary``: the layers of a model, its first filters, and what its layers make of a photo."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import needs
from alexnet_deploy.cli.output.replace import check_output
from alexnet_deploy.cli.output.tables import add_row, print_json, print_line, table
from alexnet_deploy.cli.output.terminal import note_written, out
from alexnet_deploy.contract import NEW_DECODING, ArchitectureName, ModelContract
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.files import check_directory

if TYPE_CHECKING:
    import onnx

    from alexnet_deploy.model.checkpoint import Checkpoint


@opt.with_import_options
def summary(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=opt.complete_engine,
            help="alexnet, alexnet-2012, alexnet-review, alexnet-review-code, a checkpoint, a bundle or an ONNX file.",
        ),
    ] = "alexnet",
    num_classes: Annotated[
        int | None, typer.Option(help="Number of classes of a named architecture.  [default: 1000]")
    ] = None,
    filters: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Picture to write: the filters of the first layer.")
    ] = None,
    activations: Annotated[
        Path | None, typer.Option(metavar="PHOTO", help="Photo to draw the outputs of the layers for, into --output.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder to write: a PNG per layer.")
    ] = None,
    import_options: opt.ImportOptions = opt.NO_IMPORT_OPTIONS,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Print the layers of a model, or draw what is in it.

    Printed are the output shape and the parameters of each layer. Pictures, of filters and activations, need trained
    weights: a checkpoint, a bundle or an ONNX file.
    """
    if (activations is None) != (output is None):
        raise UsageError("`activations` and `output` belong together; give both, or none")
    if json_ and (filters or activations):
        raise UsageError("`json` prints the layers, and `filters` and `activations` draw; leave one of them out")
    if filters is not None:
        check_output(filters, "filters", (model, activations, import_options.labels), formats=(".png",))
    if output is not None:
        if output.is_dir() and any(output.iterdir()):
            raise UsageError(f"`output` {output}: is not empty; name a new folder")
        check_directory(output)
    with _opened(model, num_classes, import_options, store) as found:
        if json_:
            print_json({"model": found.name, "layers": found.rows()})
            return
        if filters is None and activations is None:
            found.print_layers()
            return
        if filters is not None:
            _draw_filters(found, filters)
        if activations is not None and output is not None:
            _draw_activations(found, activations, output)


@dataclass(frozen=True, slots=True)
class _Network:
    """A named architecture: no weights, so no pictures."""

    name: str
    arch: Any

    def print_layers(self) -> None:
        from alexnet_deploy.model.summary import layer_table

        out.print(layer_table(self.arch), soft_wrap=True)

    def rows(self) -> list[dict[str, Any]]:
        from alexnet_deploy.model.summary import layer_rows

        return layer_rows(self.arch)


@dataclass(frozen=True, slots=True)
class _Weights:
    """A checkpoint."""

    name: str
    checkpoint: Checkpoint

    def print_layers(self) -> None:
        _Network(self.name, self.checkpoint.arch).print_layers()

    def rows(self) -> list[dict[str, Any]]:
        return _Network(self.name, self.checkpoint.arch).rows()


@dataclass(frozen=True)  # without slots, for its cached property
class _Graph:
    """A bundle or an ONNX file."""

    name: str
    graph: onnx.ModelProto
    contract: ModelContract

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The number of parameters by the names of the nodes with weights."""
        from alexnet_deploy.onnx_graph.weight_values import layers_with_weights

        return {
            layer.node.name: layer.weight.size + (0 if layer.bias is None else layer.bias.size)
            for layer in layers_with_weights(self.graph)
        }

    def rows(self) -> list[dict[str, Any]]:
        from alexnet_deploy.onnx_graph.cut import layers_in

        operators = {node.name: node.op_type for node in self.graph.graph.node}
        return [
            {
                "layer": layer.name,
                "operator": operators[layer.node],
                "output": layer.shape,
                "parameters": self.sizes.get(layer.node, 0),
            }
            for layer in layers_in(self.graph)
        ]

    def print_layers(self) -> None:
        grid = table("layer", "operator", "output", ">parameters")
        for row in self.rows():
            size = row["parameters"]
            shape = " x ".join(map(str, row["output"]))
            add_row(grid, (row["layer"], row["operator"], shape, f"{size:,}" if size else ""))
        out.print(grid)
        print_line(f"{sum(self.sizes.values()):,} parameters in {len(self.sizes)} layers with weights")


_Found = _Network | _Weights | _Graph


@contextmanager
def _opened(model: str, num_classes: int | None, import_options: opt.ImportOptions, store: Path) -> Iterator[_Found]:
    """What ``model`` means; an imported ONNX lasts as long as the block."""
    is_named = model in get_args(ArchitectureName)
    is_checkpoint = not is_named and model.endswith(".safetensors")
    # os.path, because Path's methods raise for a name that is too long
    is_bundle = not is_named and any(os.path.isdir(each) for each in (model, store / model))
    if is_bundle or model.endswith(".onnx"):
        from alexnet_deploy.bundle.store import resolve_engine
        from alexnet_deploy.bundle.verified import held
        from alexnet_deploy.onnx_graph.onnx_file import load_onnx

        _refuse(num_classes, model)
        with resolve_engine(model, store, import_options, verify=False, features=True) as engine:
            with held(engine):
                graph = load_onnx(engine.onnx_path)
            yield _Graph(model, graph, engine.contract)
        return
    if given := import_options.given():
        raise UsageError(f"`{given[0]}`: is for an ONNX of another tool, and {model} is none; leave it out")
    if not (is_named or is_checkpoint):
        known = ", ".join(get_args(ArchitectureName))
        raise UsageError(
            f"`model` {model}: unknown; name {known}, a checkpoint (.safetensors), a bundle of {store}/ or an ONNX file"
        )
    with needs("export"):
        from alexnet_deploy.model.architecture import get_architecture
        from alexnet_deploy.model.checkpoint import load_checkpoint
    if is_checkpoint:
        _refuse(num_classes, model)
        yield _Weights(model, load_checkpoint(Path(model)))
    else:
        yield _Network(model, get_architecture(model, num_classes=1000 if num_classes is None else num_classes))


def _refuse(num_classes: int | None, model: str) -> None:
    if num_classes is not None:
        raise UsageError(f"`num_classes` {num_classes}: {model} has its own number; leave it out")


def _no_weights(name: str) -> InputError:
    return InputError(f"{name}: is an architecture without weights, so there is nothing to draw; name a checkpoint")


def _draw_filters(found: _Found, path: Path) -> None:
    from alexnet_deploy.explanation.filters import describe_filters, draw_filters, first_filters, write_filters

    if isinstance(found, _Network):
        raise _no_weights(found.name)
    if isinstance(found, _Weights):
        from alexnet_deploy.model.inside import first_convolution

        layer, weight = first_convolution(found.checkpoint)
        channels = found.checkpoint.contract.preprocessing.channels
    else:
        layer, weight = first_filters(found.graph, found.name)
        channels = found.contract.preprocessing.channels
    picture = draw_filters(weight, channels, found.name)
    write_filters(picture, path)
    print_line(describe_filters(layer, weight))
    note_written(path)


def _draw_activations(found: _Found, photo: Path, output: Path) -> None:
    from alexnet_deploy.images.decode import load_pixels

    if isinstance(found, _Network):
        raise _no_weights(found.name)
    with needs("cpu"):
        from alexnet_deploy.explanation.activations import NORMALISATION, LayerMaps, maps_of_onnx, write_maps
    if isinstance(found, _Weights):
        from alexnet_deploy.model.inside import feature_maps

        pixels = load_pixels(photo, found.checkpoint.contract.decoded(NEW_DECODING).preprocessing)
        layers = [LayerMaps(*each) for each in feature_maps(found.checkpoint, pixels)]
    else:
        pixels = load_pixels(photo, found.contract.preprocessing)
        layers = maps_of_onnx(found.graph, pixels, found.name)
    names = write_maps(layers, output)
    grid = table("layer", "kind", "maps", ">zero %", ">silent maps", ">largest", "picture")
    for layer, name in zip(layers, names, strict=True):
        shape = " x ".join(map(str, layer.maps_CHW.shape))
        figures = (f"{layer.zero_percent:.0f}", layer.silent, f"{layer.maps_CHW.max():.3g}")
        add_row(grid, (layer.name, layer.kind, shape, *figures, name))
    out.print(grid)
    print_line(NORMALISATION)
    note_written(output)
