"""Find the TensorRT plan of a bundle that this machine can run, and load it onto the GPU."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from alexnet_deploy.bundle.manifest import Engine, Plan
from alexnet_deploy.contract import BatchProfile, ModelContract
from alexnet_deploy.errors import ArtifactError, InputError, UnavailableError
from alexnet_deploy.runtime.cuda import Device, open_device
from alexnet_deploy.runtime.tensorrt_library import TensorRT, load
from alexnet_deploy.runtime.tensorrt_runner import TensorRTRunner


def open_plan(bundle: Engine) -> TensorRTRunner:
    """Load ``usable_plan`` of ``bundle``."""
    plan, path = usable_plan(bundle)
    assert bundle.batch is not None  # a bundle with plans has the batch sizes of its plans
    return load_plan(path, plan, bundle.contract, bundle.batch)


def usable_plan(bundle: Engine) -> tuple[Plan, Path]:
    """The first plan that this machine can run; UnavailableError with the reason against each plan if there is none."""
    if bundle.batch is None or not bundle.plans:
        raise UnavailableError(f"{bundle.name} holds no TensorRT plan; build one: alexnet-deploy build-engine")
    reasons = []
    for plan, path in bundle.plans:
        reason = why_not(plan)
        if reason is None:
            return plan, path
        reasons.append(f"{plan.file}: {reason}")
    raise UnavailableError(f"{bundle.name}: no plan for this machine ({'; '.join(reasons)})")


def why_not(plan: Plan, device: Device | None = None) -> str | None:
    """The reason that this machine cannot run ``plan``, on one line; None if no reason is known."""
    with ExitStack() as resources:
        if device is None:
            # Checked before the library, which stays in memory: 140 MiB that a machine without a GPU does not need.
            try:
                device = open_device()
            except UnavailableError as exc:
                return f"no CUDA device ({exc})"
            resources.callback(device.close)
        try:
            library = load(plan.builder)
        except UnavailableError as exc:
            return str(exc)
        if plan.version != library.version:
            return f"built with {plan.builder} {plan.version}, this machine has {library.version}; build it again"
        if not _covers(plan.target, device.capability):
            return f"built for {plan.target}, this GPU is {device.capability}; build it again on this machine"
    return None


def _covers(target: str, capability: str) -> bool:
    """``sm89`` covers itself alone; ``sm80+``, the target of a portable plan, covers all later ones as well."""
    least = re.fullmatch(r"sm(\d+)\+", target)
    return int(capability[2:]) >= int(least[1]) if least else capability == target


def load_plan(
    path: Path, plan: Plan, contract: ModelContract, batch: BatchProfile, *, device: Device | None = None
) -> TensorRTRunner:
    """Load a plan onto ``device``, or onto the first GPU.

    Raises UnavailableError if the machine cannot run it and ArtifactError if the tensors of the plan do not fit
    ``contract``; nothing stays allocated then.
    """
    with ExitStack() as resources:
        if device is None:
            device = open_device()
            resources.callback(device.close)
        reason = why_not(plan, device)
        if reason is not None:
            raise UnavailableError(f"{path}: {reason}")
        library = load(plan.builder)
        engine = _deserialize(library, path)
        _check_tensors(library, engine, contract, path)
        return TensorRTRunner(library, engine, device, contract, batch, resources)


def _deserialize(library: TensorRT, path: Path) -> Any:
    api = library.api
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise InputError(f"{path}: cannot be read ({exc.strerror}); build the bundle again") from exc
    library.messages.clear()
    runtime = api.Runtime(library.logger)
    if hasattr(runtime, "get_engine_validity"):
        validity, found = runtime.get_engine_validity(data)
        if validity == api.EngineValidity.INVALID:
            kinds = api.EngineInvalidityDiagnostics.__members__.items()
            reasons = ", ".join(name for name, kind in kinds if int(kind) & found) or library.messages.cause()
            raise UnavailableError(f"{path}: {library} refuses it ({reasons}); build the bundle again here")
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        cause = library.messages.cause()
        raise UnavailableError(f"{path}: {library} cannot load it ({cause}); build the bundle again here")
    return engine


def _check_tensors(library: TensorRT, engine: Any, contract: ModelContract, path: Path) -> None:
    """ArtifactError for other tensors than the contract's: an engine of other shapes would write past our buffers."""
    api = library.api
    image = (contract.preprocessing.height, contract.preprocessing.width, 3)
    expected = {
        contract.input_name: (api.TensorIOMode.INPUT, api.DataType.UINT8, image),
        contract.output_name: (api.TensorIOMode.OUTPUT, api.DataType.FLOAT, (len(contract.labels),)),
    }
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {
        name: (engine.get_tensor_mode(name), engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name))[1:])
        for name in names
    }
    if found != expected:
        tensors = ", ".join(
            f"{name} {kind.name.lower()} [N, {str(shape)[1:-1]}]" for name, (_, kind, shape) in found.items()
        )
        raise ArtifactError(f"{path}: its tensors ({tensors}) do not match its contract; build the bundle again")
