"""What this machine can do, and the exact fix for what it cannot.

Every check looks at the real thing: it imports the library, asks the driver, reads the list of providers. Nothing here
is needed to run an engine, so a library that crashes while it is looked at costs a row and not the command.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alexnet_deploy.machine.cpu import cores

State = Literal["ok", "absent", "broken"]

OLDEST_PYTHON = (3, 11)
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd", "i8mm")
"""Those that decide how fast INT8 and bfloat16 are: VNNI and AMX on x86, dot products on ARM."""
OLDEST_DRIVER = {12: 525, 13: 580}
"""The first branch of NVIDIA's driver for each major version of CUDA (its release notes); any minor one runs on it."""
NO_GPU = "engines run on the CPU; a GPU needs NVIDIA's driver"
_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class Check:
    """One row. ``absent`` is a choice, such as no GPU; ``broken`` is something installed that cannot work."""

    name: str
    state: State
    found: str
    fix: str = ""


def examine() -> list[Check]:
    """All checks of this machine, in the order in which one would look."""
    card = gpu(_nvidia_smi)
    has_gpu = card.state == "ok"
    return [
        _python(),
        _cpu(Path("/proc/cpuinfo")),
        card,
        *_onnxruntime(has_gpu),
        _openvino(),
        *_tensorrt(),
        _cuda_bindings(),
        _pycuda(has_gpu),
        _cuda(has_gpu),
        _nvml(),
        *(_extra(name) for name in ("export", "measure", "train", "parquet", "mlperf")),
    ]


def can_run(checks: Iterable[Check]) -> bool:
    """Whether some runtime works (TensorRT with a GPU that CUDA opens) and nothing that is installed is broken."""
    rows = list(checks)
    works = {check.name for check in rows if check.state == "ok"}
    running = works & {"ONNX Runtime", "OpenVINO"} or ("CUDA" in works and works & {"TensorRT", "TensorRT-RTX"})
    return bool(running) and all(check.state != "broken" for check in rows)


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST_PYTHON:
        return Check("Python", "broken", found, f"install Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or later")
    return Check("Python", "ok", found)


def _cpu(cpuinfo: Path) -> Check:
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    have = set(flags[1].split()) if flags else set()
    features = [feature for feature in CPU_FEATURES if feature in have]
    name = model[1].strip() if model else platform.processor() or platform.machine()
    return Check("CPU", "ok", f"{name}, {cores()} usable cores, {' '.join(features) or 'features unknown'}")


def gpu(ask: Callable[[], str | None]) -> Check:
    """``ask`` gives nvidia-smi's ``name, driver_version, compute_cap`` lines; None where there is no nvidia-smi."""
    told = ask()
    if told is None:
        return Check("GPU", "absent", "no nvidia-smi", NO_GPU)
    rows = [[part.strip() for part in line.split(",")] for line in told.splitlines() if line.count(",") >= 2]
    if not rows:
        cause = " ".join(told.split())[:120] or "it says nothing"
        return Check(
            "GPU", "broken", f"nvidia-smi: {cause}", "reinstall the driver, or start the container with --gpus"
        )
    cards = [f"{row[0]} (sm{row[2].replace('.', '')}, driver {row[1]})" for row in rows]
    return Check("GPU", "ok", "; ".join(cards))


def _nvidia_smi() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"it does not answer ({type(exc).__name__})"
    return asked.stdout or asked.stderr


def _onnxruntime(has_gpu: bool) -> list[Check]:
    versions = {name: version_of(name) for name in ("onnxruntime", "onnxruntime-gpu")}
    have = [name for name, version in versions.items() if version]
    if len(have) > 1:
        fix = "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'alexnet-deploy[cpu]' or '[gpu]'"
        return [Check("ONNX Runtime", "broken", f"{' and '.join(have)} overwrite each other's files", fix)]
    if not have:
        return [Check("ONNX Runtime", "absent", "not installed", "pip install 'alexnet-deploy[cpu]' (or [gpu])")]
    found = f"{have[0]} {versions[have[0]]}"
    built_in: list[str] = []

    def look() -> str:
        from alexnet_deploy.runtime import onnxruntime_runner

        built_in.extend(onnxruntime_runner.providers())
        return "CPU"

    checks = [_looked("ONNX Runtime", found, look, f"pip install --force-reinstall {have[0]}")]
    if "CUDAExecutionProvider" in built_in:
        checks.append(_onnxruntime_cuda(found, has_gpu))
    return checks


def _onnxruntime_cuda(found: str, has_gpu: bool) -> Check:
    """That CUDA is compiled in proves nothing: only a session tells, and one without a GPU is a slow way to a no."""
    name = "ONNX Runtime CUDA"
    if not has_gpu:
        return Check(name, "absent", f"{found}: compiled in, without a GPU to run on", NO_GPU)

    def look() -> str:
        from alexnet_deploy.runtime import onnxruntime_runner

        onnxruntime_runner.start_cuda()
        return "runs a model"

    # Its extras bring the CUDA and cuDNN that it was built for.
    return _looked(name, found, look, "pip install --upgrade 'onnxruntime-gpu[cuda,cudnn]'", verb="start")


def _openvino() -> Check:
    version = version_of("openvino")
    if version is None:
        return Check("OpenVINO", "absent", "not installed", "pip install 'alexnet-deploy[cpu]'")

    def look() -> str:
        from alexnet_deploy.runtime import openvino_runner

        return ", ".join(openvino_runner.devices())

    return _looked("OpenVINO", version, look, "pip install --force-reinstall openvino")


