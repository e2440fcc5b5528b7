"""ONNX Runtime in a plain loop over Pillow's pixels, and ONNX Runtime's own static quantisation."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.bundle.manifest import MODEL, Manifest, save_manifest, write_bundle
from alexnet_deploy.bundle.verified import open_bundle
from alexnet_deploy.contract import BatchProfile, Preprocessing
from alexnet_deploy.images.choose import choose_images
from alexnet_deploy.images.find import find_images
from benchmarks.peers.task import BATCH, Classify, Task, resized_to

CALIBRATION_IMAGES, CALIBRATION_BATCH = 128, 16


def pillow_loop(task: Task) -> Classify:
    """Open, resize, stack, run and sort, one batch after the other in one thread, as ONNX Runtime's tutorials do."""
    import onnxruntime

    session = onnxruntime.InferenceSession(task.onnx, providers=["CPUExecutionProvider"])
    name, pre = session.get_inputs()[0].name, task.preprocessing()

    def classify(some: Sequence[Path]) -> list[int]:
        (logits_NK,) = session.run(None, {name: pillow_pixels(some, pre)})
        return [int(top5[0]) for top5 in np.argsort(-logits_NK, axis=1)[:, :5]]

    classify(task.files[:BATCH])
    files = task.files
    return lambda: [top for i in range(0, len(files), BATCH) for top in classify(files[i : i + BATCH])]


def pillow_pixels(files: Sequence[Path], pre: Preprocessing) -> NDArray[np.uint8]:
    """uint8 ``[N, H, W, 3]``: decoded in full, resized, and cropped in the centre."""
    return np.stack([np.asarray(_pixels(Image.open(file).convert("RGB"), pre)) for file in files])


def _pixels(image: Image.Image, pre: Preprocessing) -> Image.Image:
    if isinstance(to := resized_to(pre), int):
        shorter = min(image.size)
        width, height = (int(to * side / shorter) for side in image.size)
    else:
        height, width = to
    left, top = round((width - pre.width) / 2), round((height - pre.height) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + pre.width, top + pre.height))


def quantised_bundle(bundle: Path, photos: Path, out: Path) -> Path:
    """``out`` with the float32 ``bundle`` as ONNX Runtime converts it, calibrated on the photos that ours is."""
    contract = open_bundle(bundle).contract
    chosen = choose_images(photos, count=min(CALIBRATION_IMAGES, sum(1 for _ in find_images([photos]))))
    batches = chosen.batches(contract.preprocessing, CALIBRATION_BATCH)
    with write_bundle(out) as made, TemporaryDirectory() as scratch:
        quantise(bundle / MODEL, quantised := Path(scratch) / MODEL, contract.input_name, batches)
        shutil.copy(quantised, made)
        save_manifest(Manifest("fp32", contract, BatchProfile(), {}), made)  # no precision that we made
    return out


def quantise(onnx: Path, out: Path, input_name: str, batches: Iterator[NDArray[np.uint8]]) -> None:
    """Its quantiser, with what its documentation recommends on x86: uint8 x int8, per channel, a prepared graph."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Photos(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Any:
            return {input_name: pixels_NHWC} if (pixels_NHWC := next(batches, None)) is not None else None

    quant_pre_process(onnx, prepared := out.with_suffix(".prepared"))
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(prepared, out, Photos(), quant_format=QuantFormat.QDQ, per_channel=True, **types)
