"""Real plans of small graphs with the installed TensorRT-RTX, which needs no GPU."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from alexnet_deploy.build.plans import BuiltPlans, build_plans
from alexnet_deploy.bundle.manifest import LayerPrecision
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.runtime.tensorrt import library as tensorrt_library
from alexnet_deploy.runtime.tensorrt.library import RTX, TensorRT

TENSORRT_11 = {
    "Name": "__myl_FcAdd_myl0_3",
    "LayerType": "kgen",
    "Inputs": [{"Name": "x", "Dimensions": [8, 64], "Datatype": "Half", "Format": "Row major linear format"}],
    "Constants": [
        {"Name": "b", "Dimensions": [1, 10], "Datatype": "Half", "Format": "Row major linear format"},
        {"Name": "w", "Dimensions": [64, 10], "Datatype": "Half", "Format": "Row major linear format"},
    ],
    "Outputs": [{"Name": "y", "Dimensions": [8, 10], "Datatype": "Float", "Format": "Row major linear format"}],
    "Metadata": "[ONNX Layer: fc]",
}
"""A layer in the form of TensorRT 11's inspector."""


def built(onnx_path: Path, *targets: str, **options: Any) -> BuiltPlans:
    """Plans for batches of 1 to 4, in the folder ``plans`` beside the ONNX."""
    return build_plans(onnx_path, onnx_path.parent / "plans", batch=BatchProfile(1, 2, 4), targets=targets, **options)


def files_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} if directory.exists() else set()


def asked_and_got(layers: tuple[LayerPrecision, ...]) -> list[tuple[str, str, str]]:
    return [(layer.op, layer.asked, layer.got) for layer in layers]


def full_tensorrt(layers: list[dict[str, Any]] | None) -> TensorRT:
    """The full TensorRT: TensorRT-RTX stands in for its builder, ``layers`` for what its inspector reports.

    None: it cannot load what it built.
    """
    rtx = tensorrt_library.load(RTX)
    report = json.dumps({"Layers": layers})
    inspector = SimpleNamespace(get_engine_information=lambda form: report)
    engine = None if layers is None else SimpleNamespace(create_engine_inspector=lambda: inspector)

    class Api:
        Runtime = staticmethod(lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda data: engine))

        def __getattr__(self, name: str) -> Any:
            return getattr(rtx.api, name)

    return TensorRT("tensorrt", "11.4.0.106", Api(), rtx.logger, rtx.messages)
