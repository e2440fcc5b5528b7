"""What this machine can do, what is broken, and the exact command that fixes it.

Each check tries the real thing: it imports the library, asks the driver, reads the list of providers. No engine needs
these checks, so a library that fails here costs a row of the table and not the command.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import platform
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alexnet_deploy.errors import UnavailableError, one_line
from alexnet_deploy.machine.cpu import cores, cpu_flags, cpu_model, saturates_int8
from alexnet_deploy.machine.gpu import nvidia_smi

CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd", "i8mm")
"""CPU features that decide the speed of INT8 and bfloat16: VNNI and AMX on x86, dot products on ARM."""
OLDEST_DRIVER = {12: 525, 13: 580}
"""NVIDIA's oldest driver branch for each major CUDA version (release notes); it runs all its minor versions."""
NO_GPU = "engines run on the CPU; a GPU needs NVIDIA's driver"
NO_WATCH, NVML = "not installed: measurements on a GPU do not watch its clock", "pip install nvidia-ml-py"


@dataclass(frozen=True, slots=True)
class Check:
    """One row. ``absent`` may be intended, such as no GPU; ``broken`` is installed and does not work."""

    name: str
    state: Literal["ok", "absent", "broken"]
    found: str
    fix: str = ""


def examine() -> list[Check]:
    """All checks of this machine, from Python and the processor to the optional libraries."""
    card = gpu(nvidia_smi)
    has_gpu = card.state == "ok"
    return [
        Check("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        _cpu(Path("/")),
        card,
        *_onnxruntime(has_gpu),
        _library("OpenVINO", "openvino", _openvino_devices, missing=_install("cpu")),
        *_tensorrt(has_gpu),
        _library("CUDA bindings", "cuda-bindings", _cuda_runtime, missing=f"{_install('gpu')} runs plans on a GPU"),
        _pycuda(has_gpu),
        _cuda(has_gpu),
        _library("nvidia-ml-py", "nvidia-ml-py", lambda: _loads("pynvml"), without=NO_WATCH, missing=NVML),
        *(_extra(name) for name in ("export", "measure", "train", "parquet", "mlperf")),
    ]


def can_run(checks: Iterable[Check]) -> bool:
    """Whether at least one runtime works; TensorRT needs a GPU that CUDA opens."""
    works = {check.name for check in checks if check.state == "ok"}
    return bool(works & {"ONNX Runtime", "OpenVINO"} or ("CUDA" in works and works & {"TensorRT", "TensorRT-RTX"}))


def broken(checks: Iterable[Check]) -> list[str]:
    """The names of what is installed and does not work."""
    return [check.name for check in checks if check.state == "broken"]


def _install(extra: str) -> str:
    return f"pip install 'alexnet-deploy[{extra}]'"


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _library(
    title: str,
    distribution: str,
    try_it: Callable[[], str],
    *,
    missing: str,
    without: str = "not installed",
    reinstall: str | None = None,
) -> Check:
    """A row for a library; ``try_it`` returns what works, ``missing`` is the fix if it is not installed."""
    version = version_of(distribution)
    if version is None:
        return Check(title, "absent", without, missing)
    return _tried(title, version, try_it, reinstall or f"pip install --force-reinstall {distribution}")


def _tried(title: str, found: str, try_it: Callable[[], str], fix: str, *, verb: str = "load") -> Check:
    try:
        return Check(title, "ok", f"{found}: {try_it()}")
    except UnavailableError as exc:  # ours: it knows the cause, and usually the fix
        return Check(title, "broken", f"{found}, does not {verb} ({exc.cause})", exc.fix or fix)
    except Exception as exc:  # a broken installation may raise anything when it loads
        return Check(title, "broken", f"{found}, does not {verb} ({one_line(exc, 160)})", fix)


def _cpu(root: Path) -> Check:
    flags = cpu_flags(root)
    features = " ".join(feature for feature in CPU_FEATURES if feature in flags)
    slow = "; without VNNI, so INT8 runs in exact kernels, which gain less" if saturates_int8(flags) else ""
    return Check("CPU", "ok", f"{cpu_model(root)}, {cores()} usable cores, {features or 'features unknown'}{slow}")


def gpu(ask: Callable[[], str | None]) -> Check:
    """``ask`` returns nvidia-smi's ``name, driver_version, compute_cap`` lines; None without nvidia-smi."""
    answer = ask()
    if answer is None:
        return Check("GPU", "absent", "no nvidia-smi", NO_GPU)
    rows = [[part.strip() for part in line.split(",")] for line in answer.splitlines() if line.count(",") >= 2]
    if not rows:
        cause = " ".join(answer.split())[:120] or "it prints nothing"
        fix = "reinstall the driver, or start the container with --gpus"
        return Check("GPU", "broken", f"nvidia-smi: {cause}", fix)
    cards = [f"{row[0]} (sm{row[2].replace('.', '')}, driver {row[1]})" for row in rows]
    return Check("GPU", "ok", "; ".join(cards))


def _onnxruntime(has_gpu: bool) -> list[Check]:
    title = "ONNX Runtime"
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if version_of(name)]
    if len(installed) > 1:
        fix = "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'alexnet-deploy[cpu]' or '[gpu]'"
        return [Check(title, "broken", f"{' and '.join(installed)} overwrite each other's files", fix)]
    if not installed:
        return [Check(title, "absent", "not installed", f"{_install('cpu')} (or [gpu])")]
    found = f"{installed[0]} {version_of(installed[0])}"
    providers: list[str] = []

    def load() -> str:
        from alexnet_deploy.runtime.onnxruntime import runner as onnxruntime_runner

        providers.extend(onnxruntime_runner.providers())
        return "CPU"

    def try_cuda() -> str:
        from alexnet_deploy.runtime.onnxruntime import cuda as onnxruntime_cuda

        return onnxruntime_cuda.try_cuda()

    checks = [_tried(title, found, load, f"pip install --force-reinstall {installed[0]}")]
    if "CUDAExecutionProvider" not in providers:
        return checks
    # CUDA may be compiled in and still not start: only a session shows that, and one without a GPU is slow.
    if not has_gpu:
        return [*checks, Check(f"{title} CUDA", "absent", f"{found}: compiled in, but this machine has no GPU", NO_GPU)]
    # Its extras bring the CUDA and cuDNN that it was built for.
    fix = "pip install --upgrade 'onnxruntime-gpu[cuda,cudnn]'"
    return [*checks, _tried(f"{title} CUDA", found, try_cuda, fix, verb="start")]


