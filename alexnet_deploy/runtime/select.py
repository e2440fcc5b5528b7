"""Open an engine on whichever runtime this machine has.

A runner is opened by ``open_runner``, which says what it picked and why it passed the others over.
Each heavy library is imported at the top of one module here, and that module only inside ``open_runner``.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.errors import DeployError, UnavailableError, UsageError
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.runtime.runner import Runner

# Legend: N batch, H height, W width, C channel (RGB), K class

MAX_STREAMS_A_CORE = 64
"""Calls at the same time, for each core. A CPU is busy with one and a GPU with a few a core; the rest queue, which
takes a measurement minutes (each waits for all others, many times) and tells nothing of the engine."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A runner of any batch size, and why each runtime that would have come before it was passed over."""

    runner: Runner
    passed_over: tuple[str, ...] = ()


def open_runner(engine: Engine, runtime: str = "auto", *, threads: int | None = None, streams: int = 1) -> Opened:
    """Open ``engine`` on ``runtime``, or with ``"auto"`` on the first of ``RUNTIMES`` that can run it here.

    The runner and its forks run ``streams`` calls at the same time, on ``threads`` threads in all (None: the
    runtime's own choice).

    Raises UsageError for an unknown runtime and for numbers out of range, UnavailableError where the machine cannot
    run the one asked for (or, with ``"auto"``, any), InputError where the runtime refuses the model.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"--threads {threads}: takes 1 or more")
    if streams < 1:
        raise UsageError(f"--concurrency {streams}: takes 1 or more")
    if streams > MAX_STREAMS_A_CORE * cores():
        raise UsageError(
            f"--concurrency {streams}: past {MAX_STREAMS_A_CORE} a core, {MAX_STREAMS_A_CORE * cores()} here, requests "
            "only wait for each other; choose fewer"
        )
    if runtime != "auto":
        if runtime not in RUNTIMES:
            raise UsageError(f"--runtime {runtime}: unknown; choose auto, {', '.join(RUNTIMES)}")
        return Opened(_open(runtime, engine, threads, streams))
    passed_over: list[str] = []
    for name in RUNTIMES:
        try:
            return Opened(_open(name, engine, threads, streams), tuple(passed_over))
        except DeployError as exc:
            passed_over.append(f"{name}: {exc}")
    raise UnavailableError(f"{engine.name}: nothing here can run it ({'; '.join(passed_over)})")


def _open(runtime: str, engine: Engine, threads: int | None, streams: int) -> Runner:
    from alexnet_deploy.runtime.any_batch import AnyBatch

    try:
        return AnyBatch(RUNTIMES[runtime](engine, threads, streams))
    except ImportError as exc:  # installed, but for another Python or without a library that it needs
        reason = " ".join(str(exc).split())[:200]
        raise UnavailableError(f"the package of {runtime} does not load ({reason}); install it anew") from exc


def _tensorrt(engine: Engine, threads: int | None, streams: int) -> Runner:
    if not engine.plans:
        raise UnavailableError(f"{engine.name} holds no TensorRT plan; build one: alexnet-deploy build-engine")
    from alexnet_deploy.runtime import tensorrt_runner

    return tensorrt_runner.open_plan(engine)


def _onnxruntime_cuda(engine: Engine, threads: int | None, streams: int) -> Runner:
    # Its list of providers would tell as well, but the import takes 50 ms and 35 MiB, for nothing on most CPUs.
    if not any(list(folder.glob("capi/*onnxruntime_providers_cuda*")) for folder in _onnxruntime_folders()):
        raise UnavailableError(
            "ONNX Runtime here has no CUDA; pip install 'alexnet-deploy[gpu]' in an environment of its own"
        )
    from alexnet_deploy.runtime import onnxruntime_runner

    return onnxruntime_runner.OrtRunner(
        engine.onnx_path, engine.contract, device="cuda", precision=engine.precision, threads=threads, streams=streams
    )


def _openvino(engine: Engine, threads: int | None, streams: int) -> Runner:
    if importlib.util.find_spec("openvino") is None:
        raise UnavailableError("OpenVINO is not installed; pip install 'alexnet-deploy[cpu]'")
    from alexnet_deploy.runtime import openvino_runner

    return openvino_runner.OpenVinoRunner(engine.onnx_path, engine.contract, threads=threads, streams=streams)


def _onnxruntime(engine: Engine, threads: int | None, streams: int) -> Runner:
    _onnxruntime_folders()
    from alexnet_deploy.runtime import onnxruntime_runner

    return onnxruntime_runner.OrtRunner(
        engine.onnx_path, engine.contract, precision=engine.precision, threads=threads, streams=streams
    )


def _onnxruntime_folders() -> list[Path]:
    """Where the one ONNX Runtime is installed; UnavailableError where there is none, or two."""
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
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


RUNTIMES: dict[str, Callable[[Engine, int | None, int], Runner]] = {
    "tensorrt": _tensorrt,
    "onnxruntime-cuda": _onnxruntime_cuda,
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
}
"""In the order in which ``auto`` tries them."""
