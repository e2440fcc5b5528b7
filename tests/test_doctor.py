"""Each state of a machine has its row, its fix and its exit code."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alexnet_deploy import doctor
from alexnet_deploy.cli import app
from alexnet_deploy.doctor import Check, broken, can_run, examine, gpu
from alexnet_deploy.machine.gpu import nvidia_smi
from tests.helpers.doctor import rows, without


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
    assert can_run([*checks, Check("another", "broken", "")]) is fit, "what is broken takes no runtime away"
    assert broken([*checks, Check("another", "broken", "")]) == ["another"]


def test_a_library_that_does_not_load_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise ImportError("libtbb.so.12:\ncannot open shared object file")

    monkeypatch.setattr("alexnet_deploy.runtime.openvino_runner.devices", fail)
    check = rows()["OpenVINO"]
    assert check.state == "broken"
    assert check.found.endswith("does not load (libtbb.so.12: cannot open shared object file)")
    assert check.fix == "pip install --force-reinstall openvino"
    assert broken(examine()) == ["OpenVINO"]


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


def test_cpu_features_of_a_cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("model name\t: A CPU\nflags\t\t: fpu avx2 avx512_vnni\n\nmodel name\t: A\n")
    assert doctor._cpu(tmp_path).found.startswith("A CPU, ")
    assert doctor._cpu(tmp_path).found.endswith(" usable cores, avx2 avx512_vnni")
    assert "features unknown; without VNNI" in doctor._cpu(tmp_path / "none").found
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert doctor._cpu(tmp_path / "none").found.endswith("features unknown")


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
