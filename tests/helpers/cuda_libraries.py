"""Fakes of cuda-python and PyCUDA, below the two implementations of the device seam."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest


def load_device(monkeypatch: pytest.MonkeyPatch, name: str, modules: dict[str, ModuleType]) -> ModuleType:
    """A private copy of ``alexnet_deploy.runtime.cuda.<name>`` with ``modules`` standing for its CUDA library."""
    for module_name, fake in modules.items():
        monkeypatch.setitem(sys.modules, module_name, fake)
    spec = importlib.util.find_spec(f"alexnet_deploy.runtime.cuda.{name}")
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


def module(name: str, **members: Any) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(members)
    return made


class FakeCudart(ModuleType):
    """``cuda.bindings.runtime``: every function answers with success and a counted handle, but one."""

    def __init__(self, fails: str = "") -> None:
        super().__init__("cuda.bindings.runtime")
        self.fails = fails
        self.error = ("cudaErrorFake", "it is fake")
        self.calls: list[tuple[Any, ...]] = []
        self.cudaError_t = SimpleNamespace(cudaSuccess=0)

    def __getattr__(self, name: str) -> Any:
        if name in ("cudaDeviceAttr", "cudaMemcpyKind", "cudaStreamCaptureMode"):
            return AnyMember()

        def function(*args: Any) -> tuple[Any, ...]:
            self.calls.append((name, *args))
            if name == "cudaMemGetInfo":
                return 0, 3 << 20, 1 << 30
            if name in ("cudaGetErrorName", "cudaGetErrorString"):
                return 0, self.error[name.endswith("String")].encode()
            return (999, None) if name == self.fails else (0, 7 + len(self.calls))

        return function


class FakeCuda(ModuleType):
    """``cuda.bindings.driver``: contexts of GPUs are their numbers; ``stack`` are the current ones of the thread."""

    def __init__(self) -> None:
        super().__init__("cuda.bindings.driver")
        self.CUresult = SimpleNamespace(CUDA_SUCCESS=0)
        self.stack: list[int] = []
        self.retained: list[int] = []

    def cuInit(self, flags: int) -> tuple[int]:
        return (0,)

    def cuDeviceGet(self, index: int) -> tuple[int, int]:
        return 0, index

    def cuDeviceGetName(self, length: int, device: int) -> tuple[int, bytes]:
        return 0, f"NVIDIA L{device}".encode().ljust(length, b"\0")

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[int, int]:
        self.retained.append(device)
        return 0, device

    def cuCtxPushCurrent(self, context: int) -> tuple[int]:
        self.stack.append(context)
        return (0,)

    def cuCtxPopCurrent(self) -> tuple[int, int]:
        return 0, self.stack.pop()


class AnyMember:
    """An enumeration whose members are their own names."""

    def __getattr__(self, name: str) -> str:
        return name


def cudart_module(monkeypatch: pytest.MonkeyPatch, fake: FakeCudart, driver: ModuleType | None = None) -> ModuleType:
    driver = driver or FakeCuda()
    bindings = module("cuda.bindings", runtime=fake, driver=driver)
    packages = {"cuda": module("cuda"), "cuda.bindings": bindings, fake.__name__: fake, driver.__name__: driver}
    return load_device(monkeypatch, "cuda_python", packages)


def cudart_device(monkeypatch: pytest.MonkeyPatch, fake: FakeCudart) -> Any:
    return cudart_module(monkeypatch, fake).CudartDevice()


class FakeDriver:
    """``pycuda.driver`` on host memory; ``depth`` is the stack of current contexts."""

    def __init__(self) -> None:
        self.depth = 0
        self.memory: dict[int, bytearray] = {}
        outer = self

        class Error(Exception):
            pass

        class Context:
            def push(self) -> None:
                outer.depth += 1

            @staticmethod
            def pop() -> None:
                outer.depth -= 1

            def detach(self) -> None:
                outer.depth += 1  # as PyCUDA does: it makes the context current, releases it, and leaves it there

        class Allocation:
            def __init__(self, nbytes: int) -> None:
                if nbytes > 1000:
                    raise Error("out of memory")
                outer.memory[id(self)] = bytearray(nbytes)

            def __int__(self) -> int:
                return id(self)

            def free(self) -> None:
                del outer.memory[id(self)]

        class Stream:
            handle = 0x51

            def __init__(self, flags: int) -> None:
                outer.stream_flags = flags

            def synchronize(self) -> None:
                assert outer.depth == 1

        def copy_in(pointer: int, source: np.ndarray[Any, Any], stream: Stream) -> None:
            outer.memory[pointer][:] = source.tobytes()

        def copy_out(target: np.ndarray[Any, Any], pointer: int, stream: Stream) -> None:
            target[:] = np.frombuffer(outer.memory[pointer], target.dtype)

        class Gpu:
            def __init__(self, index: int) -> None:
                self.index = index

            @staticmethod
            def count() -> int:
                return 2

            @staticmethod
            def compute_capability() -> tuple[int, int]:
                return 12, 0

            def name(self) -> str:
                return f"NVIDIA L{self.index}"

            def retain_primary_context(self) -> Context:
                outer.retained.append(self.index)
                return Context()

        self.retained: list[int] = []
        self.stream_flags = 0
        self.module = module(
            "pycuda.driver",
            init=lambda: None,
            Device=Gpu,
            Context=Context,
            Error=Error,
            Stream=Stream,
            mem_alloc=Allocation,
            pagelocked_empty=np.empty,
            mem_get_info=lambda: (1 << 30, 16 << 30),
            memcpy_htod_async=copy_in,
            memcpy_dtoh_async=copy_out,
        )


def pycuda_module(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> ModuleType:
    packages = {"pycuda": module("pycuda", driver=driver.module), "pycuda.driver": driver.module}
    return load_device(monkeypatch, "pycuda", packages)
