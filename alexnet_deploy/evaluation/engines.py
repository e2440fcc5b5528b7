"""Several engines open at once, to be measured on the same pixels: bundles, ONNX files, checkpoints, any runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from alexnet_deploy.bundle.manifest import CALIBRATION, MANIFEST, MODEL, Engine, Manifest, list_bundles
from alexnet_deploy.bundle.store import resolve_engine, some_bundle_names
from alexnet_deploy.contract import Precision
from alexnet_deploy.errors import DeployError, InputError, UnavailableError, UsageError
from alexnet_deploy.evaluation.temperature_record import read_confidence
from alexnet_deploy.files import sha256_or_none
from alexnet_deploy.images.labelled import Labelled
from alexnet_deploy.onnx_graph.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.precision.calibration_record import read_record
from alexnet_deploy.runtime.runner import Runner
from alexnet_deploy.runtime.select import RUNTIMES, Opened, open_runner

ALL_RUNTIMES = "all"


def check_runtimes(runtimes: Sequence[str]) -> None:
    """UsageError for a runtime that ``open_contenders`` does not know."""
    known = ("auto", ALL_RUNTIMES, *RUNTIMES)
    unknown = next((runtime for runtime in runtimes if runtime not in known), None)
    if unknown is not None:
        raise UsageError(f"--runtime {unknown}: unknown; choose {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class Contender:
    """One engine on one runtime, open."""

    name: str
    """As it was given."""
    precision: str
    runner: Runner
    model_bytes: int
    """Size of the file that the runtime loads."""
    calibrated_on: frozenset[str] | None
    """SHA-256 of the images that calibrated it; None where no record says."""
    fitted_on: frozenset[str] | None
    """SHA-256 of the images that its temperature was fitted on; None where no record says."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """By name of an engine, the files of a data set that had a part in making it; engines without any are left out."""

    calibrated: Mapping[str, tuple[Path, ...]]
    """The ranges of int8 or fp8."""
    fitted: Mapping[str, tuple[Path, ...]]
    """The temperature."""


@contextmanager
def open_contenders(
    names: Sequence[str] | None,
    store: Path,
    runtimes: Sequence[str] = ("auto",),
    *,
    threads: int | None = None,
    import_options: ImportOptions = NO_IMPORT_OPTIONS,
) -> Iterator[tuple[tuple[Contender, ...], tuple[str, ...]]]:
    """Yield the engines ``names`` (None: the whole store, float32 first) on each of ``runtimes``, and what did not run.

    A name that ends in ``.safetensors`` is a checkpoint and runs in PyTorch, whatever ``runtimes`` says. ``"all"``
    stands for every runtime that can run the engine here, ``"auto"`` for the first. ``import_options`` is for an ONNX of
    another tool. Raises what ``resolve_engine`` and ``open_runner`` raise, UsageError for an engine named twice or
    engines of other classes than the first.
    """
    names = _all_of(store) if names is None else list(names)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--engine {twice}: is named twice; name each engine once")
    passed_over: list[str] = []
    with ExitStack() as stack:
        found: list[Contender] = []
        for name in names:
            is_meant = name.endswith(".onnx") or not any(n.endswith(".onnx") for n in names)
            of_onnx = import_options if is_meant else NO_IMPORT_OPTIONS
            if name.endswith(".safetensors"):
                found.append(_checkpoint(name, threads, stack))
                continue
            engine = stack.enter_context(resolve_engine(name, store, of_onnx))
            for opened in _opened(engine, runtimes, threads, passed_over):
                stack.callback(opened.runner.close)
                if not any(c.name == name and c.runner.description == opened.runner.description for c in found):
                    size = loaded_file(engine, opened.runner.description).stat().st_size
                    found.append(Contender(name, engine.precision, opened.runner, size, *_made_on(engine)))
        _refuse_other_classes(found)
        yield tuple(found), tuple(passed_over)


def unique_names(contenders: Sequence[Contender]) -> tuple[str, ...]:
    """What to call each: its name, with its runtime where the name alone is not unique."""
    names = [c.name for c in contenders]
    return tuple(c.name if names.count(c.name) == 1 else f"{c.name} in {c.runner.description}" for c in contenders)


def calibration_overlap(contenders: Sequence[Contender], data: Labelled) -> Overlap:
    """The files of ``data`` whose content calibrated an engine, or fitted its temperature."""
    calibrated = {c.name: c.calibrated_on for c in contenders if c.calibrated_on}
    fitted = {c.name: c.fitted_on for c in contenders if c.fitted_on}
    if not calibrated and not fitted:
        return Overlap({}, {})
    hashes = [(file, sha256_or_none(file)) for file in data.files]

    def shared(recorded: Mapping[str, frozenset[str]]) -> dict[str, tuple[Path, ...]]:
        files = {name: tuple(f for f, sha256 in hashes if sha256 in known) for name, known in recorded.items()}
        return {name: found for name, found in files.items() if found}

    return Overlap(shared(calibrated), shared(fitted))


def refuse_calibration_images(overlap: Overlap) -> None:
    """InputError where ``calibration_overlap`` found any."""
    for name, files in overlap.calibrated.items():
        raise InputError(
            f"{files[0]}: calibrated {name}{f', as did {len(files) - 1} more of these images' if files[1:] else ''}; "
            "on these it looks better than it is: give other images, or --allow-calibration-images"
        )
    for name, files in overlap.fitted.items():
        more = f" and {len(files) - 1} more of these images" if files[1:] else ""
        raise InputError(
            f"{files[0]}: the temperature of {name} was fitted on it{more}; on these its probabilities look better "
            "than they are: give other images, or --allow-calibration-images"
        )


def _all_of(store: Path) -> list[str]:
    """The store's bundles, by precision: the first is what the others are measured against."""
    order = {precision: i for i, precision in enumerate(get_args(Precision))}
    precision_of = {d.name: m.precision for d, m in list_bundles(store) if isinstance(m, Manifest)}
    return sorted(some_bundle_names(store), key=lambda name: order.get(precision_of[name], len(order)))


