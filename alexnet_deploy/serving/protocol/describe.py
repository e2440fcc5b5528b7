"""Metadata and configuration of a model, as both protocols and Triton's clients read them."""

from __future__ import annotations

from typing import Any

from alexnet_deploy.serving.engines.engine import ServedEngine
from alexnet_deploy.serving.engines.models import Models
from alexnet_deploy.serving.protocol.tensors import describe_inputs, describe_outputs

EXTENSIONS = ["classification", "binary_tensor_data", "model_configuration", "statistics"]
_TYPES = {"UINT8": "TYPE_UINT8", "BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "BOOL": "TYPE_BOOL"}


def describe_model(engine: ServedEngine) -> dict[str, Any]:
    """The model's metadata."""
    return {
        "name": engine.name,
        "versions": [engine.version],
        "platform": f"alexnet-deploy_{engine.runtime}",
        "inputs": describe_inputs(engine),
        "outputs": describe_outputs(engine),
    }


def model_config(engine: ServedEngine) -> dict[str, Any]:
    """The fields of Triton's ModelConfig that apply. Dimensions leave out that of the batch."""
    return {
        "name": engine.name,
        "platform": f"alexnet-deploy_{engine.runtime}",
        "backend": "alexnet-deploy",
        "max_batch_size": engine.max_batch,
        "input": [_tensor(given) | {"optional": True} for given in describe_inputs(engine)],
        "output": [_tensor(given) for given in describe_outputs(engine)],
        "dynamic_batching": {"max_queue_delay_microseconds": round(1e6 * engine.max_delay_s)},
    }


def statistics(models: Models, name: str | None = None, version: str = "") -> dict[str, Any]:
    """What Triton's statistics extension answers for a model (None: for all that are loaded)."""
    names = [model["name"] for model in models.index(ready_only=True)] if name is None else [name]
    engines = [models.get(found, version) for found in names]
    return {"model_stats": [models.statistics(engine.name).as_dict(engine.name, engine.version) for engine in engines]}


def _tensor(given: dict[str, Any]) -> dict[str, Any]:
    dims = given["shape"][1:]
    tensor = {"name": given["name"], "data_type": _TYPES[given["datatype"]], "dims": dims or [1]}
    return tensor if dims else tensor | {"reshape": {"shape": []}}
