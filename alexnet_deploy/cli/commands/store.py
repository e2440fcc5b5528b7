"""What there is: the engine store, one bundle, an architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.bundle.manifest import list_bundles, verify
from alexnet_deploy.bundle.store import find_bundle
from alexnet_deploy.cli.commands import show, show_confidence
from alexnet_deploy.cli.engines import needs
from alexnet_deploy.cli.options import STORE, Json, Store
from alexnet_deploy.cli.terminal import out


def engines(store: Store = STORE, json_: Json = False) -> None:
    """List the engine store."""
    show.store(out, store, list_bundles(store), as_json=json_)


def inspect(
    engine: Annotated[str, typer.Argument(help="Bundle: a name in the store, or a path.")],
    engines: Store = STORE,
    json_: Json = False,
) -> None:
    """Show one bundle: contract, files, plans and the precision that each layer got. Verifies every checksum."""
    directory = find_bundle(engine, engines)
    manifest = verify(directory)
    show.bundle(out, directory, manifest, as_json=json_, layers=True)
    if not json_:
        show_confidence.temperature(out, directory, manifest.contract)


def summary(
    arch: Annotated[
        str, typer.Argument(help="alexnet, alexnet-2012, alexnet-review, alexnet-review-code, or a checkpoint.")
    ] = "alexnet",
    num_classes: Annotated[int, typer.Option(help="Classes of a named architecture.")] = 1000,
) -> None:
    """Print each layer's output shape and parameters."""
    with needs("export"):
        from alexnet_deploy.model.architecture import FAMILY, architecture
        from alexnet_deploy.model.summary import layer_table
    if arch not in FAMILY and Path(arch).suffix == ".safetensors":
        from alexnet_deploy.model.checkpoint import load_checkpoint

        print(layer_table(load_checkpoint(Path(arch)).arch))
    else:
        print(layer_table(architecture(arch, num_classes=num_classes)))
