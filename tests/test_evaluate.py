"""Accuracy of a runner whose answers are known: it reads the class off the first pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.contract import BatchProfile, ModelContract, Preprocessing
from alexnet_deploy.errors import InputError
from alexnet_deploy.evaluate import evaluate

CLASSES = 7


class ReadsFirstPixel:
    contract = ModelContract(
        "reads",
        tuple(f"label {k}" for k in range(CLASSES)),
        tuple(f"n{k:02d}" for k in range(CLASSES)),
        Preprocessing(4, 4, "stretch", None),
    )
    description = "reads the first pixel"
    batch: BatchProfile | None = None

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        value_N = pixels_NHWC[:, 0, 0, 0].astype(np.float32)
        return -np.abs(np.arange(CLASSES, dtype=np.float32)[None] - value_N[:, None])

    def close(self) -> None:
        pass


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (4, 4), (value, 0, 0)).save(path)


@pytest.mark.parametrize("named_by", ["class id", "label", "number"])
def test_accuracy_by_hand(tmp_path: Path, named_by: str) -> None:
    def folder(k: int) -> Path:
        return tmp_path / {"class id": f"n{k:02d}", "label": f"label {k}", "number": str(k)}[named_by]

    picture(folder(0) / "right.png", 0)  # top 1
    picture(folder(3) / "right.png", 3)  # top 1
    picture(folder(3) / "near.png", 4)  # second or third: top 5
    picture(folder(6) / "far.png", 0)  # the last of seven: neither
    (folder(6) / "broken.png").write_bytes(b"no image")
    found = evaluate(ReadsFirstPixel(), tmp_path)
    assert (found.images, found.unreadable) == (4, 1)
    assert (found.top1_percent, found.top5_percent) == (50.0, 75.0)


def test_more_images_than_a_batch_keep_their_labels(tmp_path: Path) -> None:
    for k in range(CLASSES):
        for i in range(12):
            picture(tmp_path / f"n{k:02d}" / f"{i}.png", k)
    assert evaluate(ReadsFirstPixel(), tmp_path).top1_percent == 100


def test_what_cannot_be_evaluated_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        evaluate(ReadsFirstPixel(), tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no class folders"):
        evaluate(ReadsFirstPixel(), tmp_path)
    picture(tmp_path / "zebra" / "1.png", 0)
    with pytest.raises(InputError, match="folder 'zebra' is no class of this model; its classes are n00, n01, n02"):
        evaluate(ReadsFirstPixel(), tmp_path)
    (tmp_path / "zebra" / "1.png").write_bytes(b"")
    (tmp_path / "zebra").rename(tmp_path / "n00")
    with pytest.raises(InputError, match="none of its images is readable"):
        evaluate(ReadsFirstPixel(), tmp_path)
