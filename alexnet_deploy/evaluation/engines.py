"""Several engines open at once, to run the same pixels: bundles, ONNX files and checkpoints, on any runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from os import fspath
from pathlib import Path
from typing import get_args

from alexnet_deploy.bundle.manifest import CALIBRATION, MANIFEST, MODEL, Engine, Manifest, list_bundles
from alexnet_deploy.bundle.store import resolve_engine, some_bundle_names
from alexnet_deploy.contract import Precision
from alexnet_deploy.errors import DeployError, UnavailableError, UsageError
from alexnet_deploy.evaluation.temperature_record import read_confidence
from alexnet_deploy.images.labelled import LabelledImages
from alexnet_deploy.images.shared import image_hashes, refuse_shared_images, shared_images
from alexnet_deploy.onnx_graph.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.precision.calibration_record import read_record
from alexnet_deploy.runtime.engine_spec import split_runtime
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.select import RUNTIMES, PassedOver, SelectedRunner, open_runner

ALL_RUNTIMES = "all"


@dataclass(frozen=True, slots=True)
class OpenedEngine:
    """One engine on one runtime, open."""

    name: str
    """As it was given, without the runtime."""
    precision: str
    runner: Runner
    file: Path
    """What the runtime has loaded: an ONNX file, a TensorRT plan or a checkpoint."""
    onnx_path: Path | None
    """None for a checkpoint."""
    calibration_hashes: frozenset[str] | None = None
    """SHA-256 of the images that calibrated it; None without a record."""
    temperature_hashes: frozenset[str] | None = None
    """SHA-256 of the images that its temperature was fitted on; None without a record."""
    passed_over: tuple[PassedOver, ...] = ()
    """Runtimes that were tried and cannot run it here."""
    unused_gpu: bool = False
    """See ``SelectedRunner``."""


@dataclass(frozen=True, slots=True)
class SharedImages:
    """Files of a data set that had a part in making an engine, by the engine's name; engines without any are absent."""

    calibration: Mapping[str, tuple[Path, ...]]
    """Files that the ranges of int8 or fp8 come from."""
    temperature: Mapping[str, tuple[Path, ...]]
    """Files that the temperature was fitted on."""


