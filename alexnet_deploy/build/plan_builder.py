"""One ONNX in one TensorRT, built for one target after the other.

There is no precision option: networks are strongly typed, so the ONNX decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_deploy.build import proof, reported_layers
from alexnet_deploy.build.callbacks import BuildMonitor, progress_monitor, stream_writer
from alexnet_deploy.build.plan_config import require_batch, set_options, timing_cache
from alexnet_deploy.build.targets import PORTABLE
from alexnet_deploy.bundle.manifest import LayerPrecision, Plan
from alexnet_deploy.bundle.plan_options import DEFAULT_OPTIONS, PlanOptions, span
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import InputError, ProofError, UnavailableError, UsageError
from alexnet_deploy.files import text_path
from alexnet_deploy.machine.gpu import nvidia_smi
from alexnet_deploy.onnx_graph.onnx_file import load_onnx
from alexnet_deploy.runtime.cuda.device import current_card
from alexnet_deploy.runtime.tensorrt.library import RTX, TensorRT, cause_in
from alexnet_deploy.runtime.tensorrt.support import FP8_SINCE


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """A plan on disk, and the precision that each compute node got in it."""

    plan: Plan
    achieved: tuple[LayerPrecision, ...]


class PlanBuilder:
    """One TensorRT and one ONNX, built for one target after the other."""

    def __init__(
        self,
        library: TensorRT,
        onnx_path: Path,
        batch: BatchProfile,
        source: str,
        options: PlanOptions = DEFAULT_OPTIONS,
        timings: Path | None = None,
    ) -> None:
        """``source`` names the ONNX in errors; ``timings`` is the folder of the timing cache."""
        self._library = library
        self._path = onnx_path
        self._source = source
        self._batch = batch
        self._options = options
        self._timings = timings
        self._nodes = proof.compute_nodes(load_onnx(onnx_path))
        self._fp8 = any(node.precision == "fp8" for node in self._nodes)

    def parse(self) -> None:
        """Read the ONNX into a network; InputError if TensorRT does not accept it."""
        api, logger = self._library.api, self._library.logger
        self._library.messages.clear()
        builder = api.Builder(logger)
        # Without the flag TensorRT 10 may build fp32 where the ONNX asks for fp16.
        network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = api.OnnxParser(network, logger)
        with text_path(self._path) as name:
            parsed = parser.parse_from_file(name)
        if not parsed:
            raise InputError(f"{self._source}: {_refusal(self._library, parser.get_error(0))}")
        if (network.num_inputs, network.num_outputs) != (1, 1):
            raise InputError(
                f"{self._source}: has {network.num_inputs} inputs and {network.num_outputs} outputs; "
                "export it with one image input, and its logits as the only output"
            )
        self._builder, self._network = builder, network
        self._parser = parser  # it owns the network's weights

    def build(self, target: str, plan_path: Path, monitor: BuildMonitor) -> BuiltPlan:
        """Build for one target into ``plan_path``; InputError if this model and this target do not fit."""
        since = f"sm{FP8_SINCE}" if self._fp8 else "sm80"
        portable = target == PORTABLE or self._options.hardware_compatible == "ampere+"
        if target != PORTABLE and self._fp8 and int(target[2:]) < FP8_SINCE:
            raise InputError(f"{self._source}: {target} has no FP8; choose {since} or later, or build int8")
        api, builder, network = self._library.api, self._builder, self._network
        self._library.messages.clear()
        config = builder.create_builder_config()
        # The report of the achieved precision is part of the detailed verbosity.
        config.profiling_verbosity = api.ProfilingVerbosity.DETAILED
        config.progress_monitor = progress_monitor(api, monitor)
        self._set_profiles(config)
        set_options(self._options, self._library, config)
        if self._library.name == RTX and target != PORTABLE:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(api.ComputeCapability, target.upper()), 0)
        timings = None if self._library.name == RTX else self._timings
        card = "" if timings is None else _card(target)
        with plan_path.open("wb") as stream, timing_cache(timings, self._library, config, card):
            built = builder.build_serialized_network_to_stream(network, config, stream_writer(api, stream, monitor))
        monitor.raise_failure()
        if not built:
            advice = _advice(self._library, self._options.workspace_mib)
            _forget_failed_build(self._library)
            raise InputError(f"{self._source}: no plan for {target}: {advice}")
        monitor.complete()
        plan = Plan(
            file=f"{target}.plan",
            builder=self._library.name,
            version=self._library.version,
            target=f"{since}+" if portable else target,
            options=self._options,
            card=current_card() if self._library.name != RTX and self._options.hardware_compatible == "none" else "",
        )
        return BuiltPlan(plan, proof.achieved_precisions(self._nodes, self._layers(plan_path)))

    def _set_profiles(self, config: Any) -> None:
        builder, batch = self._builder, self._batch
        tensor = self._network.get_input(0)
        fixed, *image = tensor.shape
        if -1 in image:
            raise InputError(
                f"{self._source}: input {tensor.name} {tuple(tensor.shape)}: only the batch may vary; export it again"
            )
        if fixed != -1:
            if (batch.min, batch.max) != (fixed, fixed):
                raise UsageError(
                    f"{self._source}: accepts only batches of {fixed}; use `min_batch` {fixed}, `opt_batch` {fixed} "
                    f"and `max_batch` {fixed}, or export it with a dynamic batch"
                )
            return
        require_batch(span(self._options.profiles) or batch, math.prod(image))
        for sizes in self._options.profiles or (batch,):
            profile = builder.create_optimization_profile()
            profile.set_shape(tensor.name, *((size, *image) for size in (sizes.min, sizes.opt, sizes.max)))
            if config.add_optimization_profile(profile) < 0:
                raise InputError(f"{self._source}: batches {sizes.min}..{sizes.max}: {_advice(self._library)}")

    def _layers(self, plan_path: Path) -> list[reported_layers.EngineLayer]:
        api, messages = self._library.api, self._library.messages
        if self._library.name == RTX:
            layers = reported_layers.layers_from_log(messages.layers)
        else:
            runtime = api.Runtime(self._library.logger)
            # A plan for later versions contains code, which this build has just put there.
            runtime.engine_host_code_allowed = self._options.version_compatible
            engine = runtime.deserialize_cuda_engine(plan_path.read_bytes())
            if engine is None:
                raise UnavailableError(
                    f"{plan_path.name}: {self._library} cannot load what it built: {_advice(self._library)}"
                )
            inspector = engine.create_engine_inspector()
            report = inspector.get_engine_information(api.LayerInformationFormat.JSON)
            layers = reported_layers.layers_from_inspector(report)
        if not layers:
            raise ProofError(
                f"{self._source}: {self._library} does not report its layers, so their precision is not proved; "
                "build in a process where nothing else uses TensorRT"
            )
        return layers


def _forget_failed_build(library: TensorRT) -> None:
    """Build the smallest possible network, about 10 ms.

    TensorRT-RTX 1.7.1 keeps the target of a failed build: the next build in the process is partly for that target
    (after sm75: channels padded as Turing needs them, 2 % larger), and only the one after it is correct.
    """
    api, logger = library.api, library.logger
    builder = api.Builder(logger)
    network = builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    layer = network.add_identity(network.add_input("x", api.DataType.FLOAT, (1,)))
    network.mark_output(layer.get_output(0))
    builder.build_serialized_network(network, builder.create_builder_config())


def _refusal(library: TensorRT, error: Any) -> str:
    cause = cause_in([error.desc()]).removeprefix(f"{error.node_name()}: ")
    if "Plugin not found" in cause:
        cause = f"{library} does not have this operator"
    node = f"node {error.node_name()} ({error.node_operator()}): " if error.node_operator() else ""
    return f"{node}{cause}; change the model, or run the ONNX with `runtime` onnxruntime"


def _advice(library: TensorRT, workspace_mib: int | None = None) -> str:
    cause = library.messages.cause()
    if "FP32 GEMM is not supported" in cause:
        return "Turing (sm75) has no FP32 matrix multiply in TensorRT-RTX; build with fp16, or for another target"
    if workspace_mib is not None and "workspace" in cause.lower():
        return f"`workspace` {workspace_mib} MiB is too little for a layer ({cause}); raise it, or leave it out"
    return f"{cause}; try another target or precision"


def _card(capability: str) -> str:
    """The name of the GPU of that capability, where nvidia-smi says it: timings are of one model of GPU."""
    dotted = f"{capability[2:-1]}.{capability[-1:]}"
    for line in (nvidia_smi() or "").splitlines():
        name, _, rest = line.partition(",")
        if rest.strip().endswith(dotted):
            return f"{capability}-{name.strip()}"
    return capability
