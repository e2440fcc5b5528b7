"""Several engines open at once, to run the same pixels: bundles, ONNX files and checkpoints, on any runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from os import fspath
from pathlib import Path
from typing import get_args

from alexnet_deploy.adoption.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.bundle.decoding import decode_in_full
from alexnet_deploy.bundle.listing import list_bundles
from alexnet_deploy.bundle.manifest import CALIBRATION, MANIFEST, MODEL, Engine, Manifest
from alexnet_deploy.bundle.store import find_bundle, resolve_engine, some_bundle_names
from alexnet_deploy.bundle.verified import held
from alexnet_deploy.contract import Precision
from alexnet_deploy.errors import DeployError, UnavailableError, UsageError
from alexnet_deploy.evaluation.confidence.record import read_confidence
from alexnet_deploy.images.identity.shared import image_hashes, refuse_shared_images, shared_images
from alexnet_deploy.images.labelled import LabelledImages
from alexnet_deploy.precision.calibration.record import read_record
from alexnet_deploy.precision.types import is_weights_only
from alexnet_deploy.runtime.openers import RUNTIMES
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.select import GPU_RUNTIMES, PassedOver, SelectedRunner, open_runner, split_runtime

ALL_RUNTIMES = "all"


@dataclass(frozen=True, slots=True)
class EvaluatedEngine:
    """One engine on one runtime, open."""

    name: str
    """As given, without the runtime."""
    precision: str
    runner: Runner
    file: Path
    """The file that the runtime has loaded: an ONNX file, a TensorRT plan or a checkpoint."""
    source: Engine | None
    """None for a checkpoint."""
    calibration_hashes: frozenset[str] | None = None
    """SHA-256 of its calibration images; None without a record."""
    temperature_hashes: frozenset[str] | None = None
    """SHA-256 of the images that its temperature was fitted on; None without a record."""
    outlier_hashes: frozenset[str] = frozenset()
    """SHA-256 of the outliers that chose the score of its rule for unknown answers."""
    passed_over: tuple[PassedOver, ...] = ()
    """Runtimes that were tried and cannot run it on this machine."""
    unused_gpu: bool = False
    """See ``SelectedRunner``."""


@dataclass(frozen=True, slots=True)
class SharedImages:
    """Files of a data set that had a part in making an engine; None without a record."""

    calibration: tuple[Path, ...] | None
    """Files that the ranges of int8 or fp8 come from."""
    temperature: tuple[Path, ...] | None
    """Files that the temperature was fitted on."""


@contextmanager
def open_engines(
    names: str | Path | Sequence[str | Path] | None,
    store: Path,
    runtimes: str | Sequence[str] = "auto",
    *,
    threads: int | None = None,
    import_options: ImportOptions = NO_IMPORT_OPTIONS,
    full_decode: bool = False,
    tf32: bool = False,
    device: int | None = None,
) -> Iterator[tuple[EvaluatedEngine, ...]]:
    """Yield the engines ``names`` on each of ``runtimes``, and close them at the end.

    ``names`` None means all bundles of ``store``, float32 first. ``NAME@RUNTIME`` opens an engine on that runtime
    alone. A name that ends in ``.safetensors`` is a checkpoint and runs in PyTorch. The runtime ``"all"`` means every
    runtime that can run the engine on this machine, ``"auto"`` the first of them.
    ``import_options`` describe an ONNX of another tool. ``full_decode`` decodes every photo in full, whatever the
    contracts say. ``tf32`` and ``device`` as for ``open_runner``; with ``device``, ``"all"`` means those of GPUs.

    Raises the errors of ``resolve_engine`` and ``open_runner``, and UsageError for an engine named twice, for no engine
    or runtime at all, for a checkpoint beside ``device``, and for engines whose classes differ.
    """
    known = ("auto", ALL_RUNTIMES, *RUNTIMES)
    runtimes = [runtimes] if isinstance(runtimes, str) else runtimes
    if not runtimes:
        raise UsageError(f"`runtime`: none is given; choose {', '.join(known)}")
    for unknown in [runtime for runtime in runtimes if runtime not in known]:
        raise UsageError(f"`runtime` {unknown}: unknown; choose {', '.join(known)}")
    names = [names] if isinstance(names, str | Path) else names
    given = _names_in(store) if names is None else [fspath(name) for name in names]
    if not given:
        raise UsageError("`engine`: none is given; name at least one")
    specs = [split_runtime(name, store=store, known=known) for name in given]
    paths = {name: _path_of(name, store) for name, _ in specs}
    if names is not None:
        _refuse_twice([(paths[name], runtime) for name, runtime in specs], given)
    options_for = import_options.for_each([name for name, _ in specs])
    with ExitStack() as stack:
        found: dict[tuple[Path, str, str], EvaluatedEngine] = {}  # by path, runtime and device
        for (name, runtime), options in zip(specs, options_for, strict=True):
            if name.endswith(".safetensors"):
                if device is not None:
                    raise UsageError(
                        f"`device` {device}: {name} is a checkpoint, which runs on the CPU; leave one of them out"
                    )
                found[paths[name], "torch", ""] = checkpoint = _open_checkpoint(name, threads, stack)
                if full_decode:
                    checkpoint.runner.contract = checkpoint.runner.contract.decoded("full")
                continue
            engine = stack.enter_context(resolve_engine(name, store, options))
            every = RUNTIMES if device is None else GPU_RUNTIMES
            with held(engine):  # the records of its images as well
                engine = engine.hashed()  # else no later look could tell that an ONNX is only touched
                open_on = partial(open_runner, engine, threads=threads, tf32=tf32, device=device)
                for selected in _select(engine, runtimes if runtime is None else [runtime], open_on, every, stack):
                    key = paths[name], selected.runner.runtime, selected.runner.device
                    if key not in found:
                        found[key] = _opened(name, engine, selected)
                        if full_decode:
                            selected.runner.contract = decode_in_full(engine).contract
        _check_classes(tuple(found.values()))
        yield tuple(found.values())


def unique_names(engines: Sequence[EvaluatedEngine]) -> tuple[str, ...]:
    """Return a unique name of each engine: its own, with its runtime if the name alone is not unique."""
    names = [e.name for e in engines]
    return tuple(e.name if names.count(e.name) == 1 else f"{e.name} in {e.runner.description}" for e in engines)


def find_shared_images(engines: Sequence[EvaluatedEngine], data: LabelledImages) -> list[SharedImages]:
    """Find for each engine the files of ``data`` whose content calibrated it, or fitted its temperature."""
    hash_of = image_hashes(data.files) if any(e.calibration_hashes or e.temperature_hashes for e in engines) else {}

    def shared(hashes: frozenset[str] | None) -> tuple[Path, ...] | None:
        return None if hashes is None else shared_images(hash_of, hashes)

    return [SharedImages(shared(e.calibration_hashes), shared(e.temperature_hashes)) for e in engines]


def refuse_shared(engines: Sequence[EvaluatedEngine], shared: Sequence[SharedImages]) -> None:
    """Raise InputError if ``find_shared_images`` found any."""
    remedy = "give other images, or `allow_calibration_images`"
    for engine, found in zip(engines, shared, strict=True):
        effect = "its accuracy on them would be too high"
        refuse_shared_images(found.calibration or (), f"calibrated {engine.name}", f"{effect}: {remedy}")
        use, effect = f"fitted the temperature of {engine.name}", "its probabilities would fit them too well"
        refuse_shared_images(found.temperature or (), use, f"{effect}: {remedy}")


def refuse_outliers(
    engines: Sequence[EvaluatedEngine],
    data: LabelledImages,
    outliers: LabelledImages,
    *,
    allow_calibration_images: bool = False,
) -> None:
    """Raise InputError if one of ``outliers`` shows a class, or is one of those that chose the rule of an engine.

    It shows a class if it is among ``data`` or among the images that an engine's probabilities were fitted on. The
    outliers of a rule are allowed with ``allow_calibration_images``.
    """
    hash_of = image_hashes(outliers.files)
    for engine in engines:
        shared = shared_images(hash_of, engine.temperature_hashes or ())
        use = f"fitted the probabilities of {engine.name} as an image of a class"
        refuse_shared_images(shared, use, "an outlier shows none of the classes: give other images")
        if not allow_calibration_images:
            shared = shared_images(hash_of, engine.outlier_hashes)
            use = f"is an outlier that chose the rule for unknown answers of {engine.name}"
            refuse_shared_images(
                shared, use, "it would find them too well: give other images, or `allow_calibration_images`"
            )
    shared = shared_images(hash_of, image_hashes(data.files, sizes={f.stat().st_size for f in hash_of}).values())
    refuse_shared_images(shared, f"also lies in {data.root}", "an outlier shows none of the classes: give other images")


def _names_in(store: Path) -> list[str]:
    """The store's bundles, by precision; the others are compared with the first."""
    order = {precision: i for i, precision in enumerate(get_args(Precision))}
    precision_of = {d.name: m.precision for d, m in list_bundles(store) if isinstance(m, Manifest)}
    return sorted(some_bundle_names(store), key=lambda name: order.get(precision_of[name], len(order)))


