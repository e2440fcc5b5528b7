"""Open an engine on a runtime that this machine has.

``open_runner`` chooses the runtime and returns the reasons against the others.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.bundle.store import TEMPORARY
from alexnet_deploy.bundle.verified import held
from alexnet_deploy.errors import (
    ArtifactError,
    DeployError,
    ProofError,
    UnavailableError,
    UsageError,
    one_line,
    require_positive,
)
from alexnet_deploy.machine.cpu import cores, saturates_int8
from alexnet_deploy.machine.gpu import has_nvidia_gpu
from alexnet_deploy.precision.types import float_type, quantized_type
from alexnet_deploy.runtime.onnxruntime.package import require_cuda_package
from alexnet_deploy.runtime.openers import RUNTIMES, Options

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
    tf32: bool = False,
    eager: bool = False,
    device: int | None = None,
) -> SelectedRunner:
    """Open ``engine`` on ``runtime``, or with ``"auto"`` on the first of ``RUNTIMES`` that can run it here.

    The runner and its forks run ``concurrency`` calls at the same time, on ``threads`` threads in all (None: the
    runtime's default).

    With ``verify`` its answers for photos are compared with those of a reference, once per engine, runtime version and
    machine. Where they are others, ``"auto"`` passes the runtime over. One that the caller named is used with a
    warning, for it may be named in order to measure it, or with ``refuse_doubted`` is a ProofError.

    ``tf32`` lets onnxruntime-cuda multiply float32 with ten bits of mantissa, as float16 has: faster on most GPUs, and
    no longer float32. A TensorRT plan had its own choice when it was built; other runtimes never do it.
    ``eager`` is for a measurement: TensorRT-RTX then compiles the kernels of a batch size before its first call.
    ``device`` is the number of a GPU, among those that CUDA shows to this process: ``"auto"`` then tries only
    ``GPU_RUNTIMES``.

    Raises UsageError for an unknown runtime, for numbers out of range and for a ``device`` with a runtime of the CPU,
    UnavailableError if the machine cannot run the requested one (or, with ``"auto"``, any), InputError if the runtime
    refuses the model, ReplacedError if the files of the engine are not those any more that it was made of.
    """
    require_positive(threads=threads, concurrency=concurrency)
    most = MAX_CALLS_PER_CORE * cores()
    if concurrency > most:
        raise UsageError(
            f"`concurrency` {concurrency}: above {MAX_CALLS_PER_CORE} per core, {most} here, calls only wait for each "
            "other; choose fewer"
        )
    options = Options(threads, concurrency, tf32, eager, device)
    if runtime not in ("auto", *RUNTIMES):
        raise UsageError(f"`runtime` {runtime}: unknown; choose auto, {', '.join(RUNTIMES)}")
    if device is not None:
        require_gpu_runtime(runtime)
        from alexnet_deploy.runtime.cuda.device import choose_devices

        choose_devices([device])
    with ExitStack() as resources:
        with held(engine):
            selected = _selected(engine, runtime, options, verify=verify, refuse_doubted=refuse_doubted)
            resources.callback(selected.runner.close)
        resources.pop_all()
        return selected


def _selected(
    engine: Engine, runtime: Runtime | str, options: Options, *, verify: bool, refuse_doubted: bool
) -> SelectedRunner:
    """``open_runner``, of checked parameters."""
    if runtime != "auto":
        runner = _open(runtime, engine, options)
        runner, doubt = _judged(runner, engine, options) if verify else (runner, None)
        if doubt is not None:
            if refuse_doubted:
                runner.close()
                raise ProofError(
                    f"{engine.name}: {runner.description} is not used: {doubt}; choose another `runtime`, or turn off "
                    "`verify`"
                )
            _log.warning("%s: do not trust %s: %s", engine.name, runner.description, doubt)
        if options.tf32:
            _warn_of_unused_tf32(runner, engine)
        return SelectedRunner(runner)
    passed_over: list[PassedOver] = []
    for name in _in_turn(engine, options.device):
        try:
            if name == "onnxruntime-cuda":
                require_cuda_kernels(engine)
            runner = _open(name, engine, options)
        except DeployError as exc:
            passed_over.append(PassedOver(name, str(exc)))
            continue
        try:
            runner, doubt = _judged(runner, engine, options) if verify else (runner, None)
        except ArtifactError:  # the engine's own fault, whatever the runtime
            raise
        except DeployError as exc:
            passed_over.append(PassedOver(name, str(exc)))
            continue
        if doubt is None:
            if options.tf32:
                _warn_of_unused_tf32(runner, engine)
            return SelectedRunner(runner, tuple(passed_over), runner.device == "cpu" and has_nvidia_gpu())
        runner.close()
        _log.warning("%s: %s is not used: %s", engine.name, runner.description, doubt)
        passed_over.append(PassedOver(name, doubt, doubted=True))
    where = "this machine" if options.device is None else f"GPU {options.device}"
    raise UnavailableError(f"{engine.name}: no runtime on {where} can run it ({'; '.join(map(str, passed_over))})")


def _in_turn(engine: Engine, device: int | None) -> tuple[str, ...]:
    """The runtimes that ``"auto"`` tries, in their order."""
    if device is not None:
        return GPU_RUNTIMES
    if quantized_type(engine.precision) == "int8" and saturates_int8():
        # OpenVINO then multiplies in float32, and ONNX Runtime in exact integers: 1.6 to 1.7 times as fast.
        return tuple(sorted(RUNTIMES, key=lambda name: name == "openvino"))
    return tuple(RUNTIMES)


def require_gpu_runtime(runtime: str) -> None:
    """UsageError for a runtime that runs on the CPU, beside a `device`."""
    if runtime != "auto" and runtime not in GPU_RUNTIMES:
        raise UsageError(
            f"`device` names a GPU, and `runtime` {runtime} runs on the CPU; leave one of them out, or choose "
            f"{' or '.join(GPU_RUNTIMES)}"
        )


def _judged(runner: Runner, engine: Engine, options: Options) -> tuple[Runner, str | None]:
    """See ``reference.judged``."""
    from alexnet_deploy.runtime.reference import judged

    def reopen(eager: bool) -> Runner:
        return _open(runner.runtime, engine, replace(options, eager=eager))

    graphs = options.concurrency == 1
    return judged(runner, engine, reopen, tf32=options.tf32, eager=options.eager, graphs=graphs)


def _warn_of_unused_tf32(runner: Runner, engine: Engine) -> None:
    from alexnet_deploy.runtime.reference import why_no_tf32

    if (reason := why_no_tf32(runner, engine)) is not None:
        _log.warning("%s: `tf32` has no effect on %s: %s", engine.name, runner.description, reason)


def _open(runtime: str, engine: Engine, options: Options) -> Runner:
    from alexnet_deploy.runtime.runner import AnyBatch  # late, because the names above must not load NumPy

    try:
        return AnyBatch(RUNTIMES[runtime](engine, options), engine.name)
    except DeployError as exc:
        if engine.onnx_path.parent.name.startswith(TEMPORARY):  # an imported model: the user knows it by its name
            exc.args = (str(exc).replace(str(engine.onnx_path), engine.name),)
        raise
    except Exception as exc:
        # The package is installed for another Python or without a library, or needs what the user lacks, such as HOME.
        raise UnavailableError(f"{runtime} does not start ({one_line(exc, 200)}); reinstall its package") from exc


def require_cuda_kernels(engine: Engine) -> None:
    """Raise UnavailableError where ``"auto"`` does not try onnxruntime-cuda, with the reason.

    That is where the package has no CUDA, where there is no GPU, and for a precision that CUDA's provider computes only
    in another one.
    """
    require_cuda_package()
    if not has_nvidia_gpu():  # CUDA's libraries are gigabytes, and need not be loaded to say so
        raise UnavailableError("this process sees no NVIDIA GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES")
    if (quantized := quantized_type(engine.precision)) is not None:
        others = float_type(engine.precision)
        raise UnavailableError(
            f"its CUDA provider has no kernels for {quantized} and would turn it into {others} in each call; build a "
            "TensorRT plan, or name this `runtime` to use it all the same"
        )


GPU_RUNTIMES = ("tensorrt", "onnxruntime-cuda")
"""Those that run on an NVIDIA GPU."""
CALLS_PER_GPU = {"tensorrt": 2}
"""Calls at the same time that keep a GPU busy, where that is more than one. A fork of a TensorRT plan has a context, a
stream and buffers of its own, so one copies while the other computes. Forks of onnxruntime-cuda share a session, which
then replays no CUDA graphs."""


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
