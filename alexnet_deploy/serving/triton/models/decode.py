"""Encoded images to pixels, in Triton's Python backend.

The decoding is that of alexnet-deploy, whose own source lies beside this file: the pixels are those that its command
line, its calibration and its evaluation see. It needs Python 3.11, NumPy, Pillow and msgspec (requirements.txt).
"""

import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from numpy.typing import NDArray

HERE = Path(__file__).parent
if sys.version_info < (3, 11):  # noqa: UP036 -- Triton's Python, not ours
    raise RuntimeError("this model needs Python 3.11 or later; see docs/triton.md of alexnet-deploy")
sys.path.insert(0, str(HERE))

from alexnet_deploy.contract import ModelContract  # noqa: E402
from alexnet_deploy.errors import InputError  # noqa: E402
from alexnet_deploy.images.decode import open_photo, to_pixels  # noqa: E402


class TritonPythonModel:
    """``image`` BYTES, whole files -> uint8 pixels [N, H, W, 3]. A request with an image that is none, is refused."""

    def initialize(self, args: dict[str, str]) -> None:
        contract = ModelContract.from_json((HERE / "contract.json").read_bytes(), source="contract.json")
        self._preprocessing = contract.preprocessing
        self._output = contract.input_name
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    def execute(self, requests: list[Any]) -> list[Any]:
        jobs = []
        for request in requests:
            images = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().ravel()
            jobs.append([self._pool.submit(self._decode, number, image) for number, image in enumerate(images)])
        return [self._response(job) for job in jobs]

    def finalize(self) -> None:
        self._pool.shutdown()

    def _decode(self, number: int, image: bytes) -> NDArray[np.uint8]:
        pre = self._preprocessing
        return to_pixels(open_photo(bytes(image), pre, name=f"image {number}"), pre)

    def _response(self, jobs: list[Future[NDArray[np.uint8]]]) -> Any:
        try:
            pixels = np.stack([job.result() for job in jobs])
        except InputError as exc:
            error = pb_utils.TritonError(str(exc), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        return pb_utils.InferenceResponse([pb_utils.Tensor(self._output, pixels)])
