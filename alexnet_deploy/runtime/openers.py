"""How each runtime opens an engine. A heavy library is imported at the top of one module, and that module only here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.runtime.onnxruntime.package import require_cuda_package, require_package

if TYPE_CHECKING:
    from alexnet_deploy.runtime.runner import Runner


@dataclass(frozen=True, slots=True)
class Options:
    """See ``select.open_runner``."""

    threads: int | None
    concurrency: int
    tf32: bool
    eager: bool
    device: int | None


def _tensorrt(engine: Engine, options: Options) -> Runner:
    from alexnet_deploy.runtime.cuda.on_card import open_on_card
    from alexnet_deploy.runtime.tensorrt.plans import open_plan

    return open_on_card(options.device, lambda card: open_plan(engine, eager=options.eager, device=card))


def _openvino(engine: Engine, options: Options) -> Runner:
    if importlib.util.find_spec("openvino") is None:
        raise UnavailableError("OpenVINO is not installed; pip install 'alexnet-deploy[cpu]'")
    from alexnet_deploy.runtime.openvino_runner import OpenVinoRunner

    threads, concurrency = options.threads, options.concurrency
    return OpenVinoRunner(engine.onnx_path, engine.contract, threads=threads, concurrency=concurrency)


def _onnxruntime(engine: Engine, options: Options) -> Runner:
    require_package()
    from alexnet_deploy.runtime.onnxruntime.runner import OnnxRuntimeRunner

    return OnnxRuntimeRunner(
        engine.onnx_path,
        engine.contract,
        precision=engine.precision,
        threads=options.threads,
        concurrency=options.concurrency,
    )


def _onnxruntime_cuda(engine: Engine, options: Options) -> Runner:
    require_cuda_package()
    from alexnet_deploy.runtime.cuda.on_card import open_on_card
    from alexnet_deploy.runtime.onnxruntime.cuda_runner import open_cuda_runner

    return open_on_card(
        options.device,
        lambda card: open_cuda_runner(
            engine.onnx_path,
            engine.contract,
            precision=engine.precision,
            concurrency=options.concurrency,
            tf32=options.tf32,
            device=card,
        ),
    )


RUNTIMES: dict[str, Callable[[Engine, Options], Runner]] = {
    "tensorrt": _tensorrt,
    "onnxruntime-cuda": _onnxruntime_cuda,
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
}
"""The runtimes, in the order in which ``auto`` tries them, but for int8 on a CPU where ``saturates_int8``."""
