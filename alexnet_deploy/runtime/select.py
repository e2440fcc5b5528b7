"""Open an engine on a runtime that this machine has.

``open_runner`` chooses the runtime and returns the reasons against the others. Each heavy library is imported at the
top of one module of this room, and that module only inside ``open_runner``.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.bundle.store import TEMPORARY
from alexnet_deploy.errors import (
    ArtifactError,
    DeployError,
    ProofError,
    UnavailableError,
    UsageError,
    one_line,
    require_positive,
)
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.machine.gpu import has_nvidia_gpu

if TYPE_CHECKING:
    from alexnet_deploy.runtime.runner import Runner

_log = logging.getLogger(__name__)

Runtime = Literal["auto", "tensorrt", "onnxruntime-cuda", "openvino", "onnxruntime"]
"""The runtime of ``open_runner``: ``"auto"``, or a key of ``RUNTIMES``."""

MAX_CALLS_PER_CORE = 64
"""Concurrent calls per core. One keeps a CPU core busy, and a few a GPU; more only wait for each other, and
measuring them takes minutes and shows nothing about the engine."""


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A runtime that ``"auto"`` tried and could not use."""

    runtime: str
    reason: str
    doubted: bool = False
    """It runs the engine, but its answers are not those of the graph."""

    def __str__(self) -> str:
        return f"{self.runtime}: {self.reason}"


@dataclass(frozen=True, slots=True)
class SelectedRunner:
    """A runner for batches of any size, and how it was chosen."""

    runner: Runner
    passed_over: tuple[PassedOver, ...] = ()
    """The runtimes before it in ``RUNTIMES``, which were tried."""
    unused_gpu: bool = False
    """``"auto"`` chose the CPU although this machine has an NVIDIA GPU: the reasons are worth showing."""


def open_runner(
    engine: Engine,
    runtime: Runtime | str = "auto",
    *,
    threads: int | None = None,
    concurrency: int = 1,
    verify: bool = True,
    refuse_doubted: bool = False,
) -> SelectedRunner:
    """Open ``engine`` on ``runtime``, or with ``"auto"`` on the first of ``RUNTIMES`` that can run it here.

    The runner and its forks run ``concurrency`` calls at the same time, on ``threads`` threads in all (None: the
    runtime's default).

    With ``verify`` its answers for photos are compared with those of a reference, once per engine, runtime version and
    machine. Where they are others, ``"auto"`` passes the runtime over. One that the caller named is used with a
    warning, for it may be named in order to measure it, or with ``refuse_doubted`` is a ProofError.

    Raises UsageError for an unknown runtime and for numbers out of range, UnavailableError if the machine cannot run
    the requested one (or, with ``"auto"``, any), InputError if the runtime refuses the model.
    """
    require_positive(threads=threads, concurrency=concurrency)
    most = MAX_CALLS_PER_CORE * cores()
    if concurrency > most:
        raise UsageError(
            f"`concurrency` {concurrency}: above {MAX_CALLS_PER_CORE} per core, {most} here, calls only wait for each "
            "other; choose fewer"
        )
    if runtime != "auto":
        if runtime not in RUNTIMES:
            raise UsageError(f"`runtime` {runtime}: unknown; choose auto, {', '.join(RUNTIMES)}")
        runner = _open(runtime, engine, threads, concurrency)
        if verify and (doubt := _reason_against(runner, engine)) is not None:
            if refuse_doubted:
                runner.close()
                raise ProofError(
                    f"{engine.name}: {runner.description} is not used: {doubt}; choose another `runtime`, or turn off "
                    "`verify`"
                )
            _log.warning("%s: do not trust %s: %s", engine.name, runner.description, doubt)
        return SelectedRunner(runner)
    passed_over: list[PassedOver] = []
    for name in RUNTIMES:
        try:
            runner = _open(name, engine, threads, concurrency)
        except DeployError as exc:
            passed_over.append(PassedOver(name, str(exc)))
            continue
        try:
            doubt = _reason_against(runner, engine) if verify else None
        except ArtifactError:  # the engine's own fault, whatever the runtime
            raise
        except DeployError as exc:
            passed_over.append(PassedOver(name, str(exc)))
            continue
        if doubt is None:
            return SelectedRunner(runner, tuple(passed_over), runner.device == "cpu" and has_nvidia_gpu())
        runner.close()
        _log.warning("%s: %s is not used: %s", engine.name, runner.description, doubt)
        passed_over.append(PassedOver(name, doubt, doubted=True))
    raise UnavailableError(f"{engine.name}: no runtime on this machine can run it ({'; '.join(map(str, passed_over))})")


