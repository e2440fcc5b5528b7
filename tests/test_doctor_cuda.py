"""What the doctor says of CUDA: its driver, its bindings, and what is built for it."""

from __future__ import annotations

import sys
from unittest.mock import Mock

import pytest

from alexnet_deploy import doctor
from alexnet_deploy.doctor import Check, broken, can_run, examine
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.runtime.cuda import cuda_python
from alexnet_deploy.runtime.cuda.cuda_python import CudaVersions, cuda_versions
from alexnet_deploy.runtime.onnxruntime import cuda as onnxruntime_cuda
from alexnet_deploy.runtime.onnxruntime import runner as onnxruntime_runner
from tests.helpers.doctor import rows, without
from tests.helpers.fake_device import FakeDevice


class TestCuda:
    """What nvidia-smi sees, CUDA must open: nothing that only loads proves that."""

    @pytest.fixture(autouse=True)
    def card(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "nvidia_smi", lambda: "NVIDIA L4, 550.54.14, 8.9")

    @pytest.fixture
    def no_driver(self) -> None:
        if cuda_versions().driver:
            pytest.skip("there is a CUDA driver")

    @pytest.mark.usefixtures("no_driver")
    def test_a_card_without_the_drivers_library(self) -> None:
        check = rows()["CUDA"]
        assert check.state == "broken"
        assert check.found.startswith(
            "no driver, cuda-python: cudaGetDeviceCount: NVIDIA's driver is missing, or too old"
        )
        assert check.fix.startswith("install the driver's libcuda.so.1; in a container, add compute")
        checks = examine()
        assert broken(checks) == ["CUDA"]
        assert can_run(checks), "on the CPU"

    @pytest.mark.usefixtures("no_driver")
    @pytest.mark.parametrize(
        ("driver", "runtime", "fix"),
        [
            (12040, 13050, "update NVIDIA's driver to 580 or later, which CUDA 13 needs"),
            (13000, 14000, "update NVIDIA's driver to a newer branch, which CUDA 14 needs"),
            (13000, 13050, "check nvidia-smi, CUDA_VISIBLE_DEVICES and the driver's version"),
        ],
    )
    def test_a_driver_that_is_too_old(
        self, monkeypatch: pytest.MonkeyPatch, driver: int, runtime: int, fix: str
    ) -> None:
        monkeypatch.setattr(cuda_python, "cuda_versions", lambda: CudaVersions(driver, runtime))
        check = rows()["CUDA"]
        assert check.state == "broken"
        assert check.found.startswith(f"driver for CUDA {driver // 1000}.{driver % 1000 // 10}, cuda-python: cuda")
        assert check.fix == fix

    def test_a_device_that_opens_is_closed_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        device = FakeDevice()
        monkeypatch.setattr("alexnet_deploy.runtime.cuda.device.open_device", lambda: device)
        monkeypatch.setattr(cuda_python, "cuda_versions", lambda: CudaVersions(13000, 13050))
        checks = rows()
        assert checks["CUDA"] == Check("CUDA", "ok", "fake GPU sm89, driver for CUDA 13.0")
        assert checks["CUDA bindings"].found.endswith(": CUDA 13.5")
        assert set(device.calls) == {"close"}

    @pytest.mark.parametrize(
        ("here", "state", "says"),
        [
            ("sm89", "ok", "builds plans; sm89: fp32, fp16, fp8; weights alone in int8 and int4: yes"),
            ("sm90", "absent", "builds plans, but none for this GPU (sm90)"),
            ("sm130", "absent", "builds plans, but none for this GPU (sm130)"),
        ],
    )
    def test_what_tensorrt_builds_for_this_gpu(
        self, monkeypatch: pytest.MonkeyPatch, here: str, state: str, says: str
    ) -> None:
        pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'alexnet-deploy[rtx]'")
        monkeypatch.setattr("alexnet_deploy.runtime.cuda.device.open_device", lambda: FakeDevice(capability=here))
        row = rows()["TensorRT-RTX"]
        assert (row.state, says in row.found) == (state, True), row
        assert ("alexnet-deploy[gpu]" in row.fix) is (state == "absent")

    def test_cause_and_fix_of_one_that_does_not_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        error = Mock(side_effect=UnavailableError("cuInit: no device; is it on?", fix="check nvidia-smi"))
        monkeypatch.setattr("alexnet_deploy.runtime.cuda.device.open_device", error)
        monkeypatch.setattr(cuda_python, "cuda_versions", lambda: CudaVersions(13050, 13050))
        found = "driver for CUDA 13.5, cuInit: no device; is it on?"
        assert rows()["CUDA"] == Check("CUDA", "broken", found, "check nvidia-smi")

    def test_without_a_library_that_opens_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "version_of", without("cuda-bindings", "pycuda"))
        check = rows()["CUDA"]
        assert check.state == "absent"
        assert check.fix == "pip install 'alexnet-deploy[gpu]' (or [rtx])"

    def test_pycuda_is_loaded_beside_a_driver_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pycuda", None)
        real = doctor.version_of
        monkeypatch.setattr(doctor, "version_of", lambda name: "2026.1" if name == "pycuda" else real(name))
        check = rows()["PyCUDA"]
        assert check.state == "broken"
        assert check.found.startswith("2026.1, does not load (")
        monkeypatch.setattr(doctor, "nvidia_smi", lambda: None)
        checks = rows()
        assert checks["PyCUDA"].state == checks["CUDA"].state == "absent"
        assert checks["PyCUDA"].found == "2026.1, which loads only with a driver"

    @pytest.fixture
    def compiled_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An ONNX Runtime with CUDA, whichever package is installed here."""
        monkeypatch.setattr(onnxruntime_runner, "providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])

    @pytest.mark.usefixtures("compiled_in")
    def test_cuda_inside_onnx_runtime_is_what_a_session_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnxruntime_cuda, "try_cuda", lambda: "runs a model")
        assert rows()["ONNX Runtime"].found.endswith(": CPU")
        assert rows()["ONNX Runtime CUDA"].state == "ok"
        monkeypatch.setattr(onnxruntime_cuda, "try_cuda", Mock(side_effect=RuntimeError("it\nbroke")))
        check = rows()["ONNX Runtime CUDA"]
        assert check.state == "broken"
        assert "does not start (it broke)" in check.found
        assert "onnxruntime-gpu[cuda,cudnn]" in check.fix

    @pytest.mark.usefixtures("compiled_in")
    def test_no_session_is_made_where_there_is_no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "nvidia_smi", lambda: None)
        monkeypatch.setattr(onnxruntime_cuda, "try_cuda", lambda: pytest.fail("a session was made"))
        assert rows()["ONNX Runtime CUDA"].state == "absent"

    @pytest.mark.usefixtures("compiled_in")
    @pytest.mark.parametrize(
        ("missing", "there", "cause", "fix"),
        [
            (
                ("libcublasLt.so.13",),
                set(),
                "is built for CUDA 13 and does not find libcublasLt.so.13",
                "pip install '",
            ),
            (("libcudnn.so.9",), {13}, "is built for CUDA 13 and does not find libcudnn.so.9", "pip install '"),
            (("libcublas.so.13",), {12}, "what is installed here is CUDA 12", "which adds CUDA 13, or the version for"),
        ],
    )
    def test_libraries_that_cuda_lacks_are_named(
        self, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], there: set[int], cause: str, fix: str
    ) -> None:
        monkeypatch.setattr(onnxruntime_cuda, "preload_cuda", lambda: missing)
        monkeypatch.setattr(onnxruntime_cuda, "built_for_cuda", lambda: 13)
        monkeypatch.setattr(onnxruntime_cuda, "installed_cuda", lambda: frozenset(there))
        check = rows()["ONNX Runtime CUDA"]
        assert check.state == "broken"
        assert cause in check.found
        assert "onnxruntime-gpu[cuda,cudnn]" in check.fix
        assert fix in check.fix

    def test_a_package_for_the_cpu_has_no_row_for_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnxruntime_runner, "providers", lambda: ["CPUExecutionProvider"])
        assert "ONNX Runtime CUDA" not in rows()
