"""Times by layer of ONNX Runtime's CUDA provider: on a session of the CPU here, on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import onnxruntime as ort
import pytest

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.machine.onnx_session import open_session
from alexnet_deploy.profiling.layers import profile as layer_profile
from alexnet_deploy.profiling.layers.counters import onnxruntime_cuda as counters
from alexnet_deploy.profiling.layers.profile import profile_layers
from alexnet_deploy.runtime import openers, select
from alexnet_deploy.runtime.cuda.device import current_capability
from alexnet_deploy.runtime.onnxruntime.cuda import CUDA, CudaSession
from tests.helpers.gpu import require_gpu
from tests.helpers.host_device import cuda_runner_on_host
from tests.helpers.models.onnx_models import named_engine
from tests.profiling.layers.test_roofline import BY_HAND

CALLS = 10


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """``IsolatedProcess``, which calls here and notes how it was made; CUDA is the CPU."""

    def open_here(path: Path, new_options: Callable[[], Any], precision: str, *, graphs: bool) -> CudaSession:
        assert not graphs, "a graph is one kernel"
        return CudaSession(open_session(path, new_options()), True, False)

    class Here:
        def __enter__(self) -> Here:
            return self

        def __exit__(self, *exc_info: object) -> None: ...

        def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
            return function(*arguments)

    def open_runner(engine: Engine, options: Any) -> Any:
        return cuda_runner_on_host(engine.onnx_path, engine.contract)[0]

    monkeypatch.setattr(counters, "open_on_cuda", open_here)
    monkeypatch.setitem(openers.RUNTIMES, "onnxruntime-cuda", open_runner)
    made = Mock(return_value=Here())
    monkeypatch.setattr(counters, "IsolatedProcess", made)
    return made


def test_every_layer_has_its_row_and_the_note_says_what_a_row_is(tmp_path: Path, process: Mock) -> None:
    engine = named_engine(tmp_path)
    profile = profile_layers(engine, "onnxruntime-cuda", batch=2, calls=CALLS)
    assert [row.layer for row in profile.rows if row.flops] == [f"conv.{i}" for i in range(3)] + ["gemm.0", "gemm.1"]
    assert profile.runner.endswith(" on CUDA")
    assert profile.roofline is None
    assert counters.NOTE in profile.notes
    assert process.call_args.kwargs["environment"] == {"CUDA_LAUNCH_BLOCKING": "1"}


def test_auto_does_not_take_it_for_what_cuda_only_converts(
    tmp_path: Path, process: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "require_cuda_package", lambda: None)
    monkeypatch.setattr(select, "has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(layer_profile, "has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(layer_profile, "measure_roofline", lambda runtime, precisions, threads: BY_HAND)
    profile = profile_layers(named_engine(tmp_path, "int8"), batch=1, threads=1, calls=CALLS)
    assert profile.runtime == "openvino"
    assert any("has no kernels for int8" in each.reason for each in profile.passed_over)
    assert not process.called


def test_the_real_process_says_why_cuda_does_not_start(tmp_path: Path) -> None:
    """Its error arrives here as one of ours, through the other process."""
    if current_capability() is not None:
        pytest.skip("there is a GPU")
    engine = named_engine(tmp_path)
    shape = (1, engine.contract.preprocessing.height, engine.contract.preprocessing.width, 3)
    with pytest.raises(UnavailableError, match=r"ONNX Runtime \S+ (could not start CUDA|is built )"):
        counters.kernel_times(engine.onnx_path, "pixels", shape, calls=1, precision="fp32")


@pytest.mark.gpu
def test_a_gpu_times_every_layer(tmp_path: Path) -> None:
    require_gpu()
    if CUDA not in ort.get_available_providers():
        pytest.skip("the installed ONNX Runtime has no CUDA; install onnxruntime-gpu[cuda,cudnn]")
    profile = profile_layers(named_engine(tmp_path), "onnxruntime-cuda", batch=2, calls=CALLS)
    assert [row.layer for row in profile.rows if row.flops] == [f"conv.{i}" for i in range(3)] + ["gemm.0", "gemm.1"]
    assert all(row.median_us > 0 for row in profile.rows if row.flops)
