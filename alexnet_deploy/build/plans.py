"""Typed ONNX -> TensorRT plans, with the full TensorRT 10 or 11 or with TensorRT-RTX.

TensorRT-RTX builds ahead of time for any GPU it knows, also on a machine without one. The full TensorRT builds only for
the GPU it runs on, and its plan runs only there, in the version that built it, unless ``PlanOptions`` say otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.build.callbacks import BuildMonitor, defer_interrupt
from alexnet_deploy.build.plan_builder import BuiltPlan, PlanBuilder
from alexnet_deploy.build.plan_config import check_options, remarks
from alexnet_deploy.build.targets import choose_builder
from alexnet_deploy.bundle.plan_options import DEFAULT_OPTIONS, PlanOptions
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import InputError
from alexnet_deploy.files import atomic_file
from alexnet_deploy.progress import Progress, no_progress


@dataclass(frozen=True, slots=True)
class BuiltPlans:
    """The plans of one ONNX."""

    plans: tuple[BuiltPlan, ...]
    passed_over: tuple[str, ...] = ()
    """A sentence for each target of ``all`` without a plan, with the reason."""
    remarks: tuple[str, ...] = ()
    """Notes about the options."""


def build_plans(
    onnx_path: Path,
    out_dir: Path,
    *,
    batch: BatchProfile,
    targets: Sequence[str] = (),
    options: PlanOptions = DEFAULT_OPTIONS,
    timings: Path | None = None,
    source: str | None = None,
    on_progress: Progress = no_progress,
) -> BuiltPlans:
    """Build ``onnx_path`` into one raw plan per target, ``out_dir/<target>.plan``; errors call it ``source``.

    Without ``targets`` it builds for the GPU of this machine (``current``), or one ``portable`` plan without a GPU.
    ``all`` means each of ``RTX_TARGETS`` that can run this ONNX. If the full TensorRT is installed and the only
    target is the GPU of this machine, it is preferred: it tunes on the device, and keeps its timings in ``timings``.
    ``batch`` holds for plans without ``options.profiles``.

    All plans of a call appear together, or none: an error or Ctrl-C (KeyboardInterrupt, within one of the builder's
    steps) leaves ``out_dir`` as it was, and a kill never leaves half a plan. A process builds one at a time, because
    TensorRT has one logger.

    Raises UsageError (an impossible target, batch or option), InputError (the ONNX), UnavailableError (no TensorRT, no
    GPU for ``current``, no disk space) and ProofError (the builder does not report its layers).
    """
    library, chosen = choose_builder(targets)
    check_options(options, library)
    plan_builder = PlanBuilder(library, onnx_path, batch, source or str(onnx_path), options, timings)
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
    return BuiltPlans(tuple(plans), tuple(passed_over), remarks(options, library))
