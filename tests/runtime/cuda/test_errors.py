"""The texts of CUDA, cuBLAS, cuDNN and ONNX Runtime, and the cause that each stands for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from alexnet_deploy.runtime.cuda import device as device_module
from alexnet_deploy.runtime.cuda.errors import gpu_error, no_such_gpu

OUT_OF_MEMORY = "the GPU is out of memory"


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("cudaErrorMemoryAllocation (out of memory)", OUT_OF_MEMORY),
        ("cuMemAlloc failed: out of memory", OUT_OF_MEMORY),
        ("CUDA_ERROR_OUT_OF_MEMORY", OUT_OF_MEMORY),
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc", OUT_OF_MEMORY),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0", OUT_OF_MEMORY),
        ("CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", OUT_OF_MEMORY),
        ("Failed to allocate memory for requested buffer of size 8388608000", OUT_OF_MEMORY),
        ("Available memory of 100 is smaller than requested bytes of 200", OUT_OF_MEMORY),
        (
            "cudaErrorInsufficientDriver (CUDA driver version is insufficient for CUDA runtime version)",
            "is missing, or too",
        ),
        ("CUDA failure 803: system has unsupported display driver / cuda driver combination", "is missing, or too old"),
        ("forward compatibility was attempted on non supported HW", "is missing, or too old"),
        ("the provided PTX was compiled with an unsupported toolchain.", "is missing, or too old"),
        ("cudaErrorNoDevice (no CUDA-capable device is detected)", "no CUDA-capable device is detected"),
        ("CUDA failure 101: invalid device ordinal ; GPU=7", "invalid device ordinal"),
        ("no kernel image is available for execution on the device", "holds no code for this GPU"),
        ("CUDA-capable device(s) is/are busy or unavailable", "the GPU is unavailable"),
        ("cudaErrorIllegalAddress (an illegal memory access was encountered)", "the GPU stopped working"),
        ("CUDA failure 719: unspecified launch failure", "the GPU stopped working"),
        ("uncorrectable ECC error encountered", "the GPU stopped working"),
        ("GPU is lost", "the GPU stopped working"),
        ("CUDA failure 710: device-side assert triggered", "the GPU stopped working"),
        ("cudaErrorIllegalInstruction (an illegal instruction was encountered)", "the GPU stopped working"),
        ("CUDA failure 716: misaligned address ; GPU=0", "the GPU stopped working"),
        ("CUDA failure 717: operation not supported on global/shared address space", "the GPU stopped working"),
        ("CUDA failure 807: MPS server is not ready to accept new MPS client requests", "the GPU is unavailable"),
        ("CUDA failure 718: invalid program counter", "the GPU stopped working"),
        ("CUDA failure 220: Invalid access of peer GPU memory over nvlink or a hardware error", "the GPU stopped"),
        ("cudaErrorUnknown (unknown error)", "the GPU stopped working"),
        ("CUDA failure 999: unknown error ; GPU=0", "the GPU stopped working"),
        ("cudaErrorSystemNotReady (system not yet initialized)", "the GPU is unavailable"),
        ("CUDA_ERROR_SYSTEM_NOT_READY (system not yet initialized)", "the GPU is unavailable"),
        ("cudaErrorMpsConnectionFailed (MPS client failed to connect to the MPS control daemon)", "is unavailable"),
        ("cudaErrorStubLibrary (CUDA driver is a stub library)", "is missing, or too old"),
        ("CUDA failure 3: initialization error ; GPU=0", "the GPU failed"),
        ("CUDA failure 900: operation not permitted when stream is capturing ; GPU=0", "the GPU failed"),
        ("CUDA failure 901: operation failed due to a previous error during capture", "the GPU failed"),
        ("CUDA failure 401: the operation cannot be performed in the present state", "the GPU failed"),
        ("CUBLAS failure 1: the library was not initialized ; GPU=0", "the GPU failed"),
        ("CUBLAS failure 3: the resource allocation failed", "the GPU failed"),
        ("CUBLAS failure 13: the GPU program failed to execute ; GPU=0", "the GPU failed"),
        ("CUBLAS_STATUS_INTERNAL_ERROR", "the GPU failed"),
        ("CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED", "the GPU failed"),
        ("CUDNN failure 5003: CUDNN_STATUS_EXECUTION_FAILED_CUDART ; GPU=0", "the GPU failed"),
    ],
)
def test_each_text_has_its_cause(said: str, cause: str) -> None:
    error = gpu_error("net.onnx", said)
    assert error is not None
    assert error.cause.startswith("net.onnx: ")
    assert cause in error.cause
    assert error.fix
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    "said",
    [
        "INVALID_ARGUMENT : Got invalid dimensions for input: pixels",
        "cudaErrorInvalidDevicePointer (invalid device pointer)",
        "cudaErrorInvalidDeviceFunction (invalid device function)",
        "NOT_IMPLEMENTED : Could not find an implementation for Foo(1)",
        "CUDA failure 9: invalid configuration argument ; GPU=0",
        "Load model from /home/mps/address space/net.onnx failed: Protobuf parsing failed",
        "CUBLAS failure 7: CUBLAS_STATUS_INVALID_VALUE ; GPU=0",
        "CUDNN failure 9: CUDNN_STATUS_NOT_SUPPORTED",
        "CUDNN failure 2000: CUDNN_STATUS_BAD_PARAM ; GPU=0",
        "CUDNN failure 3000: CUDNN_STATUS_NOT_SUPPORTED ; GPU=0",
    ],
)
def test_what_is_no_fault_of_the_gpu_is_none(said: str) -> None:
    assert gpu_error("x", said) is None


@given(st.integers(2, 10_000).filter(lambda code: code not in (9, 98, 801)), st.text(max_size=40))
def test_every_code_of_cuda_is_a_fault_of_the_gpu_but_those_for_parameters(code: int, said: str) -> None:
    """ONNX Runtime prints the code of an error, whatever version of CUDA it is of."""
    assume(not re.search("invalid|not_|bad_|mismatch", said, re.IGNORECASE))
    assert gpu_error("x", f"CUDA failure {code}: {said}") is not None


@given(st.text(max_size=400))
def test_any_text_gives_one_line_or_none(said: str) -> None:
    error = gpu_error("x", said)
    assert error is None or "\n" not in str(error)


@pytest.mark.parametrize(
    ("said", "needed", "figures"),
    [
        ("out of memory", None, "(1.0 GiB of 24.0 GiB free)"),
        ("out of memory", 3 << 30, "(3.0 GiB needed, 1.0 GiB of 24.0 GiB free)"),
        (
            "Failed to allocate memory for requested buffer of size 52428800",
            None,
            "(50 MiB needed, 1.0 GiB of 24.0 GiB",
        ),
        ("smaller than requested bytes of 900: Available memory of 100 is smaller", None, "(900 bytes needed, 1.0 GiB"),
    ],
)
def test_too_little_memory_names_what_was_needed_and_free(said: str, needed: int | None, figures: str) -> None:
    assert figures in str(gpu_error("x", said, needed=needed, memory=lambda: (1 << 30, 24 << 30)))


def test_memory_is_asked_for_only_where_it_matters() -> None:
    assert gpu_error("x", "unspecified launch failure", memory=lambda: pytest.fail("a lost GPU answers nothing"))
    assert "(out of memory)" in str(gpu_error("x", "out of memory"))


@pytest.mark.parametrize(
    ("visible", "cards", "reason"),
    [
        (None, 1, None),
        ("0", 1, None),
        ("1,0", 2, None),
        ("GPU-8a1b", 1, None),
        ("7", 0, None),  # a machine whose device files say nothing, such as a Jetson
        ("7", 1, "CUDA_VISIBLE_DEVICES=7: this machine has 1 GPU, number 0"),
        ("7,0", 4, "CUDA_VISIBLE_DEVICES=7,0: this machine has 4 GPUs, numbers 0 to 3"),
        ("", 1, "CUDA_VISIBLE_DEVICES= hides every GPU"),
        ("-1", 1, "CUDA_VISIBLE_DEVICES=-1 hides every GPU"),
    ],
)
def test_a_gpu_that_is_not_there_is_named(visible: str | None, cards: int, reason: str | None, tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    for name in [*(f"nvidia{number}" for number in range(cards)), "nvidiactl", "nvidia-uvm"]:
        (tmp_path / "dev" / name).touch()
    assert no_such_gpu(tmp_path, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) == reason


def test_a_machine_without_a_gpu_has_no_free_memory() -> None:
    found = device_module.gpu_memory()
    assert found is None or 0 <= found[0] <= found[1]
