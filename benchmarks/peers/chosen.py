"""The peers of the end-to-end benchmark, and in one sentence each how they are run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.peers import mlperf_peer, onnxruntime_peer, torch_peers, ultralytics_peer
from benchmarks.peers.task import Classify, Task

QUANTISED = "the same loop, its own quantiser"


@dataclass(frozen=True, slots=True)
class Peer:
    """``prepare`` loads and warms up, and returns what is timed; ``how`` is for the page."""

    prepare: Callable[[Task], Classify]
    precisions: tuple[str, ...]
    how: str


PEERS = {
    "Ultralytics predict": Peer(
        ultralytics_peer.predict,
        ("fp32",),
        "`YOLO(onnx, task='classify').predict(files, stream=True)`; OpenCV decodes, torchvision resizes and crops as "
        "our contract says (a predictor of ours; its own crops otherwise), ONNX Runtime computes",
    ),
    "DataLoader + torch eager": Peer(
        torch_peers.dataloader,
        ("fp32",),
        "a Dataset of Pillow and torchvision's transforms, one worker per core, eager torch under `inference_mode`",
    ),
    "torchvision's reference evaluation": Peer(
        torch_peers.torchvision_reference,
        ("fp32",),
        "`references/classification/train.py --test-only`: ImageFolder, its evaluation transforms, loss and top-5 per "
        "batch; one worker per core instead of 16, without the printed meters",
    ),
    "timm's inference.py": Peer(
        torch_peers.timm_inference,
        ("fp32",),
        "`create_dataset`, `resolve_data_config`, `create_loader` with the prefetcher, softmax and topk; our weights, "
        "one worker per core instead of 2, without the written table",
    ),
    "MLPerf's reference, Offline": Peer(
        mlperf_peer.offline,
        ("fp32",),
        "its `Imagenet`, ONNX Runtime backend, `QueueRunner` and post-processing under LoadGen's Offline scenario in "
        "accuracy mode, so that each photo is answered once; preprocessing counts (MLPerf leaves it out), by the steps "
        "of its `imagenet_pytorch` with our sizes; one queue thread instead of one per core, which is faster",
    ),
    "Pillow + ONNX Runtime loop": Peer(
        onnxruntime_peer.pillow_loop,
        ("fp32", "int8"),
        "open, resize, crop, stack, `session.run`, sort: one thread around the session, as in tutorials",
    ),
    QUANTISED: Peer(
        onnxruntime_peer.pillow_loop,
        ("int8",),
        "our float32 ONNX through `quant_pre_process` and `quantize_static` (QDQ, uint8 x int8, per channel), "
        "calibrated on the photos that calibrate ours",
    ),
}
"""By name. Those without int8 run what they are given in float32 only."""

COMPARED = tuple(
    (name, precision) for precision in ("fp32", "int8") for name, peer in PEERS.items() if precision in peer.precisions
)
"""Peer and precision, float32 first."""
