"""What only GPUs can show: an engine on all of them, with all their contexts, answers as the CPU does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.errors import DeployError
from alexnet_deploy.inference.engine import open_engine
from alexnet_deploy.machine.gpu import open_gpu
from alexnet_deploy.runtime.cuda.device import choose_devices
from alexnet_deploy.runtime.select import CALLS_PER_GPU, GPU_RUNTIMES
from tests.helpers.models.bundles import build_bundle
from tests.helpers.models.foreign_models import random_pixels
from tests.helpers.models.onnx_models import SIDE, tiny_model
from tests.helpers.photos import save_photo

pytestmark = pytest.mark.gpu

TOLERANCE = 1e-3
"""Of the range of the logits: float32 sums in another order, as in ``runtime.reference``."""


@pytest.fixture(scope="module")
def gpus() -> tuple[int, ...]:
    try:
        return choose_devices("all")
    except DeployError as exc:
        pytest.skip(str(exc))


def engine_for(runtime: str, folder: Path) -> Path:
    onnx = tiny_model(folder / "tiny.onnx")
    if runtime == "tensorrt":
        build_bundle(onnx, folder / "bundle", targets=("current",))
        return folder / "bundle"
    return onnx


@pytest.mark.parametrize("runtime", GPU_RUNTIMES)
@pytest.mark.parametrize("last_alone", [False, True])
def test_answers_are_those_of_the_cpu(runtime: str, last_alone: bool, gpus: tuple[int, ...], tmp_path: Path) -> None:
    for i in range(40):
        save_photo(tmp_path / f"photos/{i:02}.jpg", (6 * i, 90, 120), i)
    try:
        name = engine_for(runtime, tmp_path)
        engine = open_engine(name, runtime=runtime, device=gpus[-1] if last_alone else "all")  # type: ignore[arg-type]
    except DeployError as exc:
        pytest.skip(str(exc))
    pixels = random_pixels(5, SIDE)
    with engine, open_engine(tmp_path / "tiny.onnx", runtime="onnxruntime") as reference:
        side_by_side = engine.side_by_side()
        used = 1 if last_alone else len(gpus)
        assert (1 if side_by_side is None else len(side_by_side.runners)) == used * CALLS_PER_GPU.get(runtime, 1)
        expected_NK = reference(pixels)
        for card in engine.cards:
            np.testing.assert_allclose(card(pixels), expected_NK, rtol=0, atol=TOLERANCE * float(np.ptp(expected_NK)))
        for batch in (1, 3, 8):
            found = list(engine.predict(tmp_path / "photos", batch=batch))
            expected = list(reference.predict(tmp_path / "photos", batch=batch))
            assert [row.file for row in found] == [row.file for row in expected]
            for row, other in zip(found, expected, strict=True):
                assert row.top[0].probability == pytest.approx(other.top[0].probability, abs=TOLERANCE)


def test_nvml_reports_the_memory_that_is_in_use(gpus: tuple[int, ...]) -> None:
    gpu = open_gpu(index=gpus[-1])
    if gpu is None:
        pytest.skip("no nvidia-ml-py, or NVML cannot tell which GPU CUDA's number means; CUDA_DEVICE_ORDER=PCI_BUS_ID")
    memory = gpu.read().memory_used_bytes
    assert memory is None or memory > 0