def _path_of(name: str, store: Path) -> Path:
    """The bundle or file that ``name`` means, the same for every spelling."""
    return (Path(name) if name.endswith((".onnx", ".safetensors")) else find_bundle(name, store)).resolve()


def _refuse_twice(wanted: Sequence[tuple[Path, str | None]], given: Sequence[str]) -> None:
    """Raise UsageError if two names mean the same engine on the same runtime."""
    for i, each in enumerate(wanted):
        if (first := given[wanted.index(each)]) != given[i]:
            raise UsageError(f"{given[i]}: is the same engine as {first}; name each engine once")
        if wanted.index(each) != i:
            raise UsageError(f"{given[i]}: is named twice; name each engine once")


def _open_checkpoint(name: str, threads: int | None, stack: ExitStack) -> EvaluatedEngine:
    try:
        from alexnet_deploy.model.torch_runner import TorchRunner
    except ModuleNotFoundError as exc:
        raise UnavailableError(f"{name}: a checkpoint needs {exc.name}; pip install 'alexnet-deploy[export]'") from exc
    runner = TorchRunner(Path(name), threads=threads)
    stack.callback(runner.close)
    return EvaluatedEngine(name, "fp32", runner, Path(name), None)


def _select(
    engine: Engine,
    runtimes: Sequence[str],
    open_on: Callable[[str], SelectedRunner],
    every: Iterable[str],
    stack: ExitStack,
) -> Iterator[SelectedRunner]:
    for runtime in runtimes:
        selected: list[SelectedRunner] = []
        failed: list[PassedOver] = []
        for name in every if runtime == ALL_RUNTIMES else [runtime]:
            try:
                selected.append(open_on(name))
            except DeployError as exc:
                if runtime != ALL_RUNTIMES:
                    raise
                failed.append(PassedOver(name, str(exc)))
            else:
                stack.callback(selected[-1].runner.close)
        if not selected:
            raise UnavailableError(
                f"{engine.name}: no runtime on this machine can run it ({'; '.join(map(str, failed))})"
            )
        yield replace(selected[0], passed_over=(*selected[0].passed_over, *failed))
        yield from selected[1:]


