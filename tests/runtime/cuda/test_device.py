"""The two implementations of the device seam, on fake CUDA libraries here and on the real ones where there is a GPU."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.runtime.cuda import device as device_module
from tests.helpers.cuda_libraries import FakeCudart, FakeDriver, cudart_device, cudart_module, pycuda_module


class TestCudart:
    def test_the_model_of_card_has_its_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = cudart_module(monkeypatch, FakeCudart())
        assert [module.CudartDevice(index).card for index in (0, 4)] == ["NVIDIA L0", "NVIDIA L4"]

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

    def test_too_little_memory_is_told_with_what_was_needed_and_free(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = FakeCudart(fails="cudaMalloc")
        fake.error = ("cudaErrorMemoryAllocation", "out of memory")
        device = cudart_device(monkeypatch, fake)
        with pytest.raises(UnavailableError) as info:
            device.allocate(5 << 30)
        assert str(info.value) == (
            "cudaMalloc: the GPU is out of memory (5.0 GiB needed, 3 MiB of 1.0 GiB free); use a smaller batch, or "
            "stop the other programs that nvidia-smi lists"
        )
        assert device.memory_info() == (3 << 20, 1 << 30)

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
        spec = importlib.util.find_spec("alexnet_deploy.runtime.cuda.cuda_python")
        assert spec is not None
        text = Path(str(spec.origin)).read_text()
        called = set(re.findall(r'(?<!_driver)_(?:call|results)\("(\w+)"', text))
        names = set(re.findall(r"cudart\.(\w+)", text)) | called
        assert len(names) > 15
        assert {name for name in names if not hasattr(runtime, name)} == set()
        driver = importlib.import_module("cuda.bindings.driver")
        names = set(re.findall(r"driver\.(\w+)", text)) | set(re.findall(r'_driver_call\("(\w+)"', text))
        assert len(names) > 5
        assert {name for name in names if not hasattr(driver, name)} == set()

    def test_the_real_library_without_a_driver(self) -> None:
        runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
        if runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaSuccess:
            pytest.skip("there is a CUDA driver")
        from alexnet_deploy.runtime.cuda.cuda_python import CudartDevice

        with pytest.raises(UnavailableError, match=r"^cudaGetDeviceCount: .*\(cudaError\w+ \(.*\)\); (update|check)"):
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
        assert (pycuda_device.capability, pycuda_device.card) == ("sm120", "NVIDIA L0")

    def test_an_error_carries_the_name_of_the_call(self, pycuda_device: Any) -> None:
        with pytest.raises(
            UnavailableError,
            match=r"^cuMemAlloc: the GPU is out of memory \(1001 bytes needed, 1.0 GiB of 16.0 GiB free\); use a",
        ):
            pycuda_device.allocate(1001)

    def test_the_free_memory(self, pycuda_device: Any) -> None:
        assert pycuda_device.memory_info() == (1 << 30, 16 << 30)

    def test_its_stream_waits_for_no_other(self, pycuda_device: Any, driver: FakeDriver) -> None:
        """As the one of cuda-python does: PyTorch's or ONNX Runtime's default stream may be busy."""
        pycuda_device.create_stream()
        assert driver.stream_flags == 1

    def test_closed_devices_leave_no_context_and_the_next_one_works(
        self, monkeypatch: pytest.MonkeyPatch, driver: FakeDriver
    ) -> None:
        made = pycuda_module(monkeypatch, driver)
        for _ in range(3):
            device = made.PycudaDevice()
            device.free(device.allocate(8))
            device.close()
            assert driver.depth == 0

    def test_it_has_no_graphs(self, pycuda_device: Any) -> None:
        assert not pycuda_device.graphs
        with pytest.raises(UnavailableError, match="no CUDA graphs"):
            pycuda_device.begin_capture(0)


def test_where_neither_library_loads_it_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda.bindings", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("cuda_python", "pycuda"):
        monkeypatch.delitem(sys.modules, f"alexnet_deploy.runtime.cuda.{name}", raising=False)
    with pytest.raises(UnavailableError, match="pip install cuda-python"):
        device_module.open_device()
    assert device_module.current_capability() is None


class TestOpenDevice:
    """The first library that opens the GPU, with cuda-python on a driver that is too old for it."""

    HINT = "; check nvidia-smi, CUDA_VISIBLE_DEVICES and the driver's version"

    @pytest.fixture(autouse=True)
    def old_driver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        copy = cudart_module(monkeypatch, FakeCudart(fails="cudaGetDeviceCount"))
        monkeypatch.setitem(sys.modules, "alexnet_deploy.runtime.cuda.cuda_python", copy)
        monkeypatch.delitem(sys.modules, "alexnet_deploy.runtime.cuda.pycuda", raising=False)

    def test_pycuda_takes_over(self, monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> None:
        monkeypatch.setitem(sys.modules, "alexnet_deploy.runtime.cuda.pycuda", pycuda_module(monkeypatch, driver))
        device = device_module.open_device()
        assert device.name == "GPU sm120 through PyCUDA"
        device.close()
        assert device_module.current_capability() == "sm120"

    def test_where_both_fail_both_causes_are_told(self, monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> None:
        def init() -> None:
            raise driver.module.Error("no CUDA-capable device is detected; is it on?")

        driver.module.__dict__["init"] = init
        monkeypatch.setitem(sys.modules, "alexnet_deploy.runtime.cuda.pycuda", pycuda_module(monkeypatch, driver))
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