def _tensorrt() -> list[Check]:
    from alexnet_deploy.errors import UnavailableError
    from alexnet_deploy.runtime.tensorrt_library import EXTRA, FULL, load

    checks = []
    for name, extra in EXTRA.items():
        title = "TensorRT" if name == FULL else "TensorRT-RTX"
        fix = f"pip install 'alexnet-deploy[{extra}]'"
        if importlib.util.find_spec(name) is None:
            checks.append(Check(title, "absent", "not installed", fix))
            continue
        try:
            checks.append(Check(title, "ok", f"{load(name).version}, builds plans"))
        except UnavailableError as exc:
            checks.append(Check(title, "broken", str(exc), fix))
    return checks


def _cuda_bindings() -> Check:
    version = version_of("cuda-bindings")
    if version is None:
        return Check(
            "CUDA bindings", "absent", "not installed", "pip install 'alexnet-deploy[gpu]' runs plans on a GPU"
        )

    def look() -> str:
        from alexnet_deploy.runtime.cuda_python import cuda_versions

        return f"CUDA {_dotted(cuda_versions().runtime)}"

    return _looked("CUDA bindings", version, look, "pip install --force-reinstall cuda-bindings")


def _pycuda(has_gpu: bool) -> Check:
    version = version_of("pycuda")
    if version is None:
        return Check("PyCUDA", "absent", "not installed", "pip install pycuda, if the driver is older than CUDA 13")
    if not has_gpu:  # it is linked against the driver
        return Check("PyCUDA", "absent", f"{version}, which only loads beside a driver", NO_GPU)

    def look() -> str:
        importlib.import_module("pycuda.driver")
        return "loads"

    return _looked("PyCUDA", version, look, "pip install --force-reinstall --no-cache-dir pycuda")


def _cuda(has_gpu: bool) -> Check:
    """The first GPU, opened as a plan opens it: an installed library may want a newer driver than there is."""
    from alexnet_deploy.runtime.cuda import open_device

    driver, fix = "", ""
    with contextlib.suppress(Exception):  # the row of the bindings tells what is wrong with them
        from alexnet_deploy.runtime.cuda_python import cuda_versions

        versions = cuda_versions()
        driver = f"driver for CUDA {_dotted(versions.driver)}" if versions.driver else "no driver"
        fix = _driver_fix(versions.driver, versions.runtime)
    if not has_gpu:
        return Check("CUDA", "absent", driver or "no GPU", NO_GPU)
    if version_of("cuda-bindings") is None and version_of("pycuda") is None:
        return Check("CUDA", "absent", "no CUDA bindings, no PyCUDA", "pip install 'alexnet-deploy[gpu]' (or [rtx])")
    try:
        device = open_device()
    except Exception as exc:  # a broken installation may raise anything when it loads
        cause, _, hint = " ".join(str(exc).split()).partition("; ")
        return Check("CUDA", "broken", ", ".join(filter(None, (driver, cause))), fix or hint or "reinstall the driver")
    device.close()
    return Check("CUDA", "ok", ", ".join(filter(None, (device.name, driver))))


def _driver_fix(driver: int, runtime: int) -> str:
    """What would make a driver of that CUDA run a library of that one; empty where the versions are not the matter."""
    if driver == 0:
        return "install the driver's libcuda.so.1; in a container, add compute to NVIDIA_DRIVER_CAPABILITIES"
    major = runtime // 1000
    if driver // 1000 >= major:
        return ""
    branch = f"{OLDEST_DRIVER[major]} or later" if major in OLDEST_DRIVER else "a newer branch"
    return f"update NVIDIA's driver to {branch}, which CUDA {major} needs"


def _dotted(version: int) -> str:
    """``13.5`` of CUDA's 13050."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _nvml() -> Check:
    version = version_of("nvidia-ml-py")
    if version is None:
        found = "not installed: no GPU is watched while an engine is measured on it"
        return Check("nvidia-ml-py", "absent", found, "pip install nvidia-ml-py")

    def look() -> str:
        importlib.import_module("pynvml")
        return "loads"

    return _looked("nvidia-ml-py", version, look, "pip install --force-reinstall nvidia-ml-py")


def _extra(name: str) -> Check:
    """Whether what an extra of this package brings is installed, as the package's own metadata lists it."""
    fix = f"pip install 'alexnet-deploy[{name}]'"
    pattern = re.compile(rf"""^([A-Za-z0-9._-]+)(.*?);.*extra == ['"]{name}['"]""")
    wanted = [
        match[1] for line in importlib.metadata.requires("alexnet-deploy") or () if (match := pattern.match(line))
    ]
    missing = [one for one in wanted if version_of(one) is None]
    if missing:
        return Check(f"extra {name}", "absent", f"without {', '.join(missing)}", fix)
    return Check(f"extra {name}", "ok", ", ".join(f"{one} {version_of(one)}" for one in wanted))


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _looked(name: str, version: str, look: Callable[[], str], fix: str, *, verb: str = "load") -> Check:
    try:
        return Check(name, "ok", f"{version}: {look()}")
    except Exception as exc:  # a broken installation may raise anything when it loads
        cause = " ".join(str(exc).split())[:160] or type(exc).__name__
        return Check(name, "broken", f"{version}, does not {verb} ({cause})", fix)
