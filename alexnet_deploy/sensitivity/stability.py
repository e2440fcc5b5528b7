"""How much an int8 or fp8 model depends on which images calibrate it, and that their batch size is no part of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.evaluation.answers import answers_of, predicted
from alexnet_deploy.files import sha256_or_none
from alexnet_deploy.images.choose import DEFAULT_IMAGES, CalibrationSet, choose_images
from alexnet_deploy.images.find import find_images
from alexnet_deploy.images.labelled import Labelled, list_labelled
from alexnet_deploy.onnx_graph.adopt import adopt
from alexnet_deploy.onnx_graph.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.onnx_graph.onnx_file import fixed_batch, load_onnx, name_nodes
from alexnet_deploy.precision.convert import method_for, to_quantized
from alexnet_deploy.precision.qdq import LARGEST, Quantized, quantizable
from alexnet_deploy.precision.thresholds import Method
from alexnet_deploy.runtime.select import open_runner

BATCH = 16
"""Images a step of the runs that differ by seed."""
Report = Callable[[str, int, int], None]
"""Called with a stage's name, the steps done and the steps in all."""
High = Literal["fp32", "fp16"]


@dataclass(frozen=True, slots=True)
class ScaleSpread:
    """A tensor's scale over the seeds."""

    tensor: str
    layer: str
    """The first layer that reads it."""
    smallest: float
    median: float
    largest: float

    @property
    def ratio(self) -> float:
        """Largest to smallest; 1 where the choice of images does not matter."""
        return self.largest / self.smallest


@dataclass(frozen=True, slots=True)
class Stability:
    """What repeating the calibration gave."""

    kind: Quantized
    method: Method
    high: High
    """What is not quantised is computed in."""
    images: int
    seeds: int
    first_seed: int
    """The draws are those of this seed and the ``seeds`` - 1 that follow it."""
    scales: tuple[ScaleSpread, ...]
    """In the order of the graph."""
    batch_sizes: tuple[int, ...]
    batch_difference: float
    """The largest relative difference of a scale between two batch sizes, over the same images; 0: all the same."""
    validation_images: int = 0
    float_top1_percent: float | None = None
    top1_percent: tuple[float, ...] = ()
    """A value a seed; empty without validation images."""


def draw(
    calibration_data: Path,
    *,
    images: int = DEFAULT_IMAGES,
    seeds: int = 5,
    first_seed: int = 0,
    validation_data: Path | None = None,
) -> tuple[CalibrationSet, ...]:
    """The images that each of ``seeds`` seeds from ``first_seed`` on chooses.

    Raises UsageError for fewer than two seeds, InputError where an image of ``validation_data`` is among those drawn,
    and what ``choose_images`` raises.
    """
    if seeds < 2:
        raise UsageError(f"--seeds {seeds}: takes 2 or more; one calibration has no spread")
    seeds_drawn = range(first_seed, first_seed + seeds)
    sets = tuple(choose_images(calibration_data, count=images, seed=seed) for seed in seeds_drawn)
    if validation_data is not None:
        _refuse_shared(validation_data, sets)
    return sets


