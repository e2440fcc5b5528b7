"""MLPerf's reference implementation of image classification, under its LoadGen, in the Offline scenario.

    python -m benchmarks.peers.mlperf_peer [REPOSITORY]    # fetches the pinned commit into benchmarks/.cache/mlperf

The parts are the reference's own, fetched and never copied: ``Imagenet`` (OpenCV decodes and preprocesses every image
in threads into a file of its own), the ONNX Runtime backend, ``QueueRunner`` and the post-processing. Not kept: the
sizes of its preprocessing, which are ResNet-50's (the steps are those of its ``imagenet_pytorch``; those of its
``imagenet`` resize with OpenCV's area filter, which gives 8 % of the photos another answer), and performance mode,
which draws images with replacement and repeats them for a minute or more; accuracy mode answers each image once through
the same loop and logs what it answered. MLPerf does not count preprocessing; we do: the question is a folder of photos.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.float_input import with_float_input
from benchmarks.peers.task import BATCH, Classify, Task, resized_to
from benchmarks.peers.torch_peers import torchvision_beside_cpu_torch
from benchmarks.rounds import CACHE, stdout_of

REPOSITORY = "https://github.com/mlcommons/inference.git"
COMMIT = "b66003e10e2db4b8c36a448b0545ec90fcc6e9e9"  # 2026-08-20
SOURCE = CACHE / "mlperf"
PYTHON = "vision/classification_and_detection/python"
LOADED_AT_ONCE = 500
"""The reference's number of images that are in memory together."""


def fetch(repository: str = REPOSITORY, commit: str = COMMIT) -> None:
    """Fetch the reference's folder at ``commit`` into ``SOURCE``, unless it is there. A failure ends the benchmark."""
    if (SOURCE / PYTHON / "main.py").exists():
        return
    shutil.rmtree(SOURCE, ignore_errors=True)  # what a fetch that failed left
    SOURCE.mkdir(parents=True)
    for command in (
        ("init", "--quiet"),
        ("remote", "add", "origin", repository),
        ("sparse-checkout", "set", "--no-cone", f"/{PYTHON}/"),
        ("fetch", "--quiet", "--depth", "1", "--filter=blob:none", "origin", commit),
        ("checkout", "--quiet", commit),
    ):
        stdout_of(["git", "-C", SOURCE, *command])


def offline(task: Task) -> Classify:
    """Every image once: preprocessed, loaded and answered."""
    if not (SOURCE / PYTHON / "main.py").exists():
        sys.exit(f"{SOURCE}: no MLPerf reference; fetch it: python -m benchmarks.peers.mlperf_peer")
    import mlperf_loadgen

    sys.path.insert(0, str(SOURCE / PYTHON))  # its modules import each other by their bare names
    main, dataset, imagenet, backend_module = map(
        importlib.import_module, ("main", "dataset", "imagenet", "backend_onnxruntime")
    )
    pre = task.preprocessing()
    size, crop = resized_to(pre), [pre.height, pre.width]
    torchvision_beside_cpu_torch()
    import cv2  # type: ignore[import-not-found]
    from PIL import Image
    from torchvision.transforms import functional  # type: ignore[import-not-found]

    def pre_process(image_BGR: Any, dims: Any = None, need_transpose: bool = True) -> NDArray[np.float32]:
        """The steps of the reference's ``pre_process_imagenet_pytorch``; the network normalises. float32 [3, H, W]."""
        image = Image.fromarray(cv2.cvtColor(image_BGR, cv2.COLOR_BGR2RGB))
        image = functional.resize(image, size, Image.Resampling.BILINEAR)
        pixels: NDArray[np.float32] = functional.to_tensor(functional.center_crop(image, crop)).numpy()
        return pixels

    with_float_input(task.onnx, converted := task.scratch / "model.onnx")
    backend = backend_module.BackendOnnxruntime().load(str(converted))
    for _ in range(5):  # as the reference warms up
        backend.predict({backend.inputs[0]: np.zeros((1, 3, pre.height, pre.width), np.float32)})
    photos = task.folder("photos")
    (names := photos / "val_map.txt").write_text(
        "".join(f"photos/{file.name} 0\n" for file in sorted((photos / "photos").iterdir()))
    )

    def classify() -> list[int]:
        images = imagenet.Imagenet(
            data_path=str(photos),
            image_list=str(names),
            name="imagenet",
            image_size=[pre.height, pre.width, 3],
            image_format=backend.image_format(),
            pre_process=pre_process,
            preprocessed_dir=str(task.scratch / "preprocessed"),
        )
        # One thread: ONNX Runtime's own take all cores, and a thread per core, the reference's default, is slower.
        queue = main.QueueRunner(backend, images, 1, dataset.PostProcessArgMax(), BATCH)
        queue.start_run({}, True)
        count = images.get_item_count()
        sut = mlperf_loadgen.ConstructSUT(queue.enqueue, lambda: None)
        at_once = min(count, LOADED_AT_ONCE)
        qsl = mlperf_loadgen.ConstructQSL(count, at_once, images.load_query_samples, images.unload_query_samples)
        logs = mlperf_loadgen.LogSettings()
        logs.enable_trace = False
        logs.log_output.outdir = str(task.scratch)
        test = mlperf_loadgen.TestSettings()
        test.scenario = mlperf_loadgen.TestScenario.Offline
        test.mode = mlperf_loadgen.TestMode.AccuracyOnly
        mlperf_loadgen.StartTestWithLogSettings(sut, qsl, test, logs, "")
        queue.finish()
        mlperf_loadgen.DestroyQSL(qsl)
        mlperf_loadgen.DestroySUT(sut)
        return _logged_answers(task.scratch / "mlperf_log_accuracy.json")

    return classify


def _logged_answers(log: Path) -> list[int]:
    """The class of each image, by its number, as LoadGen logs them: the bytes of one float32 in hexadecimal."""
    answers = {row["qsl_idx"]: row["data"] for row in json.loads(log.read_text())}
    return [int(np.frombuffer(bytes.fromhex(answers[index]), np.float32)[0]) for index in sorted(answers)]


if __name__ == "__main__":
    fetch(*sys.argv[1:])
