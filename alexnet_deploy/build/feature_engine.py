"""A bundle that ends at a layer: its typed ONNX is cut there, before any plan is built of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from alexnet_deploy.bundle.manifest import MODEL
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.onnx_graph.cut import cut_after, find_layer
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, save_onnx, set_contract
from alexnet_deploy.precision.float_model import FloatModel


def require_layer(model: FloatModel, until: str) -> None:
    """UsageError that lists the layers for an unknown one, before the work."""
    find_layer(load_onnx(model.path), until, source=model.source, parameter="until")


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
