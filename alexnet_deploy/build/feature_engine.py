"""A bundle that ends at a layer: its typed ONNX is cut there, before any plan is built of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from alexnet_deploy.bundle.manifest import MODEL
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import UsageError
from alexnet_deploy.onnx_graph.cut import cut_after, find_layer
from alexnet_deploy.onnx_graph.onnx_file import layer_of, load_onnx, save_onnx, set_contract
from alexnet_deploy.onnx_graph.weight_values import layers_with_weights
from alexnet_deploy.precision.float_model import FloatModel


def require_layer(model: FloatModel, until: str) -> None:
    """UsageError, before the work: for an unknown layer, which lists the layers, and for one that needs no weights.

    Up to that one there is nothing to build: no precision of a layer, and no features.
    """
    graph = load_onnx(model.path)
    layer = find_layer(graph, until, source=model.source, parameter="until")
    with_weights = [layer_of(each.node) for each in layers_with_weights(graph)]
    cut_after(graph, layer, model.contract)
    if with_weights and not layers_with_weights(graph):
        raise UsageError(
            f"`until` {until}: {model.source} has no layer with weights up to there, so these are the pixels and no "
            f"features; name {with_weights[0]} or a later layer"
        )


def end_at(model: FloatModel, folder: Path, until: str) -> FloatModel:
    """Cut the typed ONNX in ``folder`` at the layer ``until``, and the float one to compare it with.

    The typed graph is cut, not the float one before its types are chosen: so the features are those that the whole
    engine computes inside.
    """
    typed = folder / MODEL
    contract = _cut(typed, until, model.contract, model.source)
    if model.path.exists():  # that of an fp32 bundle has moved into it
        _cut(model.path, until, model.contract, model.source, recorded=contract)
    return replace(model, contract=contract)


def _cut(
    path: Path, until: str, contract: ModelContract, source: str, *, recorded: ModelContract | None = None
) -> ModelContract:
    graph = load_onnx(path)
    cut = cut_after(graph, find_layer(graph, until, source=source, parameter="until"), contract)
    if recorded is not None:
        set_contract(graph, recorded)
    save_onnx(graph, path)
    return cut
