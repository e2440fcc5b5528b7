"""Which engines become which models of a repository: names, batch sizes, plans."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.bundle.manifest import Engine, Plan
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.runtime.tensorrt.support import covers, require_capability

TENSORRT = "tensorrt"
"""The builder whose plans Triton loads; it does not load those of TensorRT-RTX."""
DECODE, ANSWER, PHOTOS = "decode", "probabilities", "photos"
"""What the names of the models beside an engine end with: image to pixels, logits to probabilities, the ensemble."""

EXAMPLES = ("sm75", "sm80", "sm86", "sm89", "sm90", "sm100", "sm120")
"""Targets that a message names; the full TensorRT builds for any compute capability."""

_MAX_NAME = 100


@dataclass(frozen=True, slots=True)
class TritonModel:
    """One engine as a model of Triton. ``plans`` is empty where its ONNX is served."""

    name: str
    engine: Engine
    batch: BatchProfile
    static: bool
    """Whether the graph takes one batch size only: ``batch.max``."""
    plans: tuple[tuple[Plan, Path], ...] = ()

    @property
    def profiles(self) -> tuple[BatchProfile, ...]:
        """The optimisation profiles of each of its plans, in order; empty where they have one, or none is served."""
        return _profiles(self.plans[0][0]) if self.plans else ()

    @property
    def max_batch_size(self) -> int:
        """0 where Triton must not add images to a request, because the batch size is fixed."""
        return 0 if self.static else self.batch.max

    @property
    def beside_roles(self) -> tuple[str, ...]:
        """What its models beside it do: features are answered as they are, without probabilities."""
        return (DECODE, PHOTOS) if self.engine.contract.features else (DECODE, ANSWER, PHOTOS)

    def beside(self, role: str) -> str:
        """The name of the model of that role."""
        return f"{self.name}-{role}"


def triton_name(name: str) -> str:
    """A name that is valid as a folder, in a URL and in Triton; every other character becomes ``_``."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip("._-")[:_MAX_NAME] or "model"


def choose_model(engine: Engine, fixed_batch: int | None, targets: Sequence[str]) -> TritonModel:
    """The model of ``engine``, whose ONNX takes ``fixed_batch`` images only (None: any number).

    InputError for a target without a plan that Triton loads.
    """
    name = triton_name(engine.name)
    batch = engine.batch or BatchProfile()
    if fixed_batch is not None:
        batch = BatchProfile(fixed_batch, fixed_batch, fixed_batch)
    plans = tuple(_plan(engine, target) for target in dict.fromkeys(targets))
    if plans and batch.min > 1:
        raise InputError(
            f"{engine.name}: its plans take {batch.min} images or more, and Triton also sends fewer; build it for "
            "batches from 1 image on, or leave out `targets`"
        )
    if len({plan.version for plan, _ in plans}) > 1:
        raise InputError(
            f"{engine.name}: its plans for {', '.join(targets)} are of different versions of TensorRT, and Triton has "
            "one; build them with one version, or package one target"
        )
    if len({_profiles(plan) for plan, _ in plans}) > 1:
        raise InputError(
            f"{engine.name}: its plans for {', '.join(targets)} have different optimisation profiles, and Triton takes "
            "the same ones of each; build them with the same profiles, or package one target"
        )
    return TritonModel(name, engine, batch, fixed_batch is not None, plans)


def capability_for(target: str) -> str:
    """The compute capability of a GPU that Triton runs on; UsageError for what names none."""
    if target.endswith("+"):
        raise UsageError(
            f"`targets` {target}: name each GPU that Triton will run on, such as sm89; a plan for {target} serves it"
        )
    return require_capability(target, EXAMPLES)


def _plan(engine: Engine, target: str) -> tuple[Plan, Path]:
    """The plan for ``target``: one of that capability, or one of an earlier one that it runs on."""
    usable = {plan.target: (plan, path) for plan, path in engine.plans if plan.builder == TENSORRT}
    fitting = [each for each in usable.values() if covers(TENSORRT, each[0].version, each[0].target, target)]
    if fitting:
        plan, path = min(fitting, key=lambda each: each[0].target != target)
        return dataclasses.replace(plan, target=target), path
    if any(plan.target == target for plan, _ in engine.plans):
        cause = f"its plan for {target} is of TensorRT-RTX, which Triton cannot load"
    else:
        cause = f"has no plan for {target}" + (f"; it has {', '.join(usable)}" if usable else "")
    raise InputError(
        f"{engine.name}: {cause}; build it with the full TensorRT on that GPU, or leave out `targets` to serve its ONNX"
    )


def _profiles(plan: Plan) -> tuple[BatchProfile, ...]:
    return () if plan.options is None else plan.options.profiles


def refuse_equal_names(models: Sequence[TritonModel], *, preprocess: bool) -> None:
    """UsageError for two models of one name, those beside an engine included."""
    taken: dict[str, str] = {}
    for model in models:
        for name in (model.name, *map(model.beside, model.beside_roles if preprocess else ())):
            key = name.lower()  # folders that differ in case only are one folder on some file systems
            if key in taken:
                raise UsageError(
                    f"{model.engine.name}: its model {name} has the name of one of {taken[key]}; give each engine "
                    "once, or rename one"
                )
            taken[key] = model.engine.name
