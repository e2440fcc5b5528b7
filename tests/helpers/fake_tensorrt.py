"""A TensorRT on top of the fake device: its engine computes logits that a test can work out by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import Plan
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.runtime.tensorrt import plans as tensorrt_plans
from alexnet_deploy.runtime.tensorrt.library import Messages, TensorRT
from alexnet_deploy.runtime.tensorrt.runner import TensorRTRunner
from tests.helpers.fake_device import FakeDevice, current_gpu
from tests.helpers.runners import numbered_contract


def expected_logits(pixels_NHWC: NDArray[np.uint8], classes: int) -> NDArray[np.float32]:
    """What the fake engine computes: logit k of an image is (k + 1) times the sum of its pixels."""
    sums = pixels_NHWC.reshape(len(pixels_NHWC), -1).sum(axis=1, dtype=np.float32)
    return np.outer(sums, np.arange(1, classes + 1, dtype=np.float32)).astype(np.float32)


class FakeRuntimeCache:
    """Kernels of TensorRT-RTX: those it was given, and one more for each context that used it."""

    def __init__(self) -> None:
        self.kernels = b""

    def deserialize(self, blob: bytes) -> bool:
        self.kernels = blob if blob.startswith(b"kernels") else b""
        return bool(self.kernels)

    def serialize(self) -> bytes:
        return self.kernels


class FakeRuntimeConfig:
    """An IRuntimeConfig."""

    cuda_graph_strategy: str | None = None
    dynamic_shapes_kernel_specialization_strategy: str | None = None

    def __init__(self) -> None:
        self.cache: FakeRuntimeCache | None = None

    def create_runtime_cache(self) -> FakeRuntimeCache:
        return FakeRuntimeCache()

    def set_runtime_cache(self, cache: FakeRuntimeCache) -> bool:
        self.cache = cache
        return True


class FakeContext:
    """One execution context; ``capturable`` False makes it refuse while a stream is captured."""

    def __init__(self, engine: FakeEngine, runtime_config: FakeRuntimeConfig | None) -> None:
        self.engine = engine
        self.runtime_config = runtime_config
        self.addresses: dict[str, int] = {}
        self.profile = 0
        self.shape: tuple[int, ...] = ()

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self.addresses[name] = pointer
        return name in self.engine.tensors

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return ("stream", stream) in self.engine.device.live

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return name == "pixels"

    def execute_async_v3(self, stream: int) -> bool:
        config = self.runtime_config
        if config is not None and config.cache is not None and not config.cache.kernels:
            config.cache.kernels = b"kernels"
        device, addresses, shape = self.engine.device, dict(self.addresses), self.shape
        sign = -1 if self.engine.fault(self, shape[0], stream in device.recordings) else 1
        assert current_gpu() == device.index, "TensorRT launches on the GPU of the thread, and refuses another's stream"
        if self.engine.profiles:
            profile = self.engine.profiles[self.profile]
            assert profile.min <= shape[0] <= profile.max, "TensorRT refuses a shape outside the profile of its context"
        if stream in device.recordings and not self.engine.capturable:
            device.last_error = "cudaErrorStreamCaptureUnsupported"
            return False

        def work() -> None:
            source = np.frombuffer(device.memory[addresses["pixels"]], np.uint8, int(np.prod(shape)))
            logits = sign * expected_logits(source.reshape(shape), self.engine.classes)
            device.memory[addresses["logits"]][: logits.nbytes] = logits.tobytes()

        device.enqueue(work, stream)
        return True


class FakeEngine:
    """uint8 ``pixels`` [-1, side, side, 3] in, float ``logits`` [-1, classes] out."""

    def __init__(self, device: FakeDevice, api: Any, *, side: int, classes: int, capturable: bool) -> None:
        self.device, self.classes, self.capturable = device, classes, capturable
        self.profiles: tuple[BatchProfile, ...] = ()
        self.fault: Callable[[FakeContext, int, bool], bool] = lambda context, images, captured: False
        """Whether a run of that context, batch size and way has the wrong sign."""
        self.contexts: list[FakeContext] = []
        self.runtime_configs: list[Any] = []
        self.tensors = {
            "pixels": (api.TensorIOMode.INPUT, api.DataType.UINT8, (-1, side, side, 3)),
            "logits": (api.TensorIOMode.OUTPUT, api.DataType.FLOAT, (-1, classes)),
        }
        self.num_io_tensors = 2

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> Any:
        return self.tensors[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][2]

    def create_runtime_config(self) -> FakeRuntimeConfig:
        return FakeRuntimeConfig()

    def create_execution_context(self, runtime_config: FakeRuntimeConfig | None = None) -> FakeContext:
        assert current_gpu() == self.device.index
        self.runtime_configs.append(runtime_config)
        self.contexts.append(FakeContext(self, runtime_config))
        return self.contexts[-1]


def fake_tensorrt(
    device: FakeDevice, *, rtx: bool = False, side: int = 4, classes: int = 3, capturable: bool = True
) -> tuple[TensorRT, FakeEngine]:
    """A TensorRT whose every plan is one and the same engine on ``device``; one of b"bad" does not load.

    TensorRT-RTX judges the first three bytes."""
    api = SimpleNamespace(
        IProfiler=object,
        DataType=SimpleNamespace(UINT8=SimpleNamespace(name="UINT8"), FLOAT=SimpleNamespace(name="FLOAT")),
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
    )
    engine = FakeEngine(device, api, side=side, classes=classes, capturable=capturable)
    messages = Messages()

    def deserialize_cuda_engine(data: bytes) -> FakeEngine | None:
        if data == b"too old":
            messages.errors.append("Error Code 1: Cuda Runtime (CUDA driver version is insufficient for CUDA runtime)")
            return None
        if data == b"bad":
            messages.errors.append(
                "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (it is bad. In x at /y.cpp:1)"
            )
            return None
        return engine

    runtime = SimpleNamespace(deserialize_cuda_engine=deserialize_cuda_engine, engine_host_code_allowed=False)
    if rtx:
        runtime.engine_header_size = 3
        diagnostics = {
            "VERSION_MISMATCH": 1,
            "UNSUPPORTED_CC": 2,
            "OLD_CUDA_DRIVER": 4,
            "INSUFFICIENT_GPU_MEMORY": 8,
        }
        api.EngineValidity = SimpleNamespace(VALID=0, SUBOPTIMAL=1, INVALID=2)
        api.EngineInvalidityDiagnostics = SimpleNamespace(__members__=diagnostics)
        api.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph")
        api.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager", LAZY="lazy")
        found = {b"old": 1 | 4, b"cc!": 2, b"mem": 8}

        def get_engine_validity(header: bytes) -> tuple[int, int]:
            if header == b"drv":  # what TensorRT-RTX 1.7.1 logged and returned on a machine without a driver
                messages.errors.append(
                    "IRuntime::getEngineValidity: Error Code 1: Cuda Runtime (In ScopedCudaStream at /_src/c.cpp:25 "
                    "(cudaError 35: CUDA driver version is insufficient for CUDA runtime version))"
                )
                return 2, 0
            return (2, found[header]) if header in found else (0, 0)

        runtime.get_engine_validity = get_engine_validity
    api.Runtime = lambda logger: runtime
    name = "tensorrt_rtx" if rtx else "tensorrt"
    return TensorRT(name, "1.7.1.116" if rtx else "11.4.0.106", api, None, messages), engine


class FakeMachine:
    """A machine whose TensorRT is a fake one, and which has one plan file of that."""

    contract = numbered_contract(3, side=4)
    batch = BatchProfile(1, 4, 8)

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._monkeypatch = monkeypatch
        self.plan_file = folder / "sm89.plan"
        self.plan_file.write_bytes(b"plan")

    def install(self, library: TensorRT) -> Plan:
        """Make ``library`` the installed TensorRT; a plan that it built."""
        self._monkeypatch.setattr(tensorrt_plans, "load", lambda name: library)
        return Plan(self.plan_file.name, library.name, library.version, "sm89")

    def load(self, device: FakeDevice | None = None, **options: Any) -> TensorRTRunner:
        """Load the plan onto ``device``, or a usual one; ``options`` are those of ``fake_tensorrt``."""
        self.device = device or FakeDevice()
        library, self.engine = fake_tensorrt(self.device, **options)
        plan = self.install(library)
        return tensorrt_plans.load_plan(self.plan_file, plan, self.contract, self.batch, device=self.device)
