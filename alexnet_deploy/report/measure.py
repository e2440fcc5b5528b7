"""Bundles + labelled images (+ photos) -> ``report.json``: every measurement of this package, in one run.

A part that fails for one engine is a named gap in the report, and the rest goes on: measuring takes minutes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from alexnet_deploy import __version__
from alexnet_deploy.bundle.manifest import Engine, open_bundle
from alexnet_deploy.bundle.store import find_bundle, some_bundle_names
from alexnet_deploy.contract import Precision
from alexnet_deploy.doctor import examine
from alexnet_deploy.errors import DeployError, InputError, UsageError
from alexnet_deploy.evaluation.engines import Contender, calibration_overlap, open_contenders, refuse_calibration_images
from alexnet_deploy.evaluation.evaluate import evaluate
from alexnet_deploy.files import sha256_of
from alexnet_deploy.images.choose import images_digest
from alexnet_deploy.images.find import find_images
from alexnet_deploy.images.labelled import Labelled, list_labelled
from alexnet_deploy.machine.watch import describe_machine
from alexnet_deploy.profiling.engine import Settings, refuse_batches
from alexnet_deploy.profiling.isolated import profile_engine
from alexnet_deploy.profiling.latency import DURATION_S
from alexnet_deploy.profiling.stages import StageReport, profile_stages
from alexnet_deploy.report.data import Check, DataSet, EngineReport, Gap, Layers, Machine, Part, Report, Timing, runs
from alexnet_deploy.report.parts import calibration_of, engine_report, fit_of, layers_of, reliability_of, timing_of
from alexnet_deploy.runtime.select import open_runner

OPTIONAL: tuple[Part, ...] = ("latency", "stages", "layers", "environment")
"""What ``without`` may leave out."""
BATCHES = (1, 8, 32)

Progress = Callable[[str, int, int], None]
"""Called with what is going on, the steps done and the steps in all."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to measure, and on what."""

    data: Path
    """One folder of images a class."""
    photos: Path | None = None
    """Images that the stages are timed on; None: those of ``data``."""
    engines: tuple[str, ...] | None = None
    """Bundles; None: all of the store. Whatever their order, the most precise one is what the others stand beside."""
    store: Path = Path("engines")
    runtime: str = "auto"
    threads: int | None = None
    batches: tuple[int, ...] = BATCHES
    duration_s: float = DURATION_S
    without: frozenset[Part] = frozenset()
    allow_calibration_images: bool = False
    command: tuple[str, ...] = ()
    """That asks for this, for the report to tell."""


@dataclass(slots=True)
class _Gaps:
    """Gathers what failed."""

    found: list[Gap] = field(default_factory=list)

    @contextmanager
    def around(self, part: Part, engine: str | None) -> Iterator[None]:
        """Make a gap of whatever is raised."""
        try:
            yield
        except DeployError as exc:
            self.found.append(Gap(part, engine, str(exc)))
        except Exception as exc:  # a bug, and yet no reason to lose what was measured so far
            _log.debug("%s of %s failed", part, engine, exc_info=True)
            cause = " ".join(str(exc).split())[:200]
            self.found.append(
                Gap(part, engine, f"failed: {type(exc).__name__}: {cause} (alexnet-deploy --verbose tells where)")
            )


def measure_report(wanted: Wanted, *, on_progress: Progress = lambda stage, done, total: None) -> Report:
    """Measure all that is ``wanted``.

    Raises UsageError for numbers out of range, InputError for an empty store, a folder that does not fit the engines
    or holds images that calibrated them, and what opening raises where no engine can be opened.
    """
    settings = Settings(
        batches=wanted.batches, runtime=wanted.runtime, threads=wanted.threads, duration_s=wanted.duration_s
    )
    photos = wanted.photos or wanted.data
    find_images([photos])
    bundles = _bundles(wanted)
    gaps = _Gaps()
    with ExitStack() as stack:
        contenders = _opened(wanted, bundles, gaps, stack)
        contract = contenders[0].runner.contract
        labelled = list_labelled(wanted.data, contract)
        data, found = _evaluated(wanted, bundles, contenders, labelled, on_progress)
    for i, each in enumerate(found):
        with gaps.around("calibration", each.name):
            folder = bundles[each.name].onnx_path.parent
            found[i] = replace(
                each, calibration=calibration_of(folder), fit=fit_of(folder, bundles[each.name].contract)
            )
    if "latency" not in wanted.without:
        for i, each in enumerate(found):
            on_progress("latency", i, len(found))
            found[i] = replace(each, timing=_timing(bundles[each.name], settings, gaps))
        on_progress("latency", len(found), len(found))
    if "stages" not in wanted.without:
        for i in _ends(found):
            with gaps.around("stages", found[i].name):
                found[i] = replace(found[i], stages=_stages(wanted, bundles[found[i].name], photos, on_progress))
    if "layers" not in wanted.without:
        for i, each in enumerate(found):
            on_progress("layers", i, len(found))
            with gaps.around("layers", each.name):
                found[i] = replace(each, layers=_layers(wanted, bundles[each.name]))
        on_progress("layers", len(found), len(found))
    checks: tuple[Check, ...] = ()
    if "environment" not in wanted.without:
        with gaps.around("environment", None):
            checks = tuple(Check(row.name, row.state, row.found, row.fix) for row in examine())
    return Report(
        schema=1,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        command=tuple(map(_text, wanted.command)),
        machine=_machine(checks),
        data=data,
        labels=contract.labels,
        class_ids=contract.class_ids,
        engines=tuple(found),
        photos=None if "stages" in wanted.without else _text(photos.resolve().name),
        checks=checks,
        gaps=tuple(gaps.found),
    )