def _checkpoint(name: str, threads: int | None, stack: ExitStack) -> Contender:
    try:
        from alexnet_deploy.model.torch_runner import TorchRunner
    except ModuleNotFoundError as exc:
        raise UnavailableError(f"{name}: a checkpoint needs {exc.name}; pip install 'alexnet-deploy[export]'") from exc
    runner = TorchRunner(Path(name), threads=threads)
    stack.callback(runner.close)
    return Contender(name, "fp32", runner, Path(name).stat().st_size, None, None)


def _opened(engine: Engine, runtimes: Sequence[str], threads: int | None, passed_over: list[str]) -> Iterator[Opened]:
    for runtime in runtimes:
        if runtime != ALL_RUNTIMES:
            opened = open_runner(engine, runtime, threads=threads)
            passed_over += opened.passed_over
            yield opened
            continue
        before = len(passed_over)
        for name in RUNTIMES:
            try:
                yield open_runner(engine, name, threads=threads)
            except DeployError as exc:
                passed_over.append(f"{name}: {exc}")
        if len(passed_over) - before == len(RUNTIMES):
            raise UnavailableError(f"{engine.name}: nothing here can run it ({'; '.join(passed_over[before:])})")


def loaded_file(engine: Engine, description: str) -> Path:
    """The file of a bundle that the runner so described has loaded."""
    if not description.startswith("TensorRT"):
        return engine.onnx_path
    from alexnet_deploy.runtime.tensorrt_runner import why_not

    return next(path for plan, path in engine.plans if why_not(plan) is None)


def _made_on(engine: Engine) -> tuple[frozenset[str] | None, frozenset[str] | None]:
    """``calibrated_on`` and ``fitted_on``."""
    folder = engine.onnx_path.parent
    if engine.onnx_path.name != MODEL or not (folder / MANIFEST).is_file():
        return None, None
    record, fit = folder / CALIBRATION, read_confidence(folder, engine.contract)
    return read_record(record).image_hashes if record.is_file() else None, None if fit is None else fit.image_hashes


def _refuse_other_classes(contenders: Sequence[Contender]) -> None:
    first, *others = contenders
    for other in others:
        a, b = first.runner.contract, other.runner.contract
        if len(a.labels) != len(b.labels) or (a.class_ids != b.class_ids and a.labels != b.labels):
            raise UsageError(
                f"--engine {other.name}: has {len(b.labels)} classes that are not the {len(a.labels)} of "
                f"{first.name}; compare engines of the same classes"
            )
