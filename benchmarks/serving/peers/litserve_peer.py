"""LitServe with our decoder and runner: python -m benchmarks.serving.peers.litserve_peer BUNDLE PORT WORKERS

Written as its documentation shows: a form with a file in, ``decode_request``, ``batch``, ``predict``, ``unbatch``. It
says to choose the batch size and the timeout by experiment: 8 and 2 ms are what ours uses, and what suits the engine on
a CPU. As it recommends there are as many HTTP servers as workers. The workers share the cores, so WORKERS of them have
one engine thread per core together.
"""

import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Request

from alexnet_deploy import open_engine
from alexnet_deploy.images.decode import open_photo, to_pixels
from alexnet_deploy.inference.rows import top_answers
from alexnet_deploy.machine.cpu import cores

BUNDLE, PORT, WORKERS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


class Api(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.engine = open_engine(BUNDLE, threads=max(1, cores() // WORKERS))
        self.pre = self.engine.contract.preprocessing

    def decode_request(self, request: Request) -> np.ndarray:  # it reads the annotation, and hands over the form
        if "photo" in request:
            return to_pixels(open_photo(request["photo"].file.read(), self.pre), self.pre)
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
        Api(max_batch_size=8, batch_timeout=0.002), accelerator="cpu", devices=1, workers_per_device=WORKERS
    )
    server.run(port=PORT, host="127.0.0.1", log_level="error", generate_client_file=False)
