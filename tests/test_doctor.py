"""Each state of a machine has its row, its fix and its exit code."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner

from alexnet_deploy import doctor
from alexnet_deploy.cli import app
from alexnet_deploy.doctor import Check, can_run, examine, gpu
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.machine.gpu import nvidia_smi
from alexnet_deploy.runtime.cuda import cuda_python
from alexnet_deploy.runtime.cuda.cuda_python import CudaVersions, cuda_versions
from alexnet_deploy.runtime.onnxruntime import cuda as onnxruntime_cuda
from alexnet_deploy.runtime.onnxruntime import runner as onnxruntime_runner
from tests.helpers.fake_device import FakeDevice


def rows() -> dict[str, Check]:
    return {check.name: check for check in examine()}


def without(*gone: str) -> Any:
    real = doctor.version_of
    return lambda name: None if name in gone else real(name)


def test_what_the_suite_runs_with_is_found() -> None:
    checks = rows()
    assert checks["Python"].state == checks["CPU"].state == "ok"
    assert checks["ONNX Runtime"].state == "ok"
    assert "CPU" in checks["ONNX Runtime"].found
    assert "CPU" in checks["OpenVINO"].found
    assert checks["TensorRT-RTX"].found.endswith(", builds plans")
    assert "torch " in checks["extra export"].found
    assert can_run(checks.values())
    assert all(check.fix for check in checks.values() if check.state != "ok")


def test_both_onnxruntimes_are_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version_of", lambda name: "1.0")
    check = rows()["ONNX Runtime"]
    assert check.state == "broken"
    assert "overwrite each other's files" in check.found
    assert check.fix.startswith("pip uninstall -y onnxruntime onnxruntime-gpu")


def test_what_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = (
        "onnxruntime",
        "onnxruntime-gpu",
        "openvino",
        "scipy",
        "mlcommons-loadgen",
        "nvidia-ml-py",
        "pycuda",
        "cuda-bindings",
    )
    monkeypatch.setattr(doctor, "version_of", without(*gone))
    checks = rows()
    assert checks["ONNX Runtime"].fix == "pip install 'alexnet-deploy[cpu]' (or [gpu])"
    assert checks["OpenVINO"].fix == "pip install 'alexnet-deploy[cpu]'"
    assert checks["extra measure"] == Check(
        "extra measure", "absent", "without scipy", "pip install 'alexnet-deploy[measure]'"
    )
    assert checks["extra mlperf"].found == "without mlcommons-loadgen"
    assert checks["nvidia-ml-py"].found == "not installed: measurements on a GPU do not watch its clock"
    for name in ("extra mlperf", "nvidia-ml-py", "PyCUDA", "CUDA bindings"):
        assert checks[name].state == "absent"
        assert checks[name].fix.startswith("pip install ")
    assert not can_run(checks.values())


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
        assert not can_run(examine())

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


@pytest.mark.parametrize(
    ("working", "fit"),
    [
        (("OpenVINO",), True),
        (("ONNX Runtime",), True),
        (("GPU", "TensorRT", "CUDA bindings", "CUDA"), True),
        (("GPU", "TensorRT-RTX", "PyCUDA", "CUDA"), True),
        (("TensorRT-RTX", "CUDA bindings"), False),  # builds plans, and has nothing to run them on
        (("GPU", "CUDA bindings", "CUDA"), False),
    ],
)
def test_what_it_takes_to_run(working: tuple[str, ...], fit: bool) -> None:
    names = {"GPU", "ONNX Runtime", "OpenVINO", "TensorRT", "TensorRT-RTX", "CUDA bindings", "PyCUDA", "CUDA"}
    checks = [Check(name, "ok" if name in working else "absent", "") for name in sorted(names)]
    assert can_run(checks) is fit
    assert not can_run([*checks, Check("another", "broken", "")])


def test_a_library_that_does_not_load_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise ImportError("libtbb.so.12:\ncannot open shared object file")

    monkeypatch.setattr("alexnet_deploy.runtime.openvino_runner.devices", fail)
    check = rows()["OpenVINO"]
    assert check.state == "broken"
    assert check.found.endswith("does not load (libtbb.so.12: cannot open shared object file)")
    assert check.fix == "pip install --force-reinstall openvino"
    assert not can_run(examine())


@pytest.mark.parametrize(
    ("told", "state", "found"),
    [
        (None, "absent", "no nvidia-smi"),
        ("NVIDIA L4, 580.65.06, 8.9\n", "ok", "NVIDIA L4 (sm89, driver 580.65.06)"),
        ("A, 1, 7.5\nB, 1, 12.0\n", "ok", "A (sm75, driver 1); B (sm120, driver 1)"),
        (
            "Failed to initialize NVML:\nDriver mismatch",
            "broken",
            "nvidia-smi: Failed to initialize NVML: Driver mismatch",
        ),
        ("", "broken", "nvidia-smi: it prints nothing"),
    ],
)
def test_a_gpu_is_what_nvidia_smi_says(told: str | None, state: str, found: str) -> None:
    check = gpu(lambda: told)
    assert (check.state, check.found) == (state, found)


def test_nvidia_smi_is_asked_and_may_hang_or_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_smi() is None
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\nprint('NVIDIA L4, 580.65.06, 8.9')\n")
    program.chmod(0o755)
    assert gpu(nvidia_smi).found == "NVIDIA L4 (sm89, driver 580.65.06)"

    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 1)

    monkeypatch.setattr(subprocess, "run", hang)
    assert gpu(nvidia_smi).found == "nvidia-smi: it does not answer (TimeoutExpired)"


def test_cpu_features_of_a_cpuinfo(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("model name\t: A CPU\nflags\t\t: fpu avx2 avx512_vnni\n\nmodel name\t: A\n")
    assert doctor._cpu(tmp_path).found.startswith("A CPU, ")
    assert doctor._cpu(tmp_path).found.endswith(" usable cores, avx2 avx512_vnni")
    assert "features unknown" in doctor._cpu(tmp_path / "none").found


def test_the_command_prints_rows_and_its_exit_code_is_for_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = CliRunner().invoke(app, ["doctor", "--json"])
    assert ran.exit_code == 0
    report = json.loads(ran.stdout)
    assert report["can_run"] is True
    assert {"name", "state", "found", "fix"} == report["checks"][0].keys()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")  # onnxruntime-gpu, too
    ran = CliRunner().invoke(app, ["doctor"])
    assert ran.exit_code == 1
    assert "overwrite" in ran.stdout