@contextmanager
def open_engines(
    names: Sequence[str | Path] | None,
    store: Path,
    runtimes: Sequence[str] = ("auto",),
    *,
    threads: int | None = None,
    import_options: ImportOptions = NO_IMPORT_OPTIONS,
) -> Iterator[tuple[OpenedEngine, ...]]:
    """Yield the engines ``names`` on each of ``runtimes``, and close them at the end.

    ``names`` None means all bundles of ``store``, float32 first. ``NAME@RUNTIME`` opens an engine on that runtime
    alone. A name that ends in ``.safetensors`` is a checkpoint and runs in PyTorch. The runtime ``"all"`` means every
    runtime that can run the engine here, ``"auto"`` the first.
    ``import_options`` describe an ONNX of another tool.

    Raises what ``resolve_engine`` and ``open_runner`` raise, and UsageError for an engine named twice or engines whose
    classes differ.
    """
    known = ("auto", ALL_RUNTIMES, *RUNTIMES)
    for unknown in [runtime for runtime in runtimes if runtime not in known]:
        raise UsageError(f"`runtime` {unknown}: unknown; choose {', '.join(known)}")
    given = _names_in(store) if names is None else [fspath(name) for name in names]
    twice = next((name for name in given if given.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice}: is named twice; name each engine once")
    specs = [split_runtime(name, store=store, known=known) for name in given]
    has_onnx = any(name.endswith(".onnx") for name, _ in specs)
    with ExitStack() as stack:
        found: list[OpenedEngine] = []
        for name, runtime in specs:
            if name.endswith(".safetensors"):
                found.append(_open_checkpoint(name, threads, stack))
                continue
            describes_it = name.endswith(".onnx") or not has_onnx
            options = import_options if describes_it else NO_IMPORT_OPTIONS
            engine = stack.enter_context(resolve_engine(name, store, options))
            for selected in _select(engine, runtimes if runtime is None else [runtime], threads, stack):
                opened = _opened(name, engine, selected)
                if not any(_is_same(opened, other) for other in found):
                    found.append(opened)
        _check_classes(found)
        yield tuple(found)


def unique_names(engines: Sequence[OpenedEngine]) -> tuple[str, ...]:
    """Return what to call each engine: its name, with its runtime where the name alone is not unique."""
    names = [e.name for e in engines]
    return tuple(e.name if names.count(e.name) == 1 else f"{e.name} in {e.runner.description}" for e in engines)


def find_shared_images(engines: Sequence[OpenedEngine], data: LabelledImages) -> SharedImages:
    """Find the files of ``data`` whose content calibrated an engine, or fitted its temperature."""
    calibration = {e.name: e.calibration_hashes for e in engines if e.calibration_hashes}
    temperature = {e.name: e.temperature_hashes for e in engines if e.temperature_hashes}
    hash_of = image_hashes(data.files) if calibration or temperature else {}
    of_calibration, of_temperature = (
        {name: files for name, hashes in recorded.items() if (files := shared_images(hash_of, hashes))}
        for recorded in (calibration, temperature)
    )
    return SharedImages(of_calibration, of_temperature)


def refuse_shared(shared: SharedImages) -> None:
    """Raise InputError where ``find_shared_images`` found any."""
    remedy = "give other images, or `allow_calibration_images`"
    for name, files in shared.calibration.items():
        refuse_shared_images(files, f"calibrated {name}", f"on these it looks better than it is: {remedy}")
    for name, files in shared.temperature.items():
        effect = "on these its probabilities look better than they are"
        refuse_shared_images(files, f"fitted the temperature of {name}", f"{effect}: {remedy}")


def _names_in(store: Path) -> list[str]:
    """The store's bundles, by precision: the others are measured against the first."""
    order = {precision: i for i, precision in enumerate(get_args(Precision))}
    precision_of = {d.name: m.precision for d, m in list_bundles(store) if isinstance(m, Manifest)}
    return sorted(some_bundle_names(store), key=lambda name: order.get(precision_of[name], len(order)))


def _open_checkpoint(name: str, threads: int | None, stack: ExitStack) -> OpenedEngine:
    try:
        from alexnet_deploy.model.torch_runner import TorchRunner
    except ModuleNotFoundError as exc:
        raise UnavailableError(f"{name}: a checkpoint needs {exc.name}; pip install 'alexnet-deploy[export]'") from exc
    runner = TorchRunner(Path(name), threads=threads)
    stack.callback(runner.close)
    return OpenedEngine(name, "fp32", runner, Path(name), None)


def _select(engine: Engine, runtimes: Sequence[str], threads: int | None, stack: ExitStack) -> Iterator[SelectedRunner]:
    for runtime in runtimes:
        selected: list[SelectedRunner] = []
        failed: list[PassedOver] = []
        for name in RUNTIMES if runtime == ALL_RUNTIMES else [runtime]:
            try:
                selected.append(open_runner(engine, name, threads=threads))
            except DeployError as exc:
                if runtime != ALL_RUNTIMES:
                    raise
                failed.append(PassedOver(name, str(exc)))
            else:
                stack.callback(selected[-1].runner.close)
        if not selected:
            raise UnavailableError(f"{engine.name}: nothing here can run it ({'; '.join(map(str, failed))})")
        yield replace(selected[0], passed_over=(*selected[0].passed_over, *failed))
        yield from selected[1:]


def _opened(name: str, engine: Engine, selected: SelectedRunner) -> OpenedEngine:
    folder = engine.onnx_path.parent
    calibration_hashes = temperature_hashes = None
    if engine.onnx_path.name == MODEL and (folder / MANIFEST).is_file():
        if (folder / CALIBRATION).is_file():
            calibration_hashes = read_record(folder / CALIBRATION).image_hashes
        if (fit := read_confidence(folder, engine.contract)) is not None:
            temperature_hashes = fit.image_hashes
    return OpenedEngine(
        name=name,
        precision=engine.precision,
        runner=selected.runner,
        file=_loaded_file(engine, selected.runner),
        onnx_path=engine.onnx_path,
        calibration_hashes=calibration_hashes,
        temperature_hashes=temperature_hashes,
        passed_over=selected.passed_over,
        unused_gpu=selected.unused_gpu,
    )


def _loaded_file(engine: Engine, runner: Runner) -> Path:
    if runner.runtime != "tensorrt":
        return engine.onnx_path
    from alexnet_deploy.runtime.tensorrt_plans import usable_plan

    return usable_plan(engine)[1]


def _is_same(a: OpenedEngine, b: OpenedEngine) -> bool:
    return (a.name, a.runner.runtime, a.runner.device) == (b.name, b.runner.runtime, b.runner.device)


def _check_classes(engines: Sequence[OpenedEngine]) -> None:
    """Raise UsageError unless logit k means the same class in all."""
    first, *others = engines
    for other in others:
        a, b = first.runner.contract, other.runner.contract
        if len(a.labels) != len(b.labels) or (a.class_ids != b.class_ids and a.labels != b.labels):
            raise UsageError(
                f"{other.name}: has {len(b.labels)} classes ({b.labels[0]}, ...) that are not the {len(a.labels)} "
                f"({a.labels[0]}, ...) of {first.name}; compare engines of the same classes"
            )