def _opened(name: str, engine: Engine, selected: SelectedRunner) -> EvaluatedEngine:
    folder = engine.onnx_path.parent
    calibration_hashes = temperature_hashes = None
    outlier_hashes: frozenset[str] = frozenset()
    if engine.onnx_path.name == MODEL and (folder / MANIFEST).is_file():
        if (folder / CALIBRATION).is_file():
            calibration_hashes = read_record(folder / CALIBRATION).image_hashes
        elif is_weights_only(engine.precision):
            calibration_hashes = frozenset()  # rounded to nearest, which needs no images
        if (fit := read_confidence(folder, engine.contract)) is not None:
            temperature_hashes = fit.image_hashes
            outlier_hashes = frozenset(fit.outlier_sha256)
    return EvaluatedEngine(
        name=name,
        precision=engine.precision,
        runner=selected.runner,
        file=_loaded_file(engine, selected.runner),
        source=engine,
        calibration_hashes=calibration_hashes,
        temperature_hashes=temperature_hashes,
        outlier_hashes=outlier_hashes,
        passed_over=selected.passed_over,
        unused_gpu=selected.unused_gpu,
    )


def _loaded_file(engine: Engine, runner: Runner) -> Path:
    loaded = getattr(runner, "plan", None)
    return next((path for plan, path in engine.plans if plan.file == loaded), engine.onnx_path)


def _check_classes(engines: Sequence[EvaluatedEngine]) -> None:
    """Raise UsageError unless logit k stands for the same class in all engines."""
    first, *others = engines
    for other in others:
        a, b = first.runner.contract, other.runner.contract
        if len(a.labels) != len(b.labels) or (a.class_ids != b.class_ids and a.labels != b.labels):
            raise UsageError(
                f"{other.name}: has {len(b.labels)} classes ({b.labels[0]}, ...) that are not the {len(a.labels)} "
                f"({a.labels[0]}, ...) of {first.name}; compare engines of the same classes"
            )
