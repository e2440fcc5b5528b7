"""Typed ONNX -> TensorRT plans, with the full TensorRT 10 or 11 or with TensorRT-RTX.

There is no precision option: networks are strongly typed, so the ONNX decides. TensorRT-RTX builds ahead of time for
any GPU it knows, also on a machine without one. The full TensorRT builds only for the GPU it runs on, and its plan runs
only there, in the version that built it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_deploy.build import proof
from alexnet_deploy.build.callbacks import BuildMonitor, defer_interrupt, progress_monitor, stream_writer
from alexnet_deploy.bundle.manifest import LayerPrecision, Plan
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import InputError, ProofError, UnavailableError, UsageError
from alexnet_deploy.files import atomic_file, text_path
from alexnet_deploy.onnx_graph.onnx_file import load_onnx
from alexnet_deploy.progress import Progress, no_progress
from alexnet_deploy.runtime.cuda import current_capability
from alexnet_deploy.runtime.tensorrt_library import FULL, RTX, TensorRT, cause_in, installed

RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""Compute capabilities that TensorRT-RTX can build for; Hopper and data-centre Blackwell need the full TensorRT."""

PORTABLE = "portable"
"""One plan for every RTX GPU since Ampere (sm80): what TensorRT-RTX builds if no capability is set."""

TARGETS = (*RTX_TARGETS, PORTABLE, "all", "current")
"""Values of ``BuildSettings.targets``; the full TensorRT also accepts other compute capabilities, such as ``sm90``."""

FP8_SINCE = 89
"""The first compute capability with FP8 tensor cores (Ada)."""


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """A plan on disk, and the precision that each compute node got in it."""

    plan: Plan
    achieved: tuple[LayerPrecision, ...]


@dataclass(frozen=True, slots=True)
class BuiltPlans:
    """The plans of one ONNX, and a sentence for each target of ``all`` without one, with the reason."""

    plans: tuple[BuiltPlan, ...]
    passed_over: tuple[str, ...] = ()


def build_plans(
    onnx_path: Path,
    out_dir: Path,
    *,
    batch: BatchProfile,
    targets: Sequence[str] = (),
    source: str | None = None,
    on_progress: Progress = no_progress,
) -> BuiltPlans:
    """Build ``onnx_path`` into one raw plan per target, ``out_dir/<target>.plan``; errors call it ``source``.

    Without ``targets`` it builds for the GPU of this machine (``current``), or one ``portable`` plan without a GPU.
    ``all`` means each of ``RTX_TARGETS`` that can run this ONNX. If the full TensorRT is installed and the only
    target is the GPU of this machine, it is preferred: it tunes on the device.

    All plans of a call appear together, or none: an error or Ctrl-C (KeyboardInterrupt, within one of the builder's
    steps) leaves ``out_dir`` as it was, and a kill never leaves half a plan. A process builds one at a time, because
    TensorRT has one logger.

    Raises UsageError (an impossible target or batch), InputError (the ONNX), UnavailableError (no TensorRT, no GPU for
    ``current``, no disk space) and ProofError (the builder does not report its layers).
    """
    library, chosen = choose_builder(targets)
    plan_builder = _PlanBuilder(library, onnx_path, batch, source or str(onnx_path))
    plans: list[BuiltPlan] = []
    passed_over: list[str] = []
    with defer_interrupt() as interrupt, ExitStack() as finished:
        plan_builder.parse()
        for target in chosen:
            try:
                with ExitStack() as attempt:
                    temporary = attempt.enter_context(atomic_file(out_dir / f"{target}.plan"))
                    monitor = BuildMonitor(target, on_progress, interrupt)
                    plans.append(plan_builder.build(target, temporary, monitor))
                    finished.push(attempt.pop_all())
            except InputError as exc:
                if "all" not in targets:
                    raise
                passed_over.append(str(exc))
        if not plans:
            raise InputError(passed_over[-1])
    return BuiltPlans(tuple(plans), tuple(passed_over))


