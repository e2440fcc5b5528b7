"""What int8 or fp8 costs layer by layer: each one quantised alone, and each one alone left float."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.images.choose import CalibrationSet, choose_images
from alexnet_deploy.images.labelled import Labelled, list_labelled
from alexnet_deploy.inference.predict import read_batches
from alexnet_deploy.onnx_graph.adopt import adopt
from alexnet_deploy.onnx_graph.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.onnx_graph.onnx_file import fixed_batch, layer_of, load_onnx
from alexnet_deploy.precision.calibration_cache import CalibrationCache
from alexnet_deploy.precision.convert import calibrated, method_for
from alexnet_deploy.precision.qdq import Quantized
from alexnet_deploy.precision.thresholds import Method
from alexnet_deploy.sensitivity.variants import Effect, Variants

DEFAULT_IMAGES = 256
"""Enough to rank layers by KL; a change of accuracy shows on thousands only (docs/diagnose.md)."""
DEFAULT_CALIBRATION_IMAGES = 128
BATCH = 16
"""Images computed at once; the result does not depend on it, memory does."""

Report = Callable[[str, int, int], None]
"""Called with a stage's name, the steps done and the steps in all."""


@dataclass(frozen=True, slots=True)
class LayerDiagnosis:
    """One quantisable layer, by its name in the PyTorch module and in the ONNX graph.

    ``sqnr_db`` is of its output: the noise that quantising its own input and weights adds.
    """

    layer: str
    node: str
    op: str
    sqnr_db: float
    alone: Effect
    """Of quantising only this layer."""
    restored: Effect
    """Of quantising all but this layer."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All quantisable layers, first the one that alone costs most KL."""

    kind: Quantized
    method: Method
    images: int
    calibration_images: int
    float_top1_percent: float | None
    everything: Effect
    """Of quantising all layers."""
    layers: tuple[LayerDiagnosis, ...]
    unlabelled: str | None = None
    """Why there is no accuracy."""

    def regained_nats(self, layer: LayerDiagnosis) -> float:
        """KL that goes away where, of all, this layer becomes float again; below 0 where its error hid another's."""
        return self.everything.kl_nats - layer.restored.kl_nats


@dataclass(frozen=True, slots=True)
class Subject:
    """A float model in our form (what ``adopt`` writes), and how it is calibrated."""

    onnx_path: Path
    contract: ModelContract
    kind: Quantized
    calibration: CalibrationSet
    method: Method | None = None
    exclude: str | None = None
    cache: CalibrationCache | None = None
    source: str | None = None
    """What the user called the model, for errors; None: ``onnx_path``."""


def diagnose(
    onnx_path: Path,
    data: Path,
    *,
    kind: Quantized = "int8",
    images: int = DEFAULT_IMAGES,
    calibration_data: Path | None = None,
    calibration_images: int = DEFAULT_CALIBRATION_IMAGES,
    method: Method | None = None,
    exclude: str | None = None,
    seed: int = 0,
    import_options: ImportOptions = NO_IMPORT_OPTIONS,
    on_progress: Report | None = None,
) -> Diagnosis:
    """Diagnose ``onnx_path`` on ``images`` images of ``data``, balanced over its class folders where it has some.

    Without ``calibration_data`` other images of ``data`` calibrate. Raises InputError where a folder holds too few
    images, or where one image both calibrates and diagnoses.
    """
    for flag, number in (("--images", images), ("--calibration-images", calibration_images)):
        if number < 1:
            raise UsageError(f"{flag} {number}: takes 1 or more")
    if calibration_data is None:
        flags = ("--data", "--images and --calibration-images")
        both = choose_images(
            data,
            count=images + calibration_images,
            seed=seed,
            flags=flags,
            fewer=lambda usable: _fewer(usable, images, calibration_images),
        )
        calibration, chosen = _part(both, 0, calibration_images), _part(both, calibration_images, None)
    else:
        calibration = choose_images(calibration_data, count=calibration_images, seed=seed)
        chosen = choose_images(data, count=images, seed=seed, flags=("--data", "--images"))
        refuse_shared(calibration, chosen.sha256, f"--data {data}")
    with TemporaryDirectory() as scratch:
        adopted = Path(scratch) / "model.onnx"
        contract = adopt(onnx_path, adopted, import_options)
        unlabelled = targets = None
        try:
            targets = targets_of(chosen.files, list_labelled(data, contract))
        except InputError as exc:
            unlabelled = str(exc)
        subject = Subject(adopted, contract, kind, calibration, method, exclude, source=str(onnx_path))
        found = study(subject, chosen.files, targets, on_progress=on_progress)
        return dataclasses.replace(found, unlabelled=unlabelled)


