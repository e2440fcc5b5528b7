"""The real tritonserver with the repository of ``package --triton --preprocess``, and the same runtime as ours.

The server of nvidia-pytriton has the Python backend alone, so the engine's ONNX is run by ``triton_model.py`` in it.

Batching is as Triton's documentation recommends to begin with, ``dynamic_batching {}``: no preferred sizes, no delay,
so the largest batch that waits starts as soon as the engine is free. With a delay of 2 ms a single client waited twice
as long, and with a bound on the queue (``max_queue_size``) one request in a hundred took 500 ms. Batches are of up to
8, as ours and as suits the engine on a CPU, with one instance, for the engine itself uses all cores.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import text_format

from alexnet_deploy.serving.triton.config_text import model_config
from alexnet_deploy.serving.triton.repository import CONFIG, VERSION, package_triton
from benchmarks.serving.servers import Server
from tests.serving.triton.real_triton import VARIABLE, running_triton

MAX_BATCH = 8


@contextlib.contextmanager
def triton(python: Path, engine: Path) -> Iterator[Server]:
    """A server of ``engine``, asked over gRPC; ``python`` has ``requirements-triton.txt``."""
    os.environ[VARIABLE] = str(python)
    with tempfile.TemporaryDirectory() as name:
        repository = Path(name, "models")
        package_triton([str(engine)], repository, preprocess=True)
        for config in repository.glob(f"*/{CONFIG}"):
            _tune(config)
        shutil.copy(Path(__file__).with_name("triton_model.py"), repository / engine.name / VERSION / "model.py")
        folder = Path(name, "server")
        folder.mkdir()
        with running_triton(repository, folder) as server:
            yield Server(server.grpc_port)  # idle it takes nothing of the cores


def _tune(path: Path) -> None:
    config = text_format.Parse(path.read_text(encoding="utf-8"), model_config()())
    config.max_batch_size = MAX_BATCH
    if config.HasField("dynamic_batching"):
        config.dynamic_batching.Clear()
        config.dynamic_batching.SetInParent()
    for number in reversed(range(len(config.model_warmup))):
        if config.model_warmup[number].batch_size > MAX_BATCH:
            del config.model_warmup[number]
    if config.backend == "onnxruntime":
        config.backend, config.default_model_filename = "python", "model.py"
    path.write_text(text_format.MessageToString(config), encoding="utf-8")
