"""Where the time of one call goes, layer by layer, beside what the machine could do."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_deploy.bundle.store import float_twin, resolve_engine
from alexnet_deploy.cli.commands import show_profile_layers
from alexnet_deploy.cli.engines import needs
from alexnet_deploy.cli.options import STORE, Json, Store, Threads
from alexnet_deploy.cli.terminal import err, out

if TYPE_CHECKING:
    from alexnet_deploy.profiling.layers.times import LayerProfile


def profile_layers(
    engine: Annotated[
        str | None, typer.Argument(help="Bundle (name or path) or ONNX file; else the newest bundle of the store.")
    ] = None,
    beside: Annotated[
        str | None,
        typer.Option(help="Tells why a layer is not faster than there [default: the float model, if in the store]."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Images in a call.")] = 1,
    runtime: Annotated[str, typer.Option(help="auto, tensorrt, openvino or onnxruntime.")] = "auto",
    threads: Threads = None,
    engines: Store = STORE,
    json_: Json = False,
) -> None:
    """Time each layer, and measure how far it is from what this machine's arithmetic and memory allow."""
    with needs("cpu"):
        from alexnet_deploy.profiling.layers.times import profile_layers as profiled
        from alexnet_deploy.profiling.layers.verdicts import verdicts

        profiles: list[LayerProfile] = []
        with ExitStack() as stack:
            found = [stack.enter_context(resolve_engine(engine, engines))]
            other = beside or float_twin(found[0], engines)
            if other is not None:
                found.append(stack.enter_context(resolve_engine(other, engines)))
            for each in found:
                err.print(f"timing the layers of {each.name} ({each.precision})", soft_wrap=True)
                # The second runs where the first did, whatever else could run it.
                profiles.append(profiled(each, profiles[0].runtime if profiles else runtime, batch, threads))
    compared = verdicts(*profiles) if len(profiles) == 2 else ()
    show_profile_layers.layers(out, profiles, compared, as_json=json_)
