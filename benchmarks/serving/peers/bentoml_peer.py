"""BentoML with our decoder and runner; PEER_ENGINE and PEER_WORKERS tell it the bundle and the number of processes:

    python -m bentoml serve benchmarks.serving.peers.bentoml_peer:Classifier

Written as its documentation shows: batchable APIs, images as files. Its dispatcher chooses size and delay of a batch
from the load; ``max_latency_ms`` is where it begins to refuse requests, not a delay. Batches of up to 8, as ours and as
suits the engine on a CPU. Pixels come as a file as well: its own way for arrays, JSON, has 0.5 MB per image. The
default of one worker is for models that use several cores, as the engine does. The workers share the cores, so
PEER_WORKERS of them have one engine thread per core together; photos of a batch are decoded on as many threads.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bentoml
import numpy as np

from alexnet_deploy import open_engine
from alexnet_deploy.images.decode import open_photo, to_pixels
from alexnet_deploy.inference.rows import top_answers
from alexnet_deploy.machine.cpu import cores

WORKERS = int(os.environ["PEER_WORKERS"])
BATCHES = {"batchable": True, "max_batch_size": 8, "max_latency_ms": 10_000}


@bentoml.service(workers=WORKERS, logging={"access": {"enabled": False}})
class Classifier:
    def __init__(self) -> None:
        threads = max(1, cores() // WORKERS)
        self.engine = open_engine(os.environ["PEER_ENGINE"], threads=threads)
        self.pre = self.engine.contract.preprocessing
        self.pool = ThreadPoolExecutor(threads)

    @bentoml.api(**BATCHES)
    def classify_photos(self, photos: list[Path]) -> list[list[dict[str, Any]]]:
        return self._answers(list(self.pool.map(self._decode, photos)))

    @bentoml.api(**BATCHES)
    def classify_pixels(self, pixels: list[Path]) -> list[list[dict[str, Any]]]:
        shape = (self.pre.height, self.pre.width, 3)
        return self._answers([np.fromfile(file, np.uint8).reshape(shape) for file in pixels])

    def _decode(self, photo: Path) -> np.ndarray:
        return to_pixels(open_photo(photo.read_bytes(), self.pre), self.pre)

    def _answers(self, pixels: list[np.ndarray]) -> list[list[dict[str, Any]]]:
        return [
            [{"index": a.index, "label": a.label, "probability": a.probability} for a in answers]
            for answers in top_answers(self.engine(np.stack(pixels)), self.engine.contract, 5)
        ]