def _bundles(wanted: Wanted) -> dict[str, Engine]:
    """The bundles by name, verified, the most precise first."""
    names = wanted.engines or tuple(some_bundle_names(wanted.store))
    found: dict[str, Engine] = {}
    for name in names:
        engine = open_bundle(find_bundle(name, wanted.store))
        if _text(engine.name) != engine.name:
            raise InputError(f"{name}: the name of the bundle is no valid text; rename its folder")
        if engine.name in found:
            raise UsageError(f"--engine {name}: is named twice; name each bundle once")
        found[engine.name] = engine
    order = get_args(Precision)
    return {engine.name: engine for engine in sorted(found.values(), key=lambda engine: order.index(engine.precision))}


def _opened(wanted: Wanted, bundles: Mapping[str, Engine], gaps: _Gaps, stack: ExitStack) -> list[Contender]:
    """Those of the bundles that can be opened here and answer the same classes; raises the first error if none can."""
    found: list[Contender] = []
    errors: list[DeployError] = []
    for name, engine in bundles.items():
        folder = str(engine.onnx_path.parent)
        try:
            opened, _ = stack.enter_context(
                open_contenders([folder], wanted.store, [wanted.runtime], threads=wanted.threads)
            )
        except UsageError:
            raise
        except DeployError as exc:
            errors.append(exc)
            gaps.found.append(Gap("accuracy", name, str(exc)))
            continue
        mine, first = engine.contract, found[0].runner.contract if found else engine.contract
        # mean and std act inside the graph: only what makes the pixels must agree
        pixels = replace(mine.preprocessing, mean=first.preprocessing.mean, std=first.preprocessing.std)
        if mine.class_ids != first.class_ids or pixels != first.preprocessing:
            reason = f"its classes or its preprocessing are not those of {found[0].name}; give it a report of its own"
            gaps.found.append(Gap("accuracy", name, reason))
            continue
        found.append(replace(opened[0], name=name))
    if not found:
        raise errors[0]
    return found


def _evaluated(
    wanted: Wanted,
    bundles: Mapping[str, Engine],
    contenders: Sequence[Contender],
    labelled: Labelled,
    on_progress: Progress,
) -> tuple[DataSet, list[EngineReport]]:
    overlap = calibration_overlap(contenders, labelled)
    if not wanted.allow_calibration_images:
        refuse_calibration_images(overlap)
    evaluation, answers = evaluate(
        contenders,
        labelled,
        overlap=overlap,
        latency_s=None,
        on_progress=lambda done, total: on_progress("images", done, total),
    )
    data = DataSet(
        name=_text(labelled.root.resolve().name),
        naming=evaluation.naming,
        images=evaluation.images,
        unreadable=len(evaluation.unreadable),
        images_digest=images_digest(map(sha256_of, answers.files)),
    )
    pairs = (None, *evaluation.pairs)
    found = [
        engine_report(bundles[result.name], result, pair, reliability_of(answers, i, result.temperature))
        for i, (result, pair) in enumerate(zip(evaluation.engines, pairs, strict=True))
    ]
    return data, found


def _timing(engine: Engine, settings: Settings, gaps: _Gaps) -> Timing | None:
    """Latency at those batch sizes that the engine takes."""
    sizes = []
    for batch in settings.batches:
        with gaps.around("latency", engine.name):
            refuse_batches(engine, [batch])
            sizes.append(batch)
    if sizes:
        with gaps.around("latency", engine.name):
            return timing_of(profile_engine(engine, replace(settings, batches=tuple(sizes))))
    return None


def _ends(found: Sequence[EngineReport]) -> list[int]:
    """Indices of the most precise engine and the fastest: between these two lies what the stages can tell."""
    smallest = {i: min(runs(each), key=lambda run: run.batch) for i, each in enumerate(found) if runs(each)}
    timed = {i: run.median_ms for i, run in smallest.items()}
    return sorted({0, min(timed, key=lambda i: timed[i], default=len(found) - 1)})


def _stages(wanted: Wanted, engine: Engine, photos: Path, on_progress: Progress) -> StageReport:
    opened = open_runner(engine, wanted.runtime, threads=wanted.threads)
    with closing(opened.runner) as runner:
        return profile_stages(
            runner,
            list(find_images([photos])),
            on_progress=lambda done, total: on_progress(f"stages of {engine.name}", done, total),
        )


def _layers(wanted: Wanted, engine: Engine) -> Layers:
    from alexnet_deploy.profiling.layers.times import profile_layers

    return layers_of(profile_layers(engine, wanted.runtime, min(wanted.batches), wanted.threads))


def _machine(checks: Sequence[Check]) -> Machine:
    here = describe_machine()
    gpu = next((check.found for check in checks if check.name == "GPU" and check.state == "ok"), None)
    return Machine(str(here["cpu"]), int(here["cores"]), str(here["system"]), str(here["python"]), gpu)


def _text(name: str) -> str:
    """A file name need not be valid text; its odd bytes become \\udcXX."""
    return name.encode("utf-8", "backslashreplace").decode()
