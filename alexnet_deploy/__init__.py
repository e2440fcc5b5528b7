"""From a folder of labelled photos to an AlexNet engine one can trust.

The Python API: stages are functions that take and return paths, and ``open_engine`` returns an engine to call. The
command line (``alexnet-deploy``) runs the same functions. Importing the package loads nothing heavy. A name below is
imported at its first use and needs the extra of its room (``pip install 'alexnet-deploy[export]'``).

    import alexnet_deploy as ad

    onnx = ad.export("checkpoint.safetensors", "engines/mine.onnx")
    bundle = ad.build_engine(onnx, "engines/mine-int8", precision="int8", calibration_data="photos/train")
    with ad.open_engine(bundle) as engine:
        for prediction in engine.predict("photos/new"):
            print(prediction.file, prediction.top[0].label)
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# ONNX Runtime reads it when it is imported. Without it, version 1.29 and later write a device id and a database below
# the home folder and a file of a fixed name in the temporary folder, and send usage data (Linux, macOS). The opt-out of
# OpenVINO is in runtime/openvino_runner.py.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:  # a type checker sees the names; at run time ``__getattr__`` imports them
    from alexnet_deploy.adoption.import_options import ImportOptions as ImportOptions
    from alexnet_deploy.build.engine import build_engine as build_engine
    from alexnet_deploy.build.settings import BuildSettings as BuildSettings
    from alexnet_deploy.bundle.plan_options import PlanOptions as PlanOptions
    from alexnet_deploy.contract import BatchProfile as BatchProfile
    from alexnet_deploy.contract import ModelContract as ModelContract
    from alexnet_deploy.contract import Preprocessing as Preprocessing
    from alexnet_deploy.errors import ArtifactError as ArtifactError
    from alexnet_deploy.errors import DeployError as DeployError
    from alexnet_deploy.errors import InputError as InputError
    from alexnet_deploy.errors import ProofError as ProofError
    from alexnet_deploy.errors import UnavailableError as UnavailableError
    from alexnet_deploy.errors import UsageError as UsageError
    from alexnet_deploy.evaluation.comparison.compare import Comparison as Comparison
    from alexnet_deploy.evaluation.comparison.compare import compare as compare
    from alexnet_deploy.evaluation.evaluate import Evaluation as Evaluation
    from alexnet_deploy.evaluation.evaluate import evaluate as evaluate
    from alexnet_deploy.features.duplicates import Duplicates as Duplicates
    from alexnet_deploy.features.duplicates import find_duplicates as find_duplicates
    from alexnet_deploy.features.extract import extract_features as extract_features
    from alexnet_deploy.features.extract import features_of as features_of
    from alexnet_deploy.features.neighbours import Neighbours as Neighbours
    from alexnet_deploy.features.neighbours import find_neighbours as find_neighbours
    from alexnet_deploy.inference.engine import OpenEngine as OpenEngine
    from alexnet_deploy.inference.engine import open_engine as open_engine
    from alexnet_deploy.inference.prediction import Answer as Answer
    from alexnet_deploy.inference.prediction import Prediction as Prediction
    from alexnet_deploy.model.export import export as export
    from alexnet_deploy.profiling.engine import EngineProfile as EngineProfile
    from alexnet_deploy.profiling.engine import profile as profile
    from alexnet_deploy.profiling.settings import ProfileSettings as ProfileSettings
    from alexnet_deploy.sensitivity.layers import Diagnosis as Diagnosis
    from alexnet_deploy.sensitivity.layers import diagnose as diagnose
    from alexnet_deploy.sensitivity.settings import DiagnoseSettings as DiagnoseSettings

_NAMES = {
    "adoption.import_options": "ImportOptions",
    "build.engine": "build_engine",
    "build.settings": "BuildSettings",
    "bundle.plan_options": "PlanOptions",
    "contract": "BatchProfile ModelContract Preprocessing",
    "errors": "ArtifactError DeployError InputError ProofError UnavailableError UsageError",
    "evaluation.comparison.compare": "Comparison compare",
    "evaluation.evaluate": "Evaluation evaluate",
    "features.duplicates": "Duplicates find_duplicates",
    "features.extract": "extract_features features_of",
    "features.neighbours": "Neighbours find_neighbours",
    "inference.engine": "OpenEngine open_engine",
    "inference.prediction": "Answer Prediction",
    "model.export": "export",
    "profiling.engine": "EngineProfile profile",
    "profiling.settings": "ProfileSettings",
    "sensitivity.layers": "Diagnosis diagnose",
    "sensitivity.settings": "DiagnoseSettings",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "Answer",
    "ArtifactError",
    "BatchProfile",
    "BuildSettings",
    "Comparison",
    "DeployError",
    "DiagnoseSettings",
    "Diagnosis",
    "Duplicates",
    "EngineProfile",
    "Evaluation",
    "ImportOptions",
    "InputError",
    "ModelContract",
    "Neighbours",
    "OpenEngine",
    "PlanOptions",
    "Prediction",
    "Preprocessing",
    "ProfileSettings",
    "ProofError",
    "UnavailableError",
    "UsageError",
    "__version__",
    "build_engine",
    "compare",
    "diagnose",
    "evaluate",
    "export",
    "extract_features",
    "features_of",
    "find_duplicates",
    "find_neighbours",
    "open_engine",
    "profile",
]


if not TYPE_CHECKING:  # a type checker would take any misspelt name for one of these

    def __getattr__(name: str) -> Any:
        module = _MODULE_OF.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
