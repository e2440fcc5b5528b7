"""Whether ONNX Runtime is installed, and with CUDA, from its files: importing it takes 50 ms and 35 MiB."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from alexnet_deploy.errors import UnavailableError


def require_cuda_package() -> None:
    """UnavailableError unless one ONNX Runtime is installed, and has CUDA."""
    if not any(list(folder.glob("capi/*onnxruntime_providers_cuda*")) for folder in require_package()):
        raise UnavailableError(
            "the installed ONNX Runtime has no CUDA; pip install 'alexnet-deploy[gpu]' in a separate environment"
        )


def require_package() -> list[Path]:
    """Where the one ONNX Runtime is installed; UnavailableError if there are none or two."""
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) > 1:
        raise UnavailableError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            "pip uninstall both, then install one"
        )
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None:
        raise UnavailableError("ONNX Runtime is not installed; pip install 'alexnet-deploy[cpu]' (or [gpu])")
    return list(map(Path, spec.submodule_search_locations or ()))


def _is_installed(distribution: str) -> bool:
    from importlib import metadata  # some 15 ms, not for those who need only the names above

    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
