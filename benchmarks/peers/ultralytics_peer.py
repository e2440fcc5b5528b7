"""Ultralytics' predict. It is under AGPL-3.0: we compare with it, and never make it a part of this project."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.float_input import with_float_input
from benchmarks.peers.task import BATCH, Classify, Task, resized_to
from benchmarks.peers.torch_peers import torchvision_beside_cpu_torch


def predict(task: Task, batch: int = BATCH) -> Classify:
    """``YOLO("model.onnx", task="classify").predict(files, stream=True)``: OpenCV decodes, ONNX Runtime computes.

    By itself it resizes the shorter side to that of the crop. A predictor of ours, its documented way to change that,
    resizes as the contract says.
    """
    # Read on import. It must not install packages, look for a network or write to the home folder.
    os.environ |= {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": str(task.scratch)}
    torchvision_beside_cpu_torch()
    from torchvision import transforms  # type: ignore[import-not-found]
    from ultralytics import YOLO  # type: ignore[import-not-found]
    from ultralytics.models.yolo.classify import ClassificationPredictor  # type: ignore[import-not-found]

    pre = task.preprocessing()

    class Resizing(ClassificationPredictor):  # type: ignore[misc]
        def setup_source(self, source: Any) -> None:
            super().setup_source(source)
            crop = transforms.CenterCrop((pre.height, pre.width))
            self.host_transforms = transforms.Compose([transforms.Resize(resized_to(pre)), crop])

    with_float_input(task.onnx, converted := task.scratch / "model.onnx")
    model = YOLO(converted, task="classify")
    options = {"imgsz": [pre.height, pre.width], "batch": batch, "stream": True, "device": "cpu", "verbose": False}

    def classify(some: Sequence[Path]) -> list[int]:
        found = model.predict(list(map(str, some)), predictor=Resizing, **options)
        return [result.probs.top5[0] for result in found]

    classify(task.files[:batch])
    return lambda: classify(task.files)