def study(
    subject: Subject, files: Sequence[Path], targets: Sequence[int] | None, *, on_progress: Report | None = None
) -> Diagnosis:
    """Diagnose on readable image ``files``; ``targets`` are their class numbers."""
    variants, nodes, effect = _prepared(subject, files, targets, 2, on_progress)
    every = frozenset(nodes)
    everything = effect(every)
    noise = variants.noise(every)
    layers = [
        LayerDiagnosis(
            layer=layer_of(node),
            node=name,
            op=node.op_type,
            sqnr_db=noise[name].sqnr_db,
            alone=effect(frozenset([name])),
            restored=effect(every - {name}),
        )
        for name, node in nodes.items()
    ]
    return Diagnosis(
        kind=subject.kind,
        method=method_for(subject.kind, subject.method),
        images=len(files),
        calibration_images=len(subject.calibration.files),
        float_top1_percent=variants.float_top1_percent,
        everything=everything,
        layers=tuple(sorted(layers, key=lambda layer: -layer.alone.kl_nats)),
    )


def ranking(subject: Subject, files: Sequence[Path], *, on_progress: Report | None = None) -> dict[str, str]:
    """Nodes with their layers, in the order of ``study``; in less than half its time."""
    _, nodes, effect = _prepared(subject, files, None, 1, on_progress)
    cost = {name: effect(frozenset([name])).kl_nats for name in nodes}
    return {name: layer_of(nodes[name]) for name in sorted(nodes, key=lambda name: -cost[name])}


def _prepared(
    subject: Subject,
    files: Sequence[Path],
    targets: Sequence[int] | None,
    passes_a_node: int,
    on_progress: Report | None,
) -> tuple[Variants, dict[str, onnx.NodeProto], Callable[[frozenset[str]], Effect]]:
    """The variants of the calibrated model, its quantisable nodes by name, and ``Variants.effect`` with progress."""
    report = on_progress or (lambda stage, done, total: None)
    pre, fixed = subject.contract.preprocessing, fixed_batch(load_onnx(subject.onnx_path))
    report("calibration", 0, 1)
    model, nodes, made = calibrated(
        subject.onnx_path,
        kind=subject.kind,
        batches=lambda: subject.calibration.batches(pre, fixed or BATCH),
        method=subject.method,
        exclude=subject.exclude,
        cache=subject.cache,
        source=subject.source,
    )
    report("calibration", 1, 1)
    variants = Variants(
        model,
        made.threshold_by_tensor,
        subject.kind,
        lambda: (read.pixels_NHWC for read in read_batches(files, pre, batch=BATCH)),
        targets,
    )
    total = passes_a_node * len(nodes) + passes_a_node - 1
    steps = itertools.count(1)

    def effect(quantised: frozenset[str]) -> Effect:
        found = variants.effect(quantised)
        report("layers", next(steps), total)
        return found

    return variants, {node.name: node for node in nodes}, effect


def targets_of(files: Sequence[Path], labelled: Labelled) -> list[int]:
    """The class numbers of ``files``; InputError for one that lies in no class folder."""
    target_of = dict(zip(labelled.files, labelled.targets, strict=True))
    outside = next((file for file in files if file not in target_of), None)
    if outside is not None:
        raise InputError(f"{outside}: lies in no class folder; give one that holds one folder of images a class")
    return [target_of[file] for file in files]


def refuse_shared(calibration: CalibrationSet, sha256: Iterable[str], source: str) -> None:
    """InputError where images of ``source``, told by their hashes, are among those that calibrate."""
    shared = len(set(calibration.sha256).intersection(sha256))
    if shared:
        raise InputError(
            f"{source}: {shared} of its images also calibrate (same content), so their ranges would flatter the "
            "result; give two folders that share no image"
        )


def _fewer(usable: int, images: int, calibration_images: int) -> str:
    """Flags that divide ``usable`` images as ``images`` and ``calibration_images`` would divide more."""
    if usable < 2:
        return f"--images {usable} and --calibration-data of another folder"
    calibrating = max(1, usable * calibration_images // (images + calibration_images))
    return f"--images {usable - calibrating} --calibration-images {calibrating}"


def _part(images: CalibrationSet, start: int, stop: int | None) -> CalibrationSet:
    return dataclasses.replace(images, files=images.files[start:stop], sha256=images.sha256[start:stop])