def measure_stability(
    onnx_path: Path,
    sets: Sequence[CalibrationSet],
    *,
    kind: Quantized = "int8",
    method: Method | None = None,
    high: High = "fp32",
    batch_sizes: Sequence[int] | None = None,
    exclude: str | None = None,
    validation_data: Path | None = None,
    runtime: str = "auto",
    import_options: ImportOptions = NO_IMPORT_OPTIONS,
    on_progress: Report | None = None,
) -> Stability:
    """Calibrate with each of ``sets`` (of ``draw``), then with the first in each of ``batch_sizes`` (None: 1, 16, 32).

    With ``validation_data`` (one folder of images a class) each seed's model answers it, beside the float model, and
    all of them are in memory at once. Raises UsageError for batch sizes out of range or that a static model does not
    take, and what calibration raises.
    """
    report = on_progress or (lambda stage, done, total: None)
    method = method_for(kind, method)
    with TemporaryDirectory() as scratch:
        model = Path(scratch) / "model.onnx"
        contract = adopt(onnx_path, model, import_options)
        graph = load_onnx(model)
        fixed = fixed_batch(graph)
        batches = _batch_sizes(fixed, batch_sizes, onnx_path)
        validation = None if validation_data is None else list_labelled(validation_data, contract)
        runs = len(sets) + len(batches)
        done = 0

        def scales_of(chosen: CalibrationSet, batch: int, out: str) -> dict[str, float]:
            nonlocal done
            report("calibration", done, runs)
            made = to_quantized(
                model,
                Path(scratch) / out,
                kind=kind,
                batches=lambda: chosen.batches(contract.preprocessing, batch),
                method=method,
                high=high,
                exclude=exclude,
                source=str(onnx_path),
            )
            done += 1
            return {name: value / LARGEST[kind] for name, value in made.threshold_by_tensor.items()}

        name_nodes(graph)
        layers = {node.input[0]: node.name for node in reversed(quantizable(graph, kind, exclude))}
        by_seed = [scales_of(chosen, fixed or BATCH, f"{chosen.seed}.onnx") for chosen in sets]
        by_batch = [scales_of(sets[0], batch, "batch.onnx") for batch in batches]
        report("calibration", runs, runs)
        found = Stability(
            kind=kind,
            method=method,
            high=high,
            images=len(sets[0].files),
            seeds=len(sets),
            first_seed=sets[0].seed,
            scales=tuple(_spread(name, layers[name], [scales[name] for scales in by_seed]) for name in by_seed[0]),
            batch_sizes=batches,
            batch_difference=_largest_difference(by_batch),
        )
        if validation is None:
            return found
        typed = [Path(scratch) / f"{chosen.seed}.onnx" for chosen in sets]
        count, (exact, *top1) = _top1([model, *typed], contract, kind, validation, runtime, report)
        return dataclasses.replace(found, validation_images=count, float_top1_percent=exact, top1_percent=tuple(top1))


def _batch_sizes(fixed: int | None, asked: Sequence[int] | None, onnx_path: Path) -> tuple[int, ...]:
    if fixed is not None:
        if asked is not None and set(asked) != {fixed}:
            raise UsageError(f"{onnx_path}: takes batches of exactly {fixed}; leave out --batch-sizes")
        return (fixed,)
    sizes = tuple(dict.fromkeys((1, BATCH, 32) if asked is None else asked))
    if not sizes or min(sizes) < 1:
        raise UsageError(f"--batch-sizes {','.join(map(str, sizes))}: takes numbers of 1 or more, such as 1,16,32")
    return sizes


def _refuse_shared(validation_data: Path, sets: Sequence[CalibrationSet]) -> None:
    calibrating = {sha256 for chosen in sets for sha256 in chosen.sha256}
    shared = sum(sha256_or_none(file) in calibrating for file in find_images([validation_data]))
    if shared:
        raise InputError(
            f"{validation_data}: {shared} of its images also calibrate (same content), which flatters the result; "
            "give --validation-data that shares no image with --calibration-data"
        )


def _spread(tensor: str, layer: str, scales: list[float]) -> ScaleSpread:
    return ScaleSpread(tensor, layer, min(scales), median(scales), max(scales))


def _largest_difference(scales: Sequence[dict[str, float]]) -> float:
    first = scales[0]
    return max(abs(each[name] / first[name] - 1) for each in scales for name in first)


def _top1(
    models: Sequence[Path],
    contract: ModelContract,
    kind: Quantized,
    validation: Labelled,
    runtime: str,
    report: Report,
) -> tuple[int, list[float]]:
    """The number of readable images, and top-1 in percent of the float model and each quantised one."""
    with ExitStack() as stack:
        runners = []
        for number, path in enumerate(models):
            engine = Engine(path.stem, path, contract, kind if number else "fp32", None)
            runners.append(stack.enter_context(closing(open_runner(engine, runtime).runner)))
        answers = answers_of(runners, validation, on_progress=lambda done, total: report("validation", done, total))
    right = [float(np.mean(predicted(logits_NK) == answers.target_N)) for logits_NK in answers.logits_NK]
    return len(answers.target_N), [100 * share for share in right]
