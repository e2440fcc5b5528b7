"""``profile`` and ``profile-stages`` on the GPU, and on the CPU as their measure."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from alexnet_deploy.build.engine import build_engine
from alexnet_deploy.build.settings import BuildSettings
from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.bundle.verified import open_bundle
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import DeployError
from alexnet_deploy.machine.gpu import open_gpu
from alexnet_deploy.profiling.card_roofline import TENSOR_CORES
from alexnet_deploy.profiling.engine import profile_engine
from alexnet_deploy.profiling.settings import ProfileSettings
from alexnet_deploy.profiling.stages import profile_stages
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.gpu import require_gpu
from tests.helpers.models.onnx_models import tiny_model

RUNTIMES = {"onnxruntime": "ONNX Runtime ", "onnxruntime-cuda": "ONNX Runtime ", "tensorrt": "TensorRT"}
COPIES = {"host-to-device", "device-to-host"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """With a plan where the TensorRT here builds one for this machine."""
    folder = tmp_path_factory.mktemp("profiled")
    settings = BuildSettings(batch=BatchProfile(1, 4, 8))
    return open_bundle(build_engine(tiny_model(folder / "tiny.onnx"), folder / "tiny", settings=settings))


@pytest.fixture(
    params=[
        "onnxruntime",
        pytest.param("onnxruntime-cuda", marks=pytest.mark.gpu),
        pytest.param("tensorrt", marks=pytest.mark.gpu),
    ]
)
def runtime(request: pytest.FixtureRequest, engine: Engine) -> str:
    if request.param != "onnxruntime":
        require_gpu()
    try:
        open_runner(engine, request.param).runner.close()
    except DeployError as exc:
        pytest.skip(str(exc))
    return str(request.param)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_profile_measures_each_batch_size(runtime: str, concurrency: int, engine: Engine) -> None:
    settings = ProfileSettings(
        batch_sizes=(1, 4), concurrency=concurrency, runtime=runtime, duration_s=0.1, warm_up_s=0.05
    )
    found = profile_engine(engine, settings)
    assert found.runner.startswith(RUNTIMES[runtime])
    assert found.passed_over == ()
    assert [row.latency.batch for row in found.rows] == [1, 4]
    assert all(row.latency.images_per_s > 0 for row in found.rows)
    if runtime != "onnxruntime" and open_gpu() is not None:
        assert all(row.machine.gpu_temperature_c_max is not None for row in found.rows)
    if runtime == "onnxruntime" or require_gpu() not in TENSOR_CORES:
        assert found.card is None
    elif found.card is not None:  # where NVML reports what the card is built of
        limits = [row["of_card_limit_percent"] for row in found.to_dict()["batches"]]
        assert all(0 < percent < 100 for percent in limits), "so small a network is bound by its launches"


def test_stages_have_the_copies_of_a_gpu(runtime: str, engine: Engine, photo_folder: Path) -> None:
    files = sorted((photo_folder / "val").rglob("*.jpg"))
    with closing(open_runner(engine, runtime).runner) as runner:
        found = profile_stages(runner, files, batch=4, workers=1)
    names = {stage.name for stage in found.stages}
    assert {"decode", "compute", "waiting"} <= names
    assert (names >= COPIES) == (runtime != "onnxruntime")
    assert found.failed == 0
