"""The cost of a quantised type layer by layer: each layer quantised alone, and each one alone kept in float."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from alexnet_deploy.evaluation.answers import targets_if_labelled
from alexnet_deploy.images.choose import CalibrationSet, choose_images
from alexnet_deploy.images.identity.shared import refuse_shared_images, shared_images
from alexnet_deploy.onnx_graph.onnx_file import layer_of
from alexnet_deploy.precision.float_model import import_float_model
from alexnet_deploy.precision.types import Method, QuantizedType, method_for
from alexnet_deploy.progress import Progress, no_progress
from alexnet_deploy.sensitivity.settings import DiagnoseSettings
from alexnet_deploy.sensitivity.variants import Effect, Variants, calibrate_variants

SHARED_IMAGES_REMEDY = "the result would look better than it is: give two folders that share no image"


@dataclass(frozen=True, slots=True)
class LayerDiagnosis:
    """One quantisable layer, by its name in the PyTorch module and in the ONNX graph.

    ``sqnr_db`` is the SQNR of its output, with noise from quantising its own input and weights.
    """

    layer: str
    node: str
    op: str
    sqnr_db: float
    alone: Effect
    """The effect of quantising only this layer."""
    restored: Effect
    """The effect of quantising all but this layer."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All quantisable layers, first the one with the largest KL if quantised alone."""

    precision: QuantizedType
    method: Method
    images: int
    calibration_images: int
    float_top1_percent: float | None
    everything: Effect
    """The effect of quantising all layers."""
    layers: tuple[LayerDiagnosis, ...]
    unlabelled: str | None = None
    """The reason if the accuracy is missing."""

    def regained_nats(self, layer: LayerDiagnosis) -> float:
        """KL regained by keeping only this layer in float; negative if its error compensated that of another."""
        return self.everything.kl_nats - layer.restored.kl_nats


def diagnose(
    onnx: str | Path,
    data: str | Path,
    settings: DiagnoseSettings | None = None,
    *,
    on_progress: Progress = no_progress,
) -> Diagnosis:
    """Measure the cost of quantising each layer of ``onnx`` on images of the folder ``data``.

    Raises InputError if a folder holds too few images, or if an image is used to calibrate and to diagnose.
    """
    settings, onnx, data = settings or DiagnoseSettings(), Path(onnx), Path(data)
    with TemporaryDirectory() as scratch:
        model = import_float_model(onnx, Path(scratch) / "model.onnx", settings.import_options)
        calibration, files = _choose(data, settings)
        targets, unlabelled = targets_if_labelled(data, files, model.contract)
        on_progress("calibration", 0, 1)
        variants = calibrate_variants(model, settings.precision, calibration, settings, files, targets)
        on_progress("calibration", 1, 1)
        every = frozenset(variants.nodes)
        singles = [frozenset([name]) for name in variants.nodes]
        everything, *effects = _effects(variants, [every, *singles, *(every - one for one in singles)], on_progress)
        noise = variants.noise()
    layers = [
        LayerDiagnosis(layer_of(node), name, node.op_type, noise[name].sqnr_db, alone, restored)
        for (name, node), alone, restored in zip(
            variants.nodes.items(), effects[: len(every)], effects[len(every) :], strict=True
        )
    ]
    return Diagnosis(
        precision=settings.precision,
        method=method_for(settings.precision, settings.calibration_method),
        images=len(files),
        calibration_images=len(calibration.files),
        float_top1_percent=variants.float_top1_percent,
        everything=everything,
        layers=tuple(sorted(layers, key=lambda layer: -layer.alone.kl_nats)),
        unlabelled=unlabelled,
    )


def rank_layers(variants: Variants, on_progress: Progress) -> dict[str, str]:
    """Node names with their layers, in the order of ``diagnose``, in less than half its time."""
    effects = _effects(variants, [[name] for name in variants.nodes], on_progress)
    cost = {name: effect.kl_nats for name, effect in zip(variants.nodes, effects, strict=True)}
    return {name: layer_of(variants.nodes[name]) for name in sorted(cost, key=lambda name: -cost[name])}


def _effects(variants: Variants, quantised: Sequence[Collection[str]], on_progress: Progress) -> list[Effect]:
    """The effect of quantising each of several groups of nodes."""
    effects = []
    for done, names in enumerate(quantised, 1):
        effects.append(variants.effect(names))
        on_progress("layers", done, len(quantised))
    return effects


def _choose(data: Path, settings: DiagnoseSettings) -> tuple[CalibrationSet, tuple[Path, ...]]:
    """The calibration images, and those to diagnose on."""
    images, calibration_images = settings.images, settings.calibration_images
    if settings.calibration_data is None:
        both = choose_images(
            data,
            count=images + calibration_images,
            seed=settings.seed,
            parameters=("data", "images", "calibration_images"),
            fewer=lambda usable: _smaller_counts(usable, images, calibration_images),
        )
        files, sha256 = both.files[:calibration_images], both.sha256[:calibration_images]
        return dataclasses.replace(both, files=files, sha256=sha256), both.files[calibration_images:]
    calibration = choose_images(Path(settings.calibration_data), count=calibration_images, seed=settings.seed)
    chosen = choose_images(data, count=images, seed=settings.seed, calibrates=False, parameters=("data", "images"))
    shared = shared_images(dict(zip(chosen.files, chosen.sha256, strict=True)), calibration.sha256)
    refuse_shared_images(shared, "also calibrates", SHARED_IMAGES_REMEDY)
    return calibration, chosen.files


def _smaller_counts(usable: int, images: int, calibration_images: int) -> str:
    """The parameters that divide ``usable`` images in the proportion of the two counts."""
    if usable < 2:
        return f"`images` {usable} and `calibration_data` of another folder"
    calibrating = max(1, usable * calibration_images // (images + calibration_images))
    return f"`images` {usable - calibrating} `calibration_images` {calibrating}"
