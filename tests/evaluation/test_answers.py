"""All engines answer for the same pixels, and files that cannot be read are left out for all."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from alexnet_deploy.contract import BatchProfile, ModelContract, Preprocessing
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.evaluation.answers import collect_answers
from alexnet_deploy.images.labelled import list_labelled

IDS = ("n01", "n02", "n03", "n04")
CONTRACT = ModelContract("birds", IDS, IDS, Preprocessing(4, 4, "stretch", None))


class Reads:
    """Answers with the number in the first pixel."""

    description = "reads the first pixel"
    batch: BatchProfile | None = None

    def __init__(self, contract: ModelContract = CONTRACT) -> None:
        self.contract = contract
        self.seen: list[NDArray[np.uint8]] = []

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.seen.append(pixels_NHWC.copy())
        return np.eye(len(IDS), dtype=np.float32)[pixels_NHWC[:, 0, 0, 0]]

    def close(self) -> None:
        pass


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, 0, 0)).save(path)
    return path


def test_all_runners_see_the_same_pixels(tmp_path: Path) -> None:
    for k in (0, 3):
        for i in range(20):  # 40 in all: more than a batch
            picture(tmp_path / IDS[k] / f"{i:02}.png", k)
    broken = tmp_path / IDS[0] / "10.png"
    broken.write_bytes(b"no image")
    progress: list[tuple[str, int, int]] = []
    runners = Reads(), Reads()
    found = collect_answers(runners, list_labelled(tmp_path, CONTRACT), on_progress=lambda *at: progress.append(at))
    assert (len(found.files), found.target_N.tolist()) == (39, [0] * 19 + [3] * 20)
    assert [file.parent.name for file in found.files] == [IDS[0]] * 19 + [IDS[3]] * 20
    assert [logits_NK.argmax(axis=1).tolist() for logits_NK in found.logits_NK] == [found.target_N.tolist()] * 2
    (line,) = found.unreadable
    assert line.startswith(f"{broken}: ")
    assert progress == [("images", 32, 40), ("images", 40, 40)]
    assert all(np.array_equal(a, b) for a, b in zip(runners[0].seen, runners[1].seen, strict=True))


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    picture(tmp_path / "n01/1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="none of its images is readable"):
        collect_answers([Reads()], list_labelled(tmp_path, CONTRACT))


def test_runners_of_other_pixels_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "n01/1.png")
    other = ModelContract("birds", IDS, IDS, Preprocessing(4, 4, "stretch", None, "bicubic"))
    with pytest.raises(
        UsageError, match=r"a and b preprocess differently \(interpolation: bilinear and bicubic\); measure"
    ):
        collect_answers([Reads(), Reads(other)], list_labelled(tmp_path, CONTRACT), names=("a", "b"))


def test_a_failing_runner_leaves_no_thread(tmp_path: Path) -> None:
    class Fails(Reads):
        def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
            raise InputError("fails")

    picture(tmp_path / "n01/1.png")
    with pytest.raises(InputError, match="fails"):
        collect_answers([Fails()], list_labelled(tmp_path, CONTRACT))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
