"""LitServe with our decoder and runner, for ``serving``: python -m benchmarks.serving.litserve_peer BUNDLE PORT

Written as its documentation shows: a form with a file in, batches of up to 32 within 2 ms, one worker.
"""

import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Request

from alexnet_deploy import open_engine
from alexnet_deploy.images.decode import open_rgb, to_pixels
from alexnet_deploy.inference.predict import top_answers


class Api(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.engine = open_engine(sys.argv[1])
        self.pre = self.engine.contract.preprocessing

    def decode_request(self, request: Request) -> np.ndarray:  # it reads the annotation, and hands over the form
        if "photo" in request:
            return to_pixels(open_rgb(request["photo"].file.read()), self.pre)
        return np.frombuffer(request["pixels"].file.read(), np.uint8).reshape(self.pre.height, self.pre.width, 3)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        return self.engine(pixels)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> list[dict[str, Any]]:
        (answers,) = top_answers(output[np.newaxis], self.engine.contract, 5)
        return [{"index": a.index, "label": a.label, "probability": a.probability} for a in answers]


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(max_batch_size=32, batch_timeout=0.002), accelerator="cpu", devices=1, workers_per_device=1
    )
    print(f"ready on {sys.argv[2]}", file=sys.stderr, flush=True)
    server.run(port=int(sys.argv[2]), host="127.0.0.1", log_level="error", generate_client_file=False)
