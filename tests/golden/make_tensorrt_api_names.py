"""Cut a listing of TensorRT's Python API down to what tests/runtime/tensorrt/test_names.py compares with.

    python tests/golden/make_tensorrt_api_names.py LISTING.json

LISTING.json is ``{"tensorrt 11.4": {class or function: [its public members]}, ...}``, as ``dir()`` gives them on the
binding wheels ``tensorrt-cu13-bindings`` 10.16 and 11.4, and on ``tensorrt-rtx-cu13`` 1.7.1. Each library keeps, of
the classes below, which it has (under ``""``) and their members.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

CLASSES = (
    "Builder",
    "BuilderFlag",
    "ComputeCapability",
    "CudaGraphStrategy",
    "DataType",
    "DynamicShapesKernelSpecializationStrategy",
    "EngineInspector",
    "EngineInvalidityDiagnostics",
    "EngineValidity",
    "HardwareCompatibilityLevel",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IIdentityLayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProfiler",
    "IProgressMonitor",
    "IRuntimeCache",
    "IRuntimeConfig",
    "IStreamWriter",
    "ITensor",
    "ITimingCache",
    "LayerInformationFormat",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "ProfilingVerbosity",
    "Runtime",
    "TensorIOMode",
)


def cut(listing: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, list[str]]]:
    """The names of each library's module, and the members of ``CLASSES``."""
    return {
        library: {"": [name for name in CLASSES if name in classes]}
        | {name: classes[name] for name in CLASSES if name in classes}
        for library, classes in listing.items()
    }


if __name__ == "__main__":
    kept = cut(json.loads(Path(sys.argv[1]).read_text()))
    lines = [
        f" {json.dumps(library)}: {{\n"
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(members)}" for name, members in classes.items())
        + "\n }"
        for library, classes in kept.items()
    ]
    Path(__file__).with_name("tensorrt_api_names.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
