"""Logits to probabilities, in Triton's Python backend: by the activation and the calibration of the contract.

The formulas are those of alexnet-deploy, whose own source lies beside this file.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

HERE = Path(__file__).parent
if sys.version_info < (3, 11):  # noqa: UP036 -- Triton's Python, not ours
    raise RuntimeError("this model needs Python 3.11 or later; see docs/triton.md of alexnet-deploy")
sys.path.insert(0, str(HERE))

from alexnet_deploy.contract import ModelContract  # noqa: E402
from alexnet_deploy.probabilities import finite_rows, probabilities  # noqa: E402


class TritonPythonModel:
    """Float32 logits [N, K] -> float32 probabilities [N, K]. A request with a logit that is no number is refused."""

    def initialize(self, args: dict[str, str]) -> None:
        self._contract = ModelContract.from_json((HERE / "contract.json").read_bytes(), source="contract.json")

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        contract = self._contract
        logits = pb_utils.get_input_tensor_by_name(request, contract.output_name).as_numpy()
        if not finite_rows(logits).all():
            error = pb_utils.TritonError("the model's output is not finite; try an engine of higher precision")
            return pb_utils.InferenceResponse(error=error)
        values = probabilities(logits, contract).astype(np.float32)
        return pb_utils.InferenceResponse([pb_utils.Tensor("probabilities", values)])
