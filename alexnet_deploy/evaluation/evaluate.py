"""Engines + labelled images -> accuracy, confidence, latency and size per engine, each compared with the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from alexnet_deploy.adoption.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.bundle.store import STORE
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import DeployError, ProofError, UsageError
from alexnet_deploy.evaluation.accuracy import accuracy, accuracy_delta
from alexnet_deploy.evaluation.answers import Answers, collect_answers
from alexnet_deploy.evaluation.engines import (
    EvaluatedEngine,
    find_shared_images,
    open_engines,
    refuse_outliers,
    refuse_shared,
    unique_names,
)
from alexnet_deploy.evaluation.max_drop import holds_max_drop
from alexnet_deploy.evaluation.results import AccuracyDelta, EngineResult
from alexnet_deploy.images.identity.shared import count_copies
from alexnet_deploy.images.labelled import LabelledImages, list_labelled, list_unlabelled
from alexnet_deploy.images.ten_crops import VIEWS, has_margin
from alexnet_deploy.inference.predict import contract_for_crops
from alexnet_deploy.profiling.latency import measure
from alexnet_deploy.profiling.settings import check_timing
from alexnet_deploy.progress import Progress, no_progress

LATENCY_S = 0.5
"""Seconds for which each engine is timed: some hundred calls, steady enough to print next to its accuracy."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that ``evaluate`` measured on one folder."""

    data: Path
    naming: str
    """Naming of the folders: ``class id``, ``label`` or ``class number``."""
    contract: ModelContract
    """Contract of the first engine: it names the classes."""
    images: int
    copies: int
    """Number of images with the content of another one. Each counts, though it adds no information."""
    unreadable: tuple[str, ...]
    """One line per file that cannot be read."""
    engines: tuple[EngineResult, ...]
    deltas: tuple[AccuracyDelta, ...]
    """``engines[i + 1]`` compared with ``engines[0]``."""
    answers: Answers = field(repr=False, compare=False)
    """The logits from which all results were computed."""
    contracts: tuple[ModelContract, ...] = field(default=(), repr=False, compare=False)
    """Contract of each engine: they differ in what was fitted to its answers."""
    views: int = 1
    """Views of each image whose probabilities were averaged: 1 or 10."""
    has_margin: bool = True
    """Whether ten views of an image differ, apart from being mirrored."""
    passed_over: tuple[str, ...] = ()
    """One line per runtime that was tried and cannot run an engine on this machine."""
    unused_gpu: bool = False
    """Whether an engine runs on the CPU although this machine has a GPU."""


def evaluate(
    engines: str | Path | Sequence[str | Path] | None,
    data: str | Path,
    *,
    store: str | Path = STORE,
    runtimes: str | Sequence[str] = "auto",
    threads: int | None = None,
    import_options: ImportOptions = NO_IMPORT_OPTIONS,
    full_decode: bool = False,
    ten_crop: bool = False,
    outliers: str | Path | None = None,
    allow_calibration_images: bool = False,
    latency_s: float | None = LATENCY_S,
    min_engines: int = 1,
    tf32: bool = False,
    device: int | None = None,
    on_progress: Progress = no_progress,
) -> Evaluation:
    """Measure engines on the labelled images in ``data``, a folder with one subfolder per class.

    ``engines`` are bundles (names in ``store`` or paths), ONNX files and checkpoints, each with an optional runtime:
    ``alexnet-int8@openvino``. One alone needs no list; None means all bundles of the store. The others are compared
    with the first one.
    ``runtimes`` may also hold ``"all"``. All engines answer the same pixels; then each is timed alone for
    ``latency_s`` seconds (None: not at all). ``full_decode`` decodes every photo in full, whatever their contracts say.
    ``ten_crop`` averages the probabilities of the paper's ten views of each image (``inference.ten_crops``); the time
    of an image is then that of its ten views.
    ``outliers`` is a folder of images that show none of the classes, to measure how well the scores separate them.
    ``tf32`` lets onnxruntime-cuda multiply float32 with ten bits of mantissa; ``device`` is the number of a GPU, and
    chooses runtimes of GPUs only.

    Raises InputError if the images calibrated an engine or its temperature, or if the outliers chose its rule, unless
    ``allow_calibration_images``; UsageError if fewer than ``min_engines`` engines are open, before anything is
    measured; and the errors of ``open_engines``, ``list_labelled``, ``refuse_outliers`` and ``collect_answers``.
    """
    with _own_names(), ExitStack() as stack:
        if latency_s is not None:
            check_timing(latency_s, warm_up_s=0)
        opened = stack.enter_context(
            open_engines(
                engines,
                Path(store),
                runtimes,
                threads=threads,
                import_options=import_options,
                full_decode=full_decode,
                tf32=tf32,
                device=device,
            )
        )
        if len(opened) < min_engines:
            raise UsageError(
                "only one engine is open, and a comparison needs two; add another to `engines`, or NAME@RUNTIME with "
                "another runtime"
            )
        return evaluate_opened(
            opened,
            list_labelled(Path(data), opened[0].runner.contract, opened[0].name),
            ten_crop=ten_crop,
            outliers=None if outliers is None else list_unlabelled(Path(outliers)),
            allow_calibration_images=allow_calibration_images,
            latency_s=latency_s,
            on_progress=on_progress,
        )


