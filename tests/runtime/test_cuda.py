"""The two implementations of the device seam, on fake CUDA libraries here and on the real ones where there is a GPU."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.runtime import cuda as device_module


def load_device(monkeypatch: pytest.MonkeyPatch, name: str, modules: dict[str, ModuleType]) -> ModuleType:
    """A private copy of ``alexnet_deploy.runtime.<name>`` with ``modules`` standing for its CUDA library."""
    for module_name, fake in modules.items():
        monkeypatch.setitem(sys.modules, module_name, fake)
    spec = importlib.util.find_spec(f"alexnet_deploy.runtime.{name}")
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
        self.calls: list[tuple[Any, ...]] = []
        self.cudaError_t = SimpleNamespace(cudaSuccess=0)

    def __getattr__(self, name: str) -> Any:
        if name in ("cudaDeviceAttr", "cudaMemcpyKind", "cudaStreamCaptureMode"):
            return AnyMember()

        def function(*args: Any) -> tuple[Any, ...]:
            self.calls.append((name, *args))
            if name in ("cudaGetErrorName", "cudaGetErrorString"):
                return 0, b"cudaErrorFake" if name.endswith("Name") else b"it is fake"
            return (999, None) if name == self.fails else (0, 7 + len(self.calls))

        return function


class AnyMember:
    """An enumeration whose members are their own names."""

    def __getattr__(self, name: str) -> str:
        return name


def cudart_module(monkeypatch: pytest.MonkeyPatch, fake: FakeCudart) -> ModuleType:
    packages = {"cuda": module("cuda"), "cuda.bindings": module("cuda.bindings", runtime=fake), fake.__name__: fake}
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
                outer.detached = True

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

            def synchronize(self) -> None:
                assert outer.depth == 1

        def copy_in(pointer: int, source: np.ndarray[Any, Any], stream: Stream) -> None:
            outer.memory[pointer][:] = source.tobytes()

        def copy_out(target: np.ndarray[Any, Any], pointer: int, stream: Stream) -> None:
            target[:] = np.frombuffer(outer.memory[pointer], target.dtype)

        gpu = SimpleNamespace(retain_primary_context=Context, compute_capability=lambda: (12, 0))
        self.detached = False
        self.module = module(
            "pycuda.driver",
            init=lambda: None,
            Device=lambda index: gpu,
            Context=Context,
            Error=Error,
            Stream=Stream,
            mem_alloc=Allocation,
            pagelocked_empty=np.empty,
            memcpy_htod_async=copy_in,
            memcpy_dtoh_async=copy_out,
        )


def pycuda_module(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> ModuleType:
    packages = {"pycuda": module("pycuda", driver=driver.module), "pycuda.driver": driver.module}
    return load_device(monkeypatch, "pycuda", packages)


class TestCudart:
    def test_copies_name_source_target_size_and_direction(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = FakeCudart()
        device = cudart_device(monkeypatch, fake)
        array = np.zeros((2, 3), np.float32)
        device.upload(0x100, array, 5)
        device.download(array, 0x200, 5)
        assert fake.calls[-2:] == [
            ("cudaMemcpyAsync", 0x100, array.ctypes.data, 24, "cudaMemcpyHostToDevice", 5),
            ("cudaMemcpyAsync", array.ctypes.data, 0x200, 24, "cudaMemcpyDeviceToHost", 5),
        ]

    def test_an_error_carries_the_name_of_the_call_and_of_the_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        device = cudart_device(monkeypatch, FakeCudart(fails="cudaMalloc"))
        with pytest.raises(UnavailableError, match=r"^cudaMalloc: cudaErrorFake \(it is fake\); check nvidia-smi"):
            device.allocate(1)

    @pytest.mark.parametrize("fails", ["", "cudaGraphInstantiate"])
    def test_the_recorded_template_is_destroyed_once_instantiated_or_not(
        self, fails: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake = FakeCudart(fails)
        device = cudart_device(monkeypatch, fake)
        if fails:
            with pytest.raises(UnavailableError, match="cudaGraphInstantiate"):
                device.end_capture(5)
        else:
            device.end_capture(5)
        (template,) = [args[1] for args in fake.calls if args[0] == "cudaGraphInstantiate"]
        assert [args[1] for args in fake.calls if args[0] == "cudaGraphDestroy"] == [template]

    def test_the_last_error_is_asked_for_and_so_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = FakeCudart(fails="cudaGetLastError")  # it returns the error that it forgets
        cudart_device(monkeypatch, fake).clear_error()
        assert fake.calls[-1] == ("cudaGetLastError",)

    def test_every_name_exists_in_the_real_library(self) -> None:
        runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
        spec = importlib.util.find_spec("alexnet_deploy.runtime.cuda_python")
        assert spec is not None
        text = Path(str(spec.origin)).read_text()
        names = set(re.findall(r"cudart\.(\w+)", text)) | set(re.findall(r'_call\("(\w+)"', text))
        assert len(names) > 15
        assert {name for name in names if not hasattr(runtime, name)} == set()

    def test_the_real_library_without_a_driver(self) -> None:
        runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
        if runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaSuccess:
            pytest.skip("there is a CUDA driver")
        from alexnet_deploy.runtime.cuda_python import CudartDevice

        with pytest.raises(UnavailableError, match=r"^cudaGetDeviceCount: cudaError\w+ \(.*\); check nvidia-smi"):
            CudartDevice()
        assert device_module.current_capability() is None


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def pycuda_device(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> Iterator[Any]:
    device = pycuda_module(monkeypatch, driver).PycudaDevice()
    yield device
    assert driver.depth == 0, "every call leaves the thread's context stack as it was"


class TestPycuda:
    def test_memory_goes_there_and_back_and_is_freed(self, pycuda_device: Any, driver: FakeDriver) -> None:
        pointer, stream = pycuda_device.allocate(64), pycuda_device.create_stream()
        sent, received = np.arange(64, dtype=np.uint8), pycuda_device.allocate_pinned(64)
        pycuda_device.upload(pointer, sent, stream)
        pycuda_device.download(received, pointer, stream)
        pycuda_device.synchronize(stream)
        np.testing.assert_array_equal(received, sent)
        pycuda_device.free(pointer)
        pycuda_device.destroy_stream(stream)
        pycuda_device.close()
        pycuda_device.close()
        assert not driver.memory
        assert driver.detached
        assert pycuda_device.capability == "sm120"

    def test_an_error_carries_the_name_of_the_call(self, pycuda_device: Any) -> None:
        with pytest.raises(UnavailableError, match=r"^cuMemAlloc: out of memory; check nvidia-smi"):
            pycuda_device.allocate(1001)

    def test_it_has_no_graphs(self, pycuda_device: Any) -> None:
        assert not pycuda_device.graphs
        with pytest.raises(UnavailableError, match="no CUDA graphs"):
            pycuda_device.begin_capture(0)


def test_where_neither_library_loads_it_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda.bindings", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("cuda_python", "pycuda"):
        monkeypatch.delitem(sys.modules, f"alexnet_deploy.runtime.{name}", raising=False)
    with pytest.raises(UnavailableError, match="pip install cuda-python"):
        device_module.open_device()
    assert device_module.current_capability() is None


class TestOpenDevice:
    """The first library that opens the GPU, with cuda-python on a driver that is too old for it."""

    HINT = "; check nvidia-smi, CUDA_VISIBLE_DEVICES and the driver's version"

    @pytest.fixture(autouse=True)
    def old_driver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        copy = cudart_module(monkeypatch, FakeCudart(fails="cudaGetDeviceCount"))
        monkeypatch.setitem(sys.modules, "alexnet_deploy.runtime.cuda_python", copy)
        monkeypatch.delitem(sys.modules, "alexnet_deploy.runtime.pycuda", raising=False)

    def test_pycuda_takes_over(self, monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> None:
        monkeypatch.setitem(sys.modules, "alexnet_deploy.runtime.pycuda", pycuda_module(monkeypatch, driver))
        device = device_module.open_device()
        assert device.name == "GPU sm120 through PyCUDA"
        device.close()
        assert device_module.current_capability() == "sm120"

    def test_where_both_fail_both_causes_are_told(self, monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> None:
        def init() -> None:
            raise driver.module.Error("no CUDA-capable device is detected; is it on?")

        driver.module.__dict__["init"] = init
        monkeypatch.setitem(sys.modules, "alexnet_deploy.runtime.pycuda", pycuda_module(monkeypatch, driver))
        with pytest.raises(UnavailableError) as info:
            device_module.open_device()
        assert str(info.value) == (
            "cuda-python: cudaGetDeviceCount: cudaErrorFake (it is fake), "
            f"PyCUDA: cuInit: no CUDA-capable device is detected; is it on?{self.HINT}"
        )

    def test_one_that_does_not_load_is_a_cause(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "pycuda").mkdir()
        (tmp_path / "pycuda/__init__.py").touch()
        (tmp_path / "pycuda/driver.py").write_text("raise ImportError('libcuda.so.1: cannot open it')")
        for name in ("pycuda", "pycuda.driver"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(UnavailableError, match=r"PyCUDA does not load \(libcuda.so.1: cannot open it\);"):
            device_module.open_device()

    def test_one_that_is_not_installed_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pycuda.driver", None)
        with pytest.raises(UnavailableError) as info:
            device_module.open_device()
        assert str(info.value) == f"cuda-python: cudaGetDeviceCount: cudaErrorFake (it is fake){self.HINT}"


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["cuda_python.CudartDevice", "pycuda.PycudaDevice"])
def test_memory_goes_there_and_back_on_a_gpu(library: str) -> None:
    if device_module.current_capability() is None:
        pytest.skip("no usable CUDA GPU")
    module_name, class_name = library.split(".")
    try:
        implementation = importlib.import_module(f"alexnet_deploy.runtime.{module_name}")
    except ImportError as exc:
        pytest.skip(str(exc))
    device = getattr(implementation, class_name)()
    sent, received = device.allocate_pinned(64), device.allocate_pinned(64)
    sent[:], received[:] = np.arange(64), 0
    pointer, stream = device.allocate(64), device.create_stream()
    device.upload(pointer, sent, stream)
    device.download(received, pointer, stream)
    device.synchronize(stream)
    np.testing.assert_array_equal(received, sent)
    device.free_pinned(sent)
    device.free_pinned(received)
    device.free(pointer)
    device.destroy_stream(stream)
    device.close()