def _openvino_devices() -> str:
    from alexnet_deploy.runtime import openvino_runner

    return ", ".join(openvino_runner.devices())


def _tensorrt(has_gpu: bool) -> list[Check]:
    from alexnet_deploy.runtime.cuda.device import current_capability
    from alexnet_deploy.runtime.tensorrt.library import EXTRA, FULL, load

    here = current_capability() if has_gpu else None
    checks = []
    for name, extra in EXTRA.items():
        title = "TensorRT" if name == FULL else "TensorRT-RTX"
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # without origin: a folder of that name in the current folder
            checks.append(Check(title, "absent", "not installed", _install(extra)))
            continue
        try:
            checks.append(_plans_here(title, name, load(name).version, here))
        except UnavailableError as exc:
            checks.append(Check(title, "broken", exc.cause, exc.fix or _install(extra)))
    return checks


def _plans_here(title: str, name: str, version: str, here: str | None) -> Check:
    """What an installed TensorRT builds, by the documents, for the GPU of this machine."""
    from alexnet_deploy.runtime.tensorrt.library import FULL
    from alexnet_deploy.runtime.tensorrt.support import describe, package_for, why_not_built, why_unsupported

    found = f"{version}, builds plans"
    if here is None:
        return Check(title, "ok", f"{version}, builds plans only on a machine with a GPU" if name == FULL else found)
    if (why_not_built if name != FULL else why_unsupported)(name, version, here) is not None:
        return Check(title, "absent", f"{found}, but none for this GPU ({here})", package_for(here))
    return Check(title, "ok", f"{found}; {describe(name, version, here)}")


