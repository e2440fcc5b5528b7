"""What this machine can do, and the exact fix for what it cannot.

Every check looks at the real thing: it imports the library, asks the driver, reads the list of providers. Nothing here
is needed to run an engine, so a library that crashes while it is looked at costs a row and not the command.
"""

from __future__ import annotations

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

from alexnet_deploy.cores import cores

State = Literal["ok", "absent", "broken"]

OLDEST_PYTHON = (3, 11)
CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd", "i8mm")
"""Those that decide how fast INT8 and bfloat16 are: VNNI and AMX on x86, dot products on ARM."""
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
    return [
        _python(),
        _cpu(Path("/proc/cpuinfo")),
        gpu(_nvidia_smi),
        *_onnxruntime(),
        _openvino(),
        *_tensorrt(),
        _cuda_bindings(),
        *(_extra(name) for name in ("export", "measure", "train", "parquet")),
    ]


def can_run(checks: Iterable[Check]) -> bool:
    """Whether some runtime works and nothing that is installed is broken."""
    rows = list(checks)
    running = any(check.state == "ok" and check.name in ("ONNX Runtime", "OpenVINO") for check in rows)
    return running and all(check.state != "broken" for check in rows)


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
        return Check("GPU", "absent", "no nvidia-smi", "engines run on the CPU; a GPU needs NVIDIA's driver")
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


def _onnxruntime() -> list[Check]:
    versions = {name: version_of(name) for name in ("onnxruntime", "onnxruntime-gpu")}
    have = [name for name, version in versions.items() if version]
    if len(have) > 1:
        fix = "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'alexnet-deploy[cpu]' or '[gpu]'"
        return [Check("ONNX Runtime", "broken", f"{' and '.join(have)} overwrite each other's files", fix)]
    if not have:
        return [Check("ONNX Runtime", "absent", "not installed", "pip install 'alexnet-deploy[cpu]' (or [gpu])")]
    fix = f"pip install --force-reinstall {have[0]}"

    def look() -> str:
        from alexnet_deploy.runners import ort

        return ", ".join(name.removesuffix("ExecutionProvider") for name in ort.providers())

    return [_looked("ONNX Runtime", f"{have[0]} {versions[have[0]]}", look, fix)]


def _openvino() -> Check:
    version = version_of("openvino")
    if version is None:
        return Check("OpenVINO", "absent", "not installed", "pip install 'alexnet-deploy[cpu]'")

    def look() -> str:
        from alexnet_deploy.runners import ov

        return ", ".join(ov.devices())

    return _looked("OpenVINO", version, look, "pip install --force-reinstall openvino")


def _tensorrt() -> list[Check]:
    from alexnet_deploy.errors import UnavailableError
    from alexnet_deploy.trt_library import EXTRA, FULL, load

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
        importlib.import_module("cuda.bindings.runtime")
        return "loads"

    return _looked("CUDA bindings", version, look, "pip install --force-reinstall cuda-bindings")


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


def _looked(name: str, version: str, look: Callable[[], str], fix: str) -> Check:
    try:
        return Check(name, "ok", f"{version}: {look()}")
    except Exception as exc:  # a broken installation may raise anything when it loads
        cause = " ".join(str(exc).split())[:160] or type(exc).__name__
        return Check(name, "broken", f"{version}, does not load ({cause})", fix)
