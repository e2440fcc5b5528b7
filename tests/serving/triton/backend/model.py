"""Stands in for Triton's ONNX Runtime backend, which the server of nvidia-pytriton lacks.

The server loads it for ``backend: "onnxruntime"``, so a repository runs unmodified. As the real one it refuses a
configuration that differs from the model. It runs in the Python of the server.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

ONNX_TYPES = {"TYPE_UINT8": "tensor(uint8)", "TYPE_FP32": "tensor(float)"}


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        version = Path(args["model_repository"], args["model_version"])
        self._session = onnxruntime.InferenceSession(version / config["default_model_filename"])
        batch = ["-1"] if config["max_batch_size"] else []
        for declared, found in (
            (config["input"], self._session.get_inputs()),
            (config["output"], self._session.get_outputs()),
        ):
            wanted = [(t["name"], ONNX_TYPES[t["data_type"]], [*batch, *map(str, t["dims"])]) for t in declared]
            has = [(t.name, t.type, [str(d) if isinstance(d, int) else "-1" for d in t.shape]) for t in found]
            if wanted != has:
                raise pb_utils.TritonModelException(f"config.pbtxt has {wanted}, the model {has}")
        self._input, self._output = config["input"][0]["name"], config["output"][0]["name"]
        self._batches = bool(config["max_batch_size"])

    def execute(self, requests):
        given = [pb_utils.get_input_tensor_by_name(request, self._input).as_numpy() for request in requests]
        if self._batches:  # all requests at once, as the real one
            (logits,) = self._session.run([self._output], {self._input: np.concatenate(given)})
            parts = np.split(logits, np.cumsum([len(pixels) for pixels in given])[:-1])
        else:
            parts = [self._session.run([self._output], {self._input: pixels})[0] for pixels in given]
        return [pb_utils.InferenceResponse([pb_utils.Tensor(self._output, part)]) for part in parts]
