"""Find the TensorRT plan of a bundle that this machine can run, and load it onto the GPU."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from alexnet_deploy.bundle.manifest import Engine, Plan
from alexnet_deploy.contract import BatchProfile, ModelContract
from alexnet_deploy.errors import ArtifactError, InputError, UnavailableError
from alexnet_deploy.machine.gpu import has_nvidia_gpu
from alexnet_deploy.runtime.cuda.captures import present
from alexnet_deploy.runtime.cuda.device import Device, current_capability, open_device
from alexnet_deploy.runtime.cuda.errors import gpu_error
from alexnet_deploy.runtime.tensorrt.library import FULL, RTX, TensorRT, installed, load
from alexnet_deploy.runtime.tensorrt.rtx_kernels import RtxKernels
from alexnet_deploy.runtime.tensorrt.runner import TensorRTRunner
from alexnet_deploy.runtime.tensorrt.support import covers, package_for, why_unsupported

_log = logging.getLogger(__name__)

TRUST_VARIABLE = "ALEXNET_DEPLOY_TRUST_PLANS"
"""Set to 1, version-compatible plans may run the code that they contain."""

_BUILD_AGAIN = "build the bundle again on this machine"
_REMEDIES = {
    "OLD_CUDA_DRIVER": "update NVIDIA's driver",
    "OLD_CUDA_RUNTIME": "update the CUDA runtime",
    "INSUFFICIENT_GPU_MEMORY": "free GPU memory, or build for smaller batches",
    "CUDA_ERROR": "check nvidia-smi and the driver",
}
"""What helps against a diagnosis of TensorRT-RTX, unless it is to build again."""


def open_plan(bundle: Engine, *, eager: bool = False, device: Device | None = None) -> TensorRTRunner:
    """Load the first plan of ``bundle`` that runs on this machine; ``eager`` and ``device`` as for ``load_plan``.

    One for this very GPU comes before a portable one. Where the library refuses one, the next is tried.
    UnavailableError with the reason against each if none is left.
    """
    features = bundle.contract.features
    if features is not None and not bundle.plans:
        raise UnavailableError(
            f"{bundle.name} holds no TensorRT plan that ends at layer {features.layer}; build one: alexnet-deploy "
            f"build-engine, with `until` {features.layer}"
        )
    if bundle.batch is None or not bundle.plans:
        raise UnavailableError(f"{bundle.name} holds no TensorRT plan; {_no_plan_advice(device)}")
    reasons = []
    for plan, path in sorted(bundle.plans, key=lambda each: each[0].target.endswith("+")):
        try:
            return load_plan(path, plan, bundle.contract, bundle.batch, device=device, eager=eager)
        except UnavailableError as exc:
            reasons.append(f"{plan.file}: {str(exc).removeprefix(f'{path}: ')}")
    raise UnavailableError(f"{bundle.name}: no plan for this machine ({'; '.join(reasons)})")


def _no_plan_advice(device: Device | None) -> str:
    """How to get a plan, unless the installed TensorRT could not build one for the GPU at hand."""
    if device is not None:
        here: str | None = device.capability
    else:
        here = current_capability() if has_nvidia_gpu() else None
    if here is not None and FULL not in (libraries := installed()) and RTX in libraries:
        reason = why_unsupported(RTX, libraries[RTX].version, here)
        if reason is not None:
            return reason
    return "build one: alexnet-deploy build-engine"


def why_not(plan: Plan, path: Path, device: Device | None = None) -> str | None:
    """The reason that this machine cannot run ``plan``, on one line; None if no reason is known.

    The manifest is asked, then ``tensorrt_support``, then TensorRT-RTX itself, which judges the header of ``path``.
    """
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
        here = device.capability
        # A plan of the full TensorRT was built on such a GPU, whatever the documents say.
        if library.name == RTX and (reason := why_unsupported(RTX, library.version, here)) is not None:
            return reason
        if plan.version != library.version and not _runs_later(plan, library.version):
            return f"built with {plan.builder} {plan.version}, this machine has {library.version}; {_BUILD_AGAIN}"
        if not covers(library.name, library.version, plan.target, here):
            return f"built for {plan.target}, this GPU is {here}; {_BUILD_AGAIN}"
        if _is_version_compatible(plan) and os.environ.get(TRUST_VARIABLE) != "1":
            return (
                "is version-compatible, so it contains code that TensorRT would run; if you trust the bundle, set "
                f"{TRUST_VARIABLE}=1"
            )
        return _refusal(library, path, here)


def _is_version_compatible(plan: Plan) -> bool:
    return plan.options is not None and plan.options.version_compatible


def _runs_later(plan: Plan, version: str) -> bool:
    """Whether a plan runs in ``version`` as well: in later ones of its major version, and one of 10 in 11.

    https://docs.nvidia.com/deeplearning/tensorrt/11.4.1/getting-started/support-matrix.html
    """
    try:
        built, here = (tuple(map(int, text.split("."))) for text in (plan.version, version))
    except ValueError:
        return False
    return _is_version_compatible(plan) and here >= built and (built[0] == here[0] or (built[0], here[0]) == (10, 11))


def _refusal(library: TensorRT, path: Path, here: str) -> str | None:
    """Why TensorRT-RTX calls the plan invalid on a GPU of capability ``here``; None if it does not.

    None for the full TensorRT, which cannot say. Without a driver it calls every plan invalid, and only its log has the
    cause. InputError if the file cannot be read.
    """
    api = library.api
    runtime = api.Runtime(library.logger)
    if not hasattr(runtime, "get_engine_validity"):
        return None
    library.messages.clear()
    validity, found = runtime.get_engine_validity(_read(path, runtime.engine_header_size))
    if validity != api.EngineValidity.INVALID:
        return None
    kinds = api.EngineInvalidityDiagnostics.__members__.items()
    names = [name for name, kind in kinds if int(kind) & found]
    said = library.messages.cause()
    if not names and (fault := gpu_error(f"{library} refuses it", said)) is not None:
        return str(fault)
    if "UNSUPPORTED_CC" in names:
        remedy = package_for(here)
    else:
        remedy = next((_REMEDIES[name] for name in names if name in _REMEDIES), _BUILD_AGAIN)
    return f"{library} refuses it ({', '.join(names) or said}); {remedy}"


def load_plan(
    path: Path,
    plan: Plan,
    contract: ModelContract,
    batch: BatchProfile,
    *,
    device: Device | None = None,
    eager: bool = False,
) -> TensorRTRunner:
    """Load a plan onto ``device``, or onto the first GPU.

    TensorRT-RTX compiles the kernels for a batch size in the background, and meanwhile uses slower ones; ``eager``
    makes the first call wait for them, for a measurement.

    Raises UnavailableError if the machine cannot run it and ArtifactError if the tensors of the plan do not fit
    ``contract``; nothing stays allocated then.
    """
    with ExitStack() as resources:
        resources.enter_context(present())
        if device is None:
            try:
                device = open_device()
            except UnavailableError as exc:
                raise UnavailableError(f"{path}: no CUDA device ({exc})") from exc
            resources.callback(device.close)
        reason = why_not(plan, path, device)
        if reason is not None:
            raise UnavailableError(f"{path}: {reason}")
        library = load(plan.builder)
        if plan.card and device.card != plan.card:
            _log.warning(
                "%s: was built on %s, and this GPU is %s: by TensorRT's own words, a plan on another model of GPU may "
                "be slower, or fail; build it here, or with `hardware_compatible` sameComputeCapability",
                path,
                plan.card,
                device.card,
            )
        content = _read(path)
        engine = _deserialize(library, plan, path, content)
        _check_tensors(library, engine, contract, path)
        kernels = None
        if library.name == RTX:
            kernels = RtxKernels(library, device, content, eager=eager)
            resources.callback(kernels.save)
        return TensorRTRunner(library, engine, device, contract, batch, resources, plan=plan, kernels=kernels)


def _read(path: Path, size: int = -1) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(size)
    except OSError as exc:
        raise InputError(f"{path}: cannot be read ({exc.strerror}); build the bundle again") from exc


def _deserialize(library: TensorRT, plan: Plan, path: Path, content: bytes) -> Any:
    library.messages.clear()
    runtime = library.api.Runtime(library.logger)
    if _is_version_compatible(plan):
        runtime.engine_host_code_allowed = True  # `why_not` asked for the user's consent
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        what, said = f"{path}: {library} cannot load it", library.messages.cause()
        raise gpu_error(what, said) or UnavailableError(f"{what} ({said})", _BUILD_AGAIN)
    return engine


def _check_tensors(library: TensorRT, engine: Any, contract: ModelContract, path: Path) -> None:
    """ArtifactError for other tensors than the contract's: an engine of other shapes would write past our buffers."""
    api = library.api
    image = (contract.preprocessing.height, contract.preprocessing.width, 3)
    expected = {
        contract.input_name: (api.TensorIOMode.INPUT, api.DataType.UINT8, image),
        contract.output_name: (api.TensorIOMode.OUTPUT, api.DataType.FLOAT, (contract.outputs,)),
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
