"""What fails in a call with bound memory has its cause, and leaves nothing behind on the GPU."""

from __future__ import annotations

import pytest

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.errors import InputError, UnavailableError
from tests.helpers.host_device import HostDevice, cuda_runner_on_host, pixels
from tests.helpers.models.onnx_models import CLASSES, TINY_CONTRACT
from tests.helpers.runners import run_steps


class TestErrors:
    def test_each_call_of_the_gpu_may_fail_and_leaves_nothing_behind(self, engine: Engine) -> None:
        whole = HostDevice()
        runner, _ = cuda_runner_on_host(engine.onnx_path, TINY_CONTRACT, device=whole)
        runner(pixels(2))
        fallible = len(whole.calls)
        for at in range(fallible):
            device = HostDevice(fail_at=at)
            try:
                runner, _ = cuda_runner_on_host(engine.onnx_path, TINY_CONTRACT, device=device)
            except UnavailableError:
                assert device.live == set()
                continue
            with pytest.raises(UnavailableError, match="cudaErrorFake"):
                runner(pixels(2))
            assert runner(pixels(2)).shape == (2, CLASSES), "usable again if the GPU is"
            runner.close()
            assert device.live == set()

    @pytest.mark.parametrize(
        ("said", "error", "cause"),
        [
            (
                "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
                "bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t) Failed to allocate memory "
                "for requested buffer of size 2147483648",
                UnavailableError,
                "net.onnx: the GPU is out of memory (2.0 GiB needed",
            ),
            (
                "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 719: unspecified launch failure ; GPU=0 ; hostname=h",
                UnavailableError,
                "net.onnx: the GPU stopped working in this process",
            ),
            *(
                (said, UnavailableError, "net.onnx: the GPU ")
                for said in (
                    "CUDA failure 716: misaligned address ; GPU=0 ; hostname=h ; expr=cudaStreamSynchronize(stream)",
                    "CUDA failure 900: operation not permitted when stream is capturing ; GPU=1",
                    "CUDNN failure 5003: CUDNN_STATUS_EXECUTION_FAILED_CUDART ; GPU=0",
                    "CUBLAS failure 13: the GPU program failed to execute ; GPU=0",
                )
            ),
            (
                "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions",
                InputError,
                "fails on pixels (2, 32",
            ),
        ],
    )
    @pytest.mark.parametrize("bound_memory", [True, False])
    def test_what_onnx_runtime_raises_has_its_cause(
        self, said: str, error: type[Exception], cause: str, bound_memory: bool, engine: Engine
    ) -> None:
        device = HostDevice() if bound_memory else None
        runner, session = cuda_runner_on_host(engine.onnx_path, TINY_CONTRACT, device=device)
        session.error = RuntimeError(said)
        for call in (lambda: runner(pixels(2)), lambda: run_steps(runner.steps(pixels(2)))):
            with pytest.raises(error) as info:
                call()
            assert cause in str(info.value)
            assert "export it" not in str(info.value)
            assert "\n" not in str(info.value)
        session.error = None
        assert runner(pixels(2)).shape == (2, CLASSES)
