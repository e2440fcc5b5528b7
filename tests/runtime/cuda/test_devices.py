"""GPUs by their number, at the seam: which are there, and which one is current for a thread."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from alexnet_deploy.errors import DeployError, UnavailableError, UsageError
from alexnet_deploy.runtime.cuda import device as device_module
from alexnet_deploy.runtime.cuda.device import choose_devices
from tests.helpers.cuda_libraries import FakeCuda, FakeCudart, FakeDriver, cudart_module, pycuda_module
from tests.helpers.fake_device import FakeDevice


def machine_with(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(device_module, "open_device", lambda index=0: FakeDevice(index=index, count=count))


class TestChoice:
    def test_all_are_those_that_cuda_shows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        machine_with(monkeypatch, 3)
        assert choose_devices("all") == (0, 1, 2)
        assert choose_devices([2, 0]) == (2, 0)

    @pytest.mark.parametrize(
        ("count", "there"), [(1, "1 GPU, number 0"), (2, "2 GPUs, numbers 0 to 1"), (7, "7 GPUs, numbers 0 to 6")]
    )
    def test_one_that_is_not_there_is_told_in_one_line(
        self, count: int, there: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine_with(monkeypatch, count)
        with pytest.raises(UnavailableError) as info:
            choose_devices([0, 7])
        assert str(info.value) == (
            f"`device` 7: this process sees {there}; choose one that is there, or check CUDA_VISIBLE_DEVICES"
        )

    @pytest.mark.parametrize(
        ("wanted", "cause"),
        [([], ": is no GPU"), ([-1], "-1: is no GPU"), ([0, 1, 0], "0,1,0: a GPU is named twice")],
    )
    def test_numbers_that_name_no_gpus(self, wanted: list[int], cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
        machine_with(monkeypatch, 2)
        with pytest.raises(UsageError, match=f"^`device` {cause}"):
            choose_devices(wanted)

    @pytest.mark.parametrize("wanted", ["all", [0]])
    def test_without_a_gpu_the_cause_is_that_of_the_driver(
        self, wanted: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def none(index: int = 0) -> FakeDevice:
            raise UnavailableError("no CUDA-capable device", "check nvidia-smi")

        monkeypatch.setattr(device_module, "open_device", none)
        shown = "all" if wanted == "all" else "0"
        with pytest.raises(UnavailableError, match=f"^`device` {shown}: no CUDA-capable device; check nvidia-smi$"):
            choose_devices(wanted)  # type: ignore[arg-type]

    @pytest.mark.gpu
    def test_on_a_gpu(self) -> None:
        try:
            found = choose_devices("all")
        except DeployError as exc:
            pytest.skip(str(exc))
        assert choose_devices([found[-1]]) == (found[-1],)
        with pytest.raises(UnavailableError, match=f"`device` {len(found)}: this process sees {len(found)} GPU"):
            choose_devices([len(found)])
        for index in found:
            device = device_module.open_device(index)
            with device.current():
                device.free(device.allocate(1 << 20))
            device.close()


class TestCurrent:
    @pytest.fixture
    def driver(self) -> FakeCuda:
        return FakeCuda()

    @pytest.fixture
    def cudart(self, monkeypatch: pytest.MonkeyPatch, driver: FakeCuda) -> ModuleType:
        return cudart_module(monkeypatch, FakeCudart(), driver)

    def test_cuda_python_makes_its_context_current_and_goes_back(self, cudart: ModuleType, driver: FakeCuda) -> None:
        first, second = cudart.CudartDevice(1), cudart.CudartDevice(2)
        with first.current():
            with second.current():
                assert driver.stack == [1, 2]
            assert driver.stack == [1]
        with pytest.raises(KeyError), first.current():
            raise KeyError
        assert driver.stack == []
        assert driver.retained == [1, 2], "one primary context per GPU, and none of GPU 0"

    def test_a_context_that_cannot_be_made_is_told(self, cudart: ModuleType, driver: FakeCuda) -> None:
        driver.cuDevicePrimaryCtxRetain = lambda device: (2, None)  # type: ignore[method-assign,assignment]
        driver.cuGetErrorName = lambda error: (0, b"CUDA_ERROR_OUT_OF_MEMORY")  # type: ignore[attr-defined]
        driver.cuGetErrorString = lambda error: (0, b"out of memory")  # type: ignore[attr-defined]
        with (
            pytest.raises(UnavailableError, match=r"^cuDevicePrimaryCtxRetain: the GPU is out of memory"),
            cudart.CudartDevice(1).current(),
        ):
            pass
        assert driver.stack == []

    def test_pycuda_has_one_primary_context_per_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        driver = FakeDriver()
        made = pycuda_module(monkeypatch, driver)
        devices = [made.PycudaDevice(index) for index in (0, 1, 1)]
        assert driver.retained == [], "a look at a GPU makes no context, which takes memory"
        assert [device.index for device in devices] == [0, 1, 1]
        assert [device.count for device in devices] == [2, 2, 2]
        with devices[1].current():
            assert driver.depth == 1
            devices[1].free(devices[1].allocate(8))
        devices[2].free(devices[2].allocate(8))
        assert driver.depth == 0
        assert driver.retained == [1]


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["cuda_python.CudartDevice", "pycuda.PycudaDevice"])
def test_on_a_gpu_it_is_current_within_the_block_alone(library: str) -> None:
    cudart = pytest.importorskip("cuda.bindings.runtime")
    module, _, name = library.partition(".")
    try:
        implementation = getattr(importlib.import_module(f"alexnet_deploy.runtime.cuda.{module}"), name)
        device = implementation(implementation().count - 1)
    except (ImportError, UnavailableError) as exc:
        pytest.skip(str(exc))
    before = cudart.cudaGetDevice()
    with device.current():
        assert cudart.cudaGetDevice()[1] == device.index
        device.free(device.allocate(1 << 20))
    assert cudart.cudaGetDevice() == before
    device.close()
