"""Engines that end at a layer inside: their output is the features of an image instead of its classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_deploy.bundle.manifest import MODEL, Engine
from alexnet_deploy.errors import InputError, UnavailableError, UsageError

if TYPE_CHECKING:
    import onnx

    from alexnet_deploy.onnx_graph.cut import Layer

MAPS = "*"
"""As a layer: the last one whose output still has places of the picture, else the one before the last."""


def refuse_features(engine: Engine) -> None:
    """InputError for an engine whose output are features: it names no class."""
    features = engine.contract.features
    if features is not None:
        raise InputError(
            f"{engine.name}: is a feature engine: it ends at layer {features.layer} and names no class; use it with: "
            "alexnet-deploy features or serve, or name an engine for the whole network"
        )


def cut_engine(engine: Engine, layer: str | None, folder: Path) -> Engine:
    """``engine`` up to ``layer`` (None: the one before the last), as an ONNX file in ``folder``.

    It has no plan: a plan ends where it was built to end. An engine that ends at a layer already is returned as it is.
    Raises UsageError that lists the layers for an unknown one, or for an engine that ends at another one, and
    UnavailableError without the onnx package.
    """
    ends_at = engine.contract.features
    if ends_at is not None:
        if layer == MAPS and not ends_at.has_places:
            raise UsageError(
                f"{engine.name}: is a feature engine: it ends at layer {ends_at.layer} {list(ends_at.shape)}, whose "
                "output has no places of a picture, which this compares; name an engine for the whole network"
            )
        if layer not in (None, MAPS, ends_at.layer):
            raise UsageError(
                f"{engine.name}: is a feature engine: it ends at layer {ends_at.layer} and cannot give the output of "
                f"layer {layer}; name an engine for the whole network, or one that ends at {layer}"
            )
        return engine
    try:
        from alexnet_deploy.onnx_graph.cut import cut_after
        from alexnet_deploy.onnx_graph.onnx_file import load_onnx, save_onnx
    except ModuleNotFoundError as exc:
        if exc.name != "onnx":
            raise
        raise UnavailableError(
            f"{engine.name}: cutting a graph at a layer needs the onnx package; pip install onnx, or use a feature "
            "engine (build-engine)"
        ) from exc
    model = load_onnx(engine.onnx_path)
    contract = cut_after(model, choose_layer(model, layer, source=engine.name), engine.contract)
    path = save_onnx(model, folder / MODEL)
    return Engine(engine.name, path, contract, engine.precision, None, sha256=engine.content_sha256())


def choose_layer(model: onnx.ModelProto, layer: str | None, *, source: str) -> Layer:
    """The layer that ``layer`` stands for: a name, ``MAPS``, or None for the one before the last."""
    from alexnet_deploy.onnx_graph.cut import find_layer, last_maps, layer_before_last

    if layer == MAPS and (maps := last_maps(model)) is not None:
        return maps
    if layer is None or layer == MAPS:
        return layer_before_last(model, source=source)
    return find_layer(model, layer, source=source)
