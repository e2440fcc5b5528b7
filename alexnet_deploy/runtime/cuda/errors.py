"""What went wrong on a GPU, from the text of an error: CUDA, cuBLAS, cuDNN and ONNX Runtime word it differently."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from alexnet_deploy.errors import UnavailableError, one_line
from alexnet_deploy.machine.gpu import count_gpus

Memory = tuple[int, int]
"""Free and total bytes of a GPU."""

# The names are those of cudaError_t and CUresult; the words those of cudaGetErrorString, which PyCUDA and ONNX Runtime
# print. "failure 2" is ONNX Runtime's "CUDA failure 2: out of memory".
_OUT_OF_MEMORY = re.compile(
    r"out of memory|out_of_memory|cudaErrorMemoryAllocation|failed to allocate memory for requested buffer"
    r"|STATUS_ALLOC_FAILED|DEVICE_ALLOCATION_FAILED|available memory of \d+ is smaller",
    re.IGNORECASE,
)
_NEEDED = re.compile(r"(?:requested buffer of size|requested bytes of|requested bytes:?) (\d+)", re.IGNORECASE)
_DRIVER = re.compile(
    r"driver version is insufficient|cudaErrorInsufficientDriver|INSUFFICIENT_DRIVER|unsupported display driver"
    r"|SystemDriverMismatch|SYSTEM_DRIVER_MISMATCH|forward compatibility was attempted|UnsupportedPtxVersion"
    r"|unsupported toolchain|CompatNotSupportedOnDevice|stub library|StubLibrary|STUB_LIBRARY",
    re.IGNORECASE,
)
_NO_GPU = re.compile(
    r"no CUDA-capable device|cudaErrorNoDevice|CUDA_ERROR_NO_DEVICE|invalid device ordinal|cudaErrorInvalidDevice\b"
    r"|CUDA_ERROR_INVALID_DEVICE\b",
    re.IGNORECASE,
)
_NO_KERNEL = re.compile(r"no kernel image is available|NoKernelImageForDevice|NO_BINARY_FOR_GPU", re.IGNORECASE)
_BUSY = re.compile(
    r"busy or unavailable|Devices?Unavailable|DEVICE_UNAVAILABLE|system not yet initialized|SystemNotReady"
    r"|SYSTEM_NOT_READY|MPS (?:client|server)|cudaErrorMps|CUDA_ERROR_MPS",
    re.IGNORECASE,
)
_LOST = re.compile(
    r"illegal memory access|IllegalAddress|ILLEGAL_ADDRESS|unspecified launch failure|LaunchFailure|LAUNCH_FAILED"
    r"|uncorrectable|EccUncorrectable|fallen off the bus|gpu is lost|hardware stack error|HardwareStackError"
    r"|launch timed out|LaunchTimeout|context is destroyed|ContextIsDestroyed|CONTEXT_IS_DESTROYED"
    r"|device-side assert|cudaErrorAssert|ERROR_ASSERT|illegal instruction|IllegalInstruction|ILLEGAL_INSTRUCTION"
    r"|misaligned address|MisalignedAddress|MISALIGNED_ADDRESS|shared address space|InvalidAddressSpace"
    r"|INVALID_ADDRESS_SPACE|invalid program counter|cudaErrorInvalidPc|ERROR_INVALID_PC|peer GPU memory over nvlink"
    r"|cudaErrorContained|ERROR_CONTAINED|cudaErrorUnknown|CUDA_ERROR_UNKNOWN|CUDA failure 999",
    re.IGNORECASE,
)
_ANY_OTHER = re.compile(
    r"\b(?:CUDA|CUBLAS|CUDNN|CUFFT|CURAND|CUSPARSE|NCCL) failure \d+"
    r"|\b(?:CUBLAS|CUDNN)_STATUS_\w+",
    re.IGNORECASE,
)
"""Every other error of CUDA and its libraries, as ONNX Runtime prints them. Our own calls name theirs themselves."""
_REFUSED = re.compile(
    # What a library says of the parameters that it got: a model's fault, or ours, and the GPU goes on.
    r"CUDA failure (?:1|9|98|801):|CUBLAS failure (?:7|8|15):|CUDNN failure (?:3|9|2\d{3}|3\d{3}):"
    r"|_(?:INVALID_VALUE|BAD_PARAM|NOT_SUPPORTED|ARCH_MISMATCH)",
    re.IGNORECASE,
)

_AGAIN = "start again; if it happens again, check nvidia-smi and the Xid lines of dmesg"


def gpu_error(
    what: str, said: object, *, needed: int | None = None, memory: Callable[[], Memory | None] = lambda: None
) -> UnavailableError | None:
    """The error for a user if ``said``, the text of another library's error, names a fault of the GPU; None if not.

    ``what`` stands in front: the call or the file. ``memory`` is asked only if there is too little of it, and may not
    raise; ``needed`` is the number of bytes that were asked for, which the text may tell as well.
    """
    text = one_line(said)
    if _OUT_OF_MEMORY.search(text):
        named = _NEEDED.search(one_line(said, 2000))
        amount = needed if needed is not None else (int(named[1]) if named else None)
        have = memory()
        figures = [f"{_bytes(amount)} needed"] if amount is not None else []
        figures += [f"{_bytes(have[0])} of {_bytes(have[1])} free"] if have is not None else []
        return UnavailableError(
            f"{what}: the GPU is out of memory ({', '.join(figures) or text})",
            fix="use a smaller batch, or stop the other programs that nvidia-smi lists",
        )
    if _DRIVER.search(text):
        return UnavailableError(
            f"{what}: NVIDIA's driver is missing, or too old for this version of CUDA ({text})",
            fix="update the driver: CUDA 13 needs branch 580 or later, CUDA 12 branch 525",
        )
    if _NO_GPU.search(text):
        return UnavailableError(f"{what}: {no_such_gpu() or text}", fix="check nvidia-smi and CUDA_VISIBLE_DEVICES")
    if _NO_KERNEL.search(text):
        return UnavailableError(
            f"{what}: the library holds no code for this GPU ({text})", fix="install a version that supports it"
        )
    if _BUSY.search(text):
        return UnavailableError(
            f"{what}: the GPU is unavailable: another process has it for itself, or the driver lost it ({text})",
            fix="check nvidia-smi, and the services that the machine needs for its GPUs (fabric manager, MPS)",
        )
    if _LOST.search(text):
        return UnavailableError(
            f"{what}: the GPU stopped working in this process ({text})",
            fix=_AGAIN,
        )
    if _ANY_OTHER.search(text) and not _REFUSED.search(text):
        return UnavailableError(f"{what}: the GPU failed ({text})", fix=_AGAIN)
    return None


def no_such_gpu(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> str | None:
    """Why CUDA sees no GPU, if ``CUDA_VISIBLE_DEVICES`` is the reason; None if it is not, or if nobody can tell."""
    wanted = environment.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return None
    if wanted.strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={wanted.strip()} hides every GPU"
    first = wanted.split(",")[0].strip()
    there = count_gpus(root)
    if there and first.isdecimal() and int(first) >= there:
        gpus = "1 GPU, number 0" if there == 1 else f"{there} GPUs, numbers 0 to {there - 1}"
        return f"CUDA_VISIBLE_DEVICES={wanted.strip()}: this machine has {gpus}"
    return None


def _bytes(count: int) -> str:
    if count >= 1 << 30:
        return f"{count / (1 << 30):.1f} GiB"
    return f"{count / (1 << 20):.0f} MiB" if count >= 1 << 20 else f"{count} bytes"
