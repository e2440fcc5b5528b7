"""An engine's ONNX in Triton's Python backend, run as ``alexnet_deploy.runtime.openvino_runner`` runs it.

It runs in the Python of the server, which has no alexnet-deploy.
"""

import json
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

sys.modules["openvino_telemetry"] = None  # it sends usage data
import openvino as ov  # noqa: E402


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        onnx = Path(args["model_repository"], args["model_version"], "model.onnx")
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        self._request = ov.Core().compile_model(onnx, "CPU", hints).create_infer_request()
        self._input, self._output = config["input"][0]["name"], config["output"][0]["name"]

    def execute(self, requests):
        given = [pb_utils.get_input_tensor_by_name(request, self._input).as_numpy() for request in requests]
        pixels = given[0] if len(given) == 1 else np.concatenate(given)
        logits = self._request.infer({self._input: pixels}, share_inputs=True)[self._output]
        parts = np.split(logits, np.cumsum([len(one) for one in given])[:-1])
        return [pb_utils.InferenceResponse([pb_utils.Tensor(self._output, part)]) for part in parts]
