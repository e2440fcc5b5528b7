"""How much an int8 or fp8 model depends on the images that calibrate it, and on their batch size (not at all)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from alexnet_deploy.bundle.manifest import CALIBRATION, Engine
from alexnet_deploy.contract import Precision
from alexnet_deploy.errors import UsageError
from alexnet_deploy.evaluation.answers import collect_answers
from alexnet_deploy.images.choose import CalibrationSet, choose_images
from alexnet_deploy.images.find import find_images
from alexnet_deploy.images.identity.shared import image_hashes, refuse_shared_images, shared_images
from alexnet_deploy.images.labelled import LabelledImages, list_labelled
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, name_nodes
from alexnet_deploy.precision.calibration.record import read_record
from alexnet_deploy.precision.convert import to_quantized
from alexnet_deploy.precision.float_model import CALIBRATION_BATCH, FloatModel, import_float_model
from alexnet_deploy.precision.qdq import LARGEST, quantizable
from alexnet_deploy.precision.types import Method, method_for, quantized_type
from alexnet_deploy.probabilities import predicted_classes
from alexnet_deploy.progress import Progress, no_progress
from alexnet_deploy.runtime.select import open_runner
from alexnet_deploy.sensitivity.layers import SHARED_IMAGES_REMEDY
from alexnet_deploy.sensitivity.settings import StabilitySettings


@dataclass(frozen=True, slots=True)
class ScaleSpread:
    """The scale of one tensor over the seeds."""

    tensor: str
    layer: str
    """The first layer that reads it."""
    smallest: float
    median: float
    largest: float

    @property
    def ratio(self) -> float:
        """Ratio of the largest to the smallest; 1 if the choice of images does not matter."""
        return self.largest / self.smallest


@dataclass(frozen=True, slots=True)
class Stability:
    """The spread of repeated calibrations."""

    precision: Precision
    method: Method
    images: int
    seeds: int
    first_seed: int
    """The draws use this seed and the following ``seeds`` - 1."""
    scales: tuple[ScaleSpread, ...]
    """In the order of the graph."""
    batch_sizes: tuple[int, ...]
    batch_difference: float
    """The largest relative difference of a scale between two batch sizes on the same images; 0: all are equal."""
    validation_images: int = 0
    float_top1_percent: float | None = None
    top1_percent: tuple[float, ...] = ()
    """One value per seed; empty without validation images."""


def settings_of(bundle: Path) -> StabilitySettings:
    """Settings that repeat the calibration of an int8 or fp8 bundle as it was built, from its seed on.

    Raises InputError if no images calibrated the bundle.
    """
    record = read_record(bundle / CALIBRATION)
    return StabilitySettings(
        precision=record.precision,
        calibration_images=len(record.files),
        calibration_method=record.method,
        exclude=record.exclude,
        seed=record.seed,
    )


def measure_stability(
    onnx: str | Path,
    calibration_data: str | Path,
    settings: StabilitySettings | None = None,
    *,
    on_progress: Progress = no_progress,
) -> Stability:
    """Calibrate ``onnx`` with the images that each seed draws, then with the first draw in each batch size.

    With ``validation_data`` the model of each seed and the float model answer its images; all of them are in memory at
    once. Raises UsageError for fewer than two seeds and for batch sizes that are out of range or do not fit a static
    model, InputError if an image of ``validation_data`` also calibrates, and the errors of calibration.
    """
    settings = settings or StabilitySettings()
    dtype = quantized_type(settings.precision)
    assert dtype is not None  # the settings check it
    method = method_for(dtype, settings.calibration_method)
    with TemporaryDirectory() as scratch:
        model = import_float_model(Path(onnx), Path(scratch) / "model.onnx", settings.import_options)
        sets = _draw(Path(calibration_data), settings)
        batch_sizes = _batch_sizes(model, settings.batch_sizes)
        validation = None
        if settings.validation_data is not None:
            validation = list_labelled(Path(settings.validation_data), model.contract)
        runs = len(sets) + len(batch_sizes)
        done = 0

        def calibrated_scales(images: CalibrationSet, batch: int, out: str) -> dict[str, float]:
            nonlocal done
            on_progress("calibration", done, runs)
            calibration = to_quantized(
                model.path,
                Path(scratch) / out,
                precision=settings.precision,
                batches=lambda: model.batches(images, batch),
                method=method,
                exclude=settings.exclude,
                source=model.source,
            )
            done += 1
            return {name: value / LARGEST[dtype] for name, value in calibration.threshold_by_tensor.items()}

        graph = load_onnx(model.path)
        name_nodes(graph)
        layers = {node.input[0]: node.name for node in reversed(quantizable(graph, dtype, settings.exclude))}
        by_seed = [calibrated_scales(images, CALIBRATION_BATCH, f"{images.seed}.onnx") for images in sets]
        scales_by_tensor = {name: [scales[name] for scales in by_seed] for name in by_seed[0]}
        by_batch = [calibrated_scales(sets[0], batch, "batch.onnx") for batch in batch_sizes]
        on_progress("calibration", runs, runs)
        found = Stability(
            precision=settings.precision,
            method=method,
            images=len(sets[0].files),
            seeds=len(sets),
            first_seed=settings.seed,
            scales=tuple(
                ScaleSpread(name, layers[name], min(scales), median(scales), max(scales))
                for name, scales in scales_by_tensor.items()
            ),
            batch_sizes=batch_sizes,
            batch_difference=max(abs(each[name] / by_batch[0][name] - 1) for each in by_batch for name in each),
        )
        if validation is None:
            return found
        engines = [Engine("float", model.path, model.contract, "fp32", None)]
        for images in sets:
            path = Path(scratch) / f"{images.seed}.onnx"
            engines.append(Engine(path.stem, path, model.contract, settings.precision, None))
        count, (exact, *top1) = _top1(engines, validation, settings.runtime, on_progress)
        return dataclasses.replace(found, validation_images=count, float_top1_percent=exact, top1_percent=tuple(top1))


def _draw(calibration_data: Path, settings: StabilitySettings) -> list[CalibrationSet]:
    """The images that each seed chooses."""
    sets = [
        choose_images(calibration_data, count=settings.calibration_images, seed=settings.seed + i)
        for i in range(settings.seeds)
    ]
    if settings.validation_data is not None:
        calibrating = (sha256 for images in sets for sha256 in images.sha256)
        shared = shared_images(image_hashes(find_images([Path(settings.validation_data)])), calibrating)
        refuse_shared_images(shared, "also calibrates", SHARED_IMAGES_REMEDY)
    return sets


def _batch_sizes(model: FloatModel, asked: Sequence[int] | None) -> tuple[int, ...]:
    fixed = model.fixed_batch
    if fixed is not None:
        if asked is not None and set(asked) != {fixed}:
            raise UsageError(f"{model.source}: accepts only batches of {fixed}; leave out `batch_sizes`")
        return (fixed,)
    return tuple(dict.fromkeys((1, CALIBRATION_BATCH, 32) if asked is None else asked))


def _top1(
    engines: Sequence[Engine], validation: LabelledImages, runtime: str, on_progress: Progress
) -> tuple[int, list[float]]:
    """The number of readable images, and top-1 of each engine in percent."""
    with ExitStack() as stack:
        runners = [stack.enter_context(closing(open_runner(engine, runtime).runner)) for engine in engines]
        answers = collect_answers(
            runners, validation, on_progress=lambda _, done, total: on_progress("validation", done, total)
        )
    right = [float(np.mean(predicted_classes(logits_NK) == answers.target_N)) for logits_NK in answers.logits_NK]
    return len(answers.target_N), [100 * share for share in right]