def choose_builder(targets: Sequence[str] = ()) -> tuple[TensorRT, tuple[str, ...]]:
    """Choose the TensorRT that builds, and resolve ``all`` and ``current`` among ``targets``, each once.

    Raises UsageError for a target that no installed TensorRT can build, UnavailableError if something is missing.
    """
    for target in targets:
        if target not in TARGETS and not re.fullmatch(r"sm\d{2,3}", target):
            raise UsageError(f"`targets` {target}: unknown; choose from {', '.join(TARGETS)}")
    libraries = installed()
    if not libraries:
        raise UnavailableError(
            "no TensorRT is installed: pip install 'alexnet-deploy[rtx]' builds plans on any machine, "
            "'alexnet-deploy[gpu]' for the GPU of this one"
        )
    here = current_capability()
    chosen: dict[str, None] = {}
    for target in targets or ["current" if here else PORTABLE]:
        if target == "current" and here is None:
            raise UnavailableError(
                "`targets` current: this machine has no usable CUDA GPU; name a compute capability, such as sm89"
            )
        chosen |= dict.fromkeys(RTX_TARGETS if target == "all" else [here or ""] if target == "current" else [target])
    if FULL in libraries and [*chosen] == [here]:
        return libraries[FULL], tuple(chosen)
    for target in chosen:
        if RTX not in libraries:
            raise UnavailableError(
                f"`targets` {target}: {libraries[FULL]} builds only for its own GPU ({here or 'none installed'}); "
                "pip install 'alexnet-deploy[rtx]' builds ahead of time"
            )
        if target not in (*RTX_TARGETS, PORTABLE):
            error = UnavailableError if target == here else UsageError
            raise error(
                f"`targets` {target}: {libraries[RTX]} builds for {', '.join(RTX_TARGETS)}; "
                f"on a machine with that GPU, pip install 'alexnet-deploy[gpu]' builds it"
            )
    return libraries[RTX], tuple(chosen)


class _PlanBuilder:
    """One TensorRT and one ONNX, built for one target after the other."""

    def __init__(self, library: TensorRT, onnx_path: Path, batch: BatchProfile, source: str) -> None:
        self._library = library
        self._path = onnx_path
        self._source = source
        self._batch = batch
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
        if target != PORTABLE and self._fp8 and int(target[2:]) < FP8_SINCE:
            raise InputError(f"{self._source}: {target} has no FP8; choose {since} or later, or build int8")
        api, builder, network = self._library.api, self._builder, self._network
        self._library.messages.clear()
        config = builder.create_builder_config()
        # The report of the achieved precision is part of the detailed verbosity.
        config.profiling_verbosity = api.ProfilingVerbosity.DETAILED
        config.progress_monitor = progress_monitor(api, monitor)
        self._set_batch(config)
        if self._library.name == RTX and target != PORTABLE:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(api.ComputeCapability, target.upper()), 0)
        with plan_path.open("wb") as stream:
            built = builder.build_serialized_network_to_stream(network, config, stream_writer(api, stream, monitor))
        monitor.raise_failure()
        if not built:
            advice = _advice(self._library)
            _forget_failed_build(self._library)
            raise InputError(f"{self._source}: no plan for {target}: {advice}")
        monitor.complete()
        plan = Plan(
            file=f"{target}.plan",
            builder=self._library.name,
            version=self._library.version,
            target=f"{since}+" if target == PORTABLE else target,
        )
        return BuiltPlan(plan, proof.achieved_precisions(self._nodes, self._layers(plan_path)))

    def _set_batch(self, config: Any) -> None:
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
        profile = builder.create_optimization_profile()
        profile.set_shape(tensor.name, *((size, *image) for size in (batch.min, batch.opt, batch.max)))
        if config.add_optimization_profile(profile) < 0:
            raise InputError(f"{self._source}: batches {batch.min}..{batch.max}: {_advice(self._library)}")

    def _layers(self, plan_path: Path) -> list[proof.EngineLayer]:
        api, messages = self._library.api, self._library.messages
        if self._library.name == RTX:
            layers = proof.layers_from_log(messages.layers)
        else:
            runtime = api.Runtime(self._library.logger)
            engine = runtime.deserialize_cuda_engine(plan_path.read_bytes())
            if engine is None:
                raise UnavailableError(
                    f"{plan_path.name}: {self._library} cannot load what it built: {_advice(self._library)}"
                )
            inspector = engine.create_engine_inspector()
            layers = proof.layers_from_inspector(inspector.get_engine_information(api.LayerInformationFormat.JSON))
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


def _advice(library: TensorRT) -> str:
    cause = library.messages.cause()
    if "FP32 GEMM is not supported" in cause:
        return "Turing (sm75) has no FP32 matrix multiply in TensorRT-RTX; build with fp16, or for another target"
    return f"{cause}; try another target or precision"
