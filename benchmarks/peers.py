"""How other libraries classify a folder of photos, written as in their own tutorials, each with its best settings.

Each function prepares a peer, runs one batch as a warm-up and returns a ``Classify``. Ultralytics is under AGPL-3.0: we
compare with it, and never make it a part of this project.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from PIL import Image

from alexnet_deploy.machine.cpu import cores
from benchmarks.rounds import CACHE

BATCH, INPUT = 32, "pixels"
Classify = Callable[[], int]
"""Classifies all files and returns how many."""


def onnxruntime_and_pillow(bundle: Path, files: Sequence[Path]) -> Classify:
    """Open, resize, stack, run and sort, one batch after the other in one thread, as ONNX Runtime's tutorials do."""
    import onnxruntime

    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])

    def classify(some: Sequence[Path]) -> int:
        (logits,) = session.run(None, {INPUT: pillow_pixels(some)})
        return len(np.argsort(-logits, axis=1)[:, :5])

    classify(files[:BATCH])
    return lambda: sum(classify(files[i : i + BATCH]) for i in range(0, len(files), BATCH))


def onnxruntime_quantised(bundle: Path, files: Sequence[Path]) -> Classify:
    """The same loop on the float32 engine as ONNX Runtime's own quantiser converts it, which suits its kernels best.

    ONNX Runtime computes our Q/DQ graph in float32 (docs/decisions/0002), so that graph alone would be unfair to it.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Photos(CalibrationDataReader):  # type: ignore[misc]
        some = iter(files[:BATCH])

        def get_next(self) -> Any:
            return {INPUT: pillow_pixels([file])} if (file := next(self.some, None)) else None

    (folder := CACHE / "onnxruntime").mkdir(parents=True, exist_ok=True)
    source = bundle.with_name("alexnet-fp32") / "model.onnx"
    quantize_static(source, folder / "model.onnx", Photos(), activation_type=QuantType.QUInt8)
    return onnxruntime_and_pillow(folder, files)


def pillow_pixels(files: Sequence[Path]) -> NDArray[np.uint8]:
    """uint8 ``[N, 224, 224, 3]``."""
    images = (Image.open(file).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR) for file in files)
    return np.stack(list(map(np.asarray, images)))


def torch_and_dataloader(bundle: Path, files: Sequence[Path]) -> Classify:
    """The shipped checkpoint in eager float32, fed by a DataLoader of torchvision's transforms, one worker per core."""
    import torch

    _torchvision_beside_cpu_torch()
    from torchvision import transforms  # type: ignore[import-not-found]

    from alexnet_deploy.model.architecture import AlexNet
    from alexnet_deploy.model.checkpoint import load_weights

    checkpoint = load_weights(None)
    pre = checkpoint.contract.preprocessing
    model = AlexNet(checkpoint.arch).eval()
    model.load_state_dict(checkpoint.weights)
    transform = transforms.Compose(
        [transforms.Resize((pre.height, pre.width)), transforms.ToTensor(), transforms.Normalize(pre.mean, pre.std)]
    )

    class Photos(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> Any:
            return transform(Image.open(files[index]).convert("RGB"))

    loader = torch.utils.data.DataLoader(Photos(), BATCH, num_workers=cores())

    def classify() -> int:
        with torch.inference_mode():
            return sum(len(model(batch).softmax(1).topk(5).indices) for batch in loader)

    with torch.inference_mode():
        model(torch.zeros(BATCH, 3, pre.height, pre.width))
    return classify


def ultralytics_predict(bundle: Path, files: Sequence[Path], batch: int = BATCH) -> Classify:
    """``YOLO("model.onnx", task="classify").predict(files, stream=True)``: OpenCV decodes, ONNX Runtime computes."""
    folder = CACHE / "ultralytics"
    folder.mkdir(parents=True, exist_ok=True)
    # Read on import. It must not install packages, look for a network or write to the home folder.
    os.environ |= {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": str(folder)}
    _torchvision_beside_cpu_torch()
    from ultralytics import YOLO  # type: ignore[import-not-found]

    for_ultralytics(bundle / "model.onnx", converted := folder / f"{bundle.name}.onnx")
    model = YOLO(converted, task="classify")

    def classify(some: Sequence[Path]) -> int:
        found = model.predict(list(map(str, some)), batch=batch, imgsz=224, stream=True, device="cpu", verbose=False)
        return sum(len(result.probs.top5) > 0 for result in found)

    classify(files[:batch])
    return lambda: classify(files)


def for_ultralytics(source: Path, out: Path) -> None:
    """Give the network the input and output of Ultralytics: float32 ``[N, 3, H, W]`` in 0..1, and probabilities.

    Removes Cast and Transpose, and scales the constants of the normalisation by 255: no work is added or removed.
    """
    model = onnx.load(source)
    graph = model.graph
    cast, transpose, sub, mul = graph.node[:4]
    assert [n.op_type for n in graph.node[:4]] == ["Cast", "Transpose", "Sub", "Mul"], "another exporter's graph"
    for node, factor in ((sub, 1 / 255), (mul, 255)):
        constant = next(weight for weight in graph.initializer if weight.name == node.input[1])
        scaled = numpy_helper.to_array(constant) * np.float32(factor)
        constant.CopyFrom(numpy_helper.from_array(scaled, constant.name))
    sub.input[0] = "images"
    graph.node.remove(cast)
    graph.node.remove(transpose)
    batch, height, width, channels = (
        dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim
    )
    shape = [batch, channels, height, width]
    graph.input[0].CopyFrom(helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, shape))
    logits = graph.output[0]
    classes = logits.type.tensor_type.shape.dim[1].dim_value
    graph.node.append(helper.make_node("Softmax", [logits.name], ["output0"]))
    logits.CopyFrom(helper.make_tensor_value_info("output0", onnx.TensorProto.FLOAT, [batch, classes]))
    del model.metadata_props[:]
    names = {index: f"class {index}" for index in range(classes)}
    properties = {
        "task": "classify",
        "stride": 1,
        "batch": 1,
        "imgsz": [height, width],
        "names": names,
        "channels": channels,
    }
    helper.set_model_props(model, {key: str(value) for key, value in properties.items()})
    onnx.save(model, out)


def _torchvision_beside_cpu_torch() -> None:
    """Let PyPI's torchvision load with a CPU build of torch.

    Its compiled operators are built for CUDA and do not load there, so its import fails where it describes two of
    them. Declaring them is enough; no classifier calls them.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        _LIBRARIES.append(library)


_LIBRARIES: list[Any] = []
"""Keeps the declarations alive."""