_OWN_NAMES = {"engine": "engines", "runtime": "runtimes", "duration_s": "latency_s"}
"""Parameters of ``evaluate`` by what the functions that it calls name them."""


@contextmanager
def _own_names() -> Iterator[None]:
    try:
        yield
    except DeployError as exc:
        exc.rename_parameters(lambda name: f"`{_OWN_NAMES.get(name, name)}`")
        raise


def evaluate_opened(
    engines: Sequence[EvaluatedEngine],
    data: LabelledImages,
    *,
    ten_crop: bool = False,
    outliers: LabelledImages | None = None,
    allow_calibration_images: bool = False,
    latency_s: float | None = LATENCY_S,
    on_progress: Progress = no_progress,
) -> Evaluation:
    """Measure engines that are already open; see ``evaluate``."""
    shared = find_shared_images(engines, data)
    if not allow_calibration_images:
        refuse_shared(engines, shared)
    names = unique_names(engines)
    if outliers is not None:
        refuse_outliers(engines, data, outliers, allow_calibration_images=allow_calibration_images)
    answers = collect_answers(
        [e.runner for e in engines], data, names=names, ten_crop=ten_crop, on_progress=on_progress
    )
    views = VIEWS if ten_crop else 1
    contracts = [contract_for_crops(e.runner.contract) if ten_crop else e.runner.contract for e in engines]
    outlier_answers = None
    if outliers is not None:
        outlier_answers = collect_answers(
            [e.runner for e in engines], outliers, names=names, ten_crop=ten_crop, on_progress=on_progress
        )
    results = [
        EngineResult(
            name=name,
            precision=engine.precision,
            runner=engine.runner.description,
            model_bytes=engine.file.stat().st_size,
            temperature=engine.runner.contract.temperature,
            accuracy=accuracy(answers, i, contracts[i], outlier_answers),
            latency_ms=None
            if latency_s is None
            else measure(engine.runner, batch=views, duration_s=latency_s).median_ms,
            calibration_images=None if made_from.calibration is None else len(made_from.calibration),
            temperature_images=None if made_from.temperature is None else len(made_from.temperature),
        )
        for i, (engine, name, made_from) in enumerate(zip(engines, names, shared, strict=True))
    ]
    return Evaluation(
        data=data.root,
        naming=data.naming,
        contract=engines[0].runner.contract,
        images=len(answers.files),
        copies=count_copies(answers.files),
        unreadable=answers.unreadable + (() if outlier_answers is None else outlier_answers.unreadable),
        engines=tuple(results),
        deltas=tuple(accuracy_delta(answers, 0, i) for i in range(1, len(engines))),
        answers=answers,
        contracts=tuple(contracts),
        views=views,
        has_margin=has_margin(engines[0].runner.contract.preprocessing),
        passed_over=tuple(f"{engine.name}: {each}" for engine in engines for each in engine.passed_over),
        unused_gpu=any(engine.unused_gpu for engine in engines),
    )


def gate(delta: AccuracyDelta, first: str, second: str, max_drop: float, *, confident: bool = False) -> None:
    """Raise ProofError if top-1 of ``second`` is more than ``max_drop`` points below that of ``first``.

    The measured drop counts; with ``confident``, the largest drop within its 95 % interval.
    """
    low, high = delta.points_interval.low, delta.points_interval.high
    drop = -(low if confident else delta.points)
    if holds_max_drop(drop, max_drop):
        return
    is_, bound, more = (
        ("may be", " (the bound of the 95 % interval)", "use more images, or ") if confident else ("is", "", "")
    )
    raise ProofError(
        f"`max_drop` {max_drop:g}: {second} {is_} {drop:.2f} points of top-1 below {first}{bound}; measured "
        f"{delta.points:+.2f}, 95 % interval {low:+.2f}..{high:+.2f}; {more}keep the worst layers in float: "
        "alexnet-deploy diagnose ranks them"
    )