def _reason_against(runner: Runner, engine: Engine) -> str | None:
    from alexnet_deploy.runtime.reference import reason_against

    try:
        return reason_against(runner, engine)
    except BaseException:
        runner.close()
        raise


def _open(runtime: str, engine: Engine, threads: int | None, concurrency: int) -> Runner:
    from alexnet_deploy.runtime.runner import AnyBatch  # late, because the names above must not load NumPy

    try:
        return AnyBatch(RUNTIMES[runtime](engine, threads, concurrency), engine.name)
    except DeployError as exc:
        if engine.onnx_path.parent.name.startswith(TEMPORARY):  # an imported model: the user knows it by its name
            exc.args = (str(exc).replace(str(engine.onnx_path), engine.name),)
        raise
    except Exception as exc:
        # The package is installed for another Python or without a library, or needs what the user lacks, such as HOME.
        raise UnavailableError(f"{runtime} does not start ({one_line(exc, 200)}); reinstall its package") from exc


def _tensorrt(engine: Engine, threads: int | None, concurrency: int) -> Runner:
    from alexnet_deploy.runtime.tensorrt_plans import open_plan

    return open_plan(engine)


def _openvino(engine: Engine, threads: int | None, concurrency: int) -> Runner:
    if importlib.util.find_spec("openvino") is None:
        raise UnavailableError("OpenVINO is not installed; pip install 'alexnet-deploy[cpu]'")
    from alexnet_deploy.runtime.openvino_runner import OpenVinoRunner

    return OpenVinoRunner(engine.onnx_path, engine.contract, threads=threads, concurrency=concurrency)


def _onnxruntime(
    engine: Engine, threads: int | None, concurrency: int, device: Literal["cpu", "cuda"] = "cpu"
) -> Runner:
    folders = _onnxruntime_folders()
    # Its list of providers would show it as well, but the import takes 50 ms and 35 MiB, in vain on most CPUs.
    if device == "cuda" and not any(list(folder.glob("capi/*onnxruntime_providers_cuda*")) for folder in folders):
        raise UnavailableError(
            "the installed ONNX Runtime has no CUDA; pip install 'alexnet-deploy[gpu]' in a separate environment"
        )
    from alexnet_deploy.runtime.onnxruntime_runner import OnnxRuntimeRunner

    return OnnxRuntimeRunner(
        engine.onnx_path,
        engine.contract,
        device=device,
        precision=engine.precision,
        threads=threads,
        concurrency=concurrency,
    )


def _onnxruntime_folders() -> list[Path]:
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


RUNTIMES: dict[str, Callable[[Engine, int | None, int], Runner]] = {
    "tensorrt": _tensorrt,
    "onnxruntime-cuda": partial(_onnxruntime, device="cuda"),
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
}
"""The runtimes, in the order in which ``auto`` tries them."""


def split_runtime(
    text: str, *, store: Path | None = None, known: Sequence[str] = ("auto", *RUNTIMES)
) -> tuple[str, str | None]:
    """Split ``alexnet-int8@openvino`` into engine and runtime; the runtime is None if the text has none.

    The whole name of a file or folder, or of a bundle in ``store``, is not split. Raises UsageError for a
    runtime that is not one of ``known``.
    """
    name, at, runtime = text.rpartition("@")
    if not at or Path(text).exists() or (store is not None and (store / text).exists()):
        return text, None
    if runtime not in known:
        raise UsageError(f"{text}: {runtime!r} is not a runtime; write NAME@RUNTIME with one of {', '.join(known)}")
    return name, runtime