def _loads(module: str) -> str:
    importlib.import_module(module)
    return "loads"


def _cuda_runtime() -> str:
    from alexnet_deploy.runtime.cuda.cuda_python import cuda_versions

    return f"CUDA {_dotted(cuda_versions().runtime)}"


def _pycuda(has_gpu: bool) -> Check:
    version = version_of("pycuda")
    if version is not None and not has_gpu:  # it is linked against the driver
        return Check("PyCUDA", "absent", f"{version}, which loads only with a driver", NO_GPU)
    missing = f"{_install('pycuda')}, if the driver is older than CUDA 13"
    reinstall = "pip install --force-reinstall --no-cache-dir pycuda"
    return _library("PyCUDA", "pycuda", lambda: _loads("pycuda.driver"), missing=missing, reinstall=reinstall)


def _cuda(has_gpu: bool) -> Check:
    """The first GPU, opened as for a plan: an installed library may need a newer driver than the installed one."""
    from alexnet_deploy.runtime.cuda.device import open_device

    driver, fix = "", ""
    with contextlib.suppress(Exception):  # the row of the bindings shows what is wrong with them
        from alexnet_deploy.runtime.cuda.cuda_python import cuda_versions

        versions = cuda_versions()
        driver = f"driver for CUDA {_dotted(versions.driver)}" if versions.driver else "no driver"
        fix = _driver_fix(versions.driver, versions.runtime)
    if not has_gpu:
        return Check("CUDA", "absent", driver or "no GPU", NO_GPU)
    if version_of("cuda-bindings") is None and version_of("pycuda") is None:
        return Check("CUDA", "absent", "no CUDA bindings, no PyCUDA", f"{_install('gpu')} (or [rtx])")
    try:
        device = open_device()
    except Exception as exc:  # a broken installation may raise anything when it loads
        cause, hint = (exc.cause, exc.fix) if isinstance(exc, UnavailableError) else (one_line(exc), "")
        return Check("CUDA", "broken", ", ".join(filter(None, (driver, cause))), fix or hint or "reinstall the driver")
    device.close()
    return Check("CUDA", "ok", ", ".join(filter(None, (device.name, driver))))


def _driver_fix(driver: int, runtime: int) -> str:
    """The fix if a driver of the CUDA version ``driver`` cannot run a library of ``runtime``; empty if it can."""
    if driver == 0:
        return "install the driver's libcuda.so.1; in a container, add compute to NVIDIA_DRIVER_CAPABILITIES"
    major = runtime // 1000
    if driver // 1000 >= major:
        return ""
    branch = f"{OLDEST_DRIVER[major]} or later" if major in OLDEST_DRIVER else "a newer branch"
    return f"update NVIDIA's driver to {branch}, which CUDA {major} needs"


def _dotted(version: int) -> str:
    """``13.5`` for CUDA's 13050."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _extra(name: str) -> Check:
    """Whether the distributions of an extra are installed, as this package's own metadata lists them."""
    pattern = re.compile(rf"""^([A-Za-z0-9._-]+)(.*?);.*extra == ['"]{name}['"]""")
    if version_of("alexnet-deploy") is None:
        return Check(f"extra {name}", "absent", "this package runs without being installed", "pip install -e .")
    requirements = importlib.metadata.requires("alexnet-deploy") or ()
    listed = [match[1] for line in requirements if (match := pattern.match(line))]
    missing = [each for each in listed if version_of(each) is None]
    if missing:
        return Check(f"extra {name}", "absent", f"without {', '.join(missing)}", _install(name))
    return Check(f"extra {name}", "ok", ", ".join(f"{each} {version_of(each)}" for each in listed))
