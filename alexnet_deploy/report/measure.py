"""Bundles + labelled images (+ photos) -> ``report.json``: every measurement of this package, in one run.

A part that fails for one engine becomes a named gap in the report, and the rest continues: measuring takes minutes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from alexnet_deploy import __version__
from alexnet_deploy.bundle.feature_engines import refuse_features
from alexnet_deploy.bundle.manifest import CALIBRATION, Engine, load_manifest
from alexnet_deploy.bundle.store import find_bundle, some_bundle_names
from alexnet_deploy.bundle.verified import held, open_bundle
from alexnet_deploy.contract import Precision
from alexnet_deploy.doctor import Check, examine
from alexnet_deploy.errors import DeployError, InputError, UsageError, one_line
from alexnet_deploy.evaluation.accuracy import reliability
from alexnet_deploy.evaluation.answers import pixel_rule_that_differs
from alexnet_deploy.evaluation.confidence.record import read_confidence
from alexnet_deploy.evaluation.engines import EvaluatedEngine, open_engines
from alexnet_deploy.evaluation.evaluate import evaluate_opened
from alexnet_deploy.files import sha256_of, shareable
from alexnet_deploy.images.choose import images_digest
from alexnet_deploy.images.find import find_images
from alexnet_deploy.images.labelled import list_labelled
from alexnet_deploy.machine.cpu import describe_machine
from alexnet_deploy.precision.calibration.record import read_record
from alexnet_deploy.profiling.engine import EngineProfile, check_batch_sizes, profile_engine
from alexnet_deploy.profiling.settings import ProfileSettings
from alexnet_deploy.profiling.stages import profile_stages
from alexnet_deploy.progress import Progress, no_progress
from alexnet_deploy.report.data import DataSet, EngineReport, FromImages, Gap, ImageSet, Machine, Part, Report
from alexnet_deploy.report.settings import ReportRequest
from alexnet_deploy.runtime.select import open_runner

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Gaps:
    """Collects the parts that failed."""

    found: list[Gap] = field(default_factory=list)

    @contextmanager
    def around(self, part: Part, engine: str | None) -> Iterator[None]:
        """Turn any exception into a gap."""
        try:
            yield
        except DeployError as exc:
            self.found.append(Gap(part, engine, str(exc)))
        except Exception as exc:  # a bug, but no reason to lose the measurements so far
            _log.debug("%s of %s failed", part, engine, exc_info=True)
            cause = f"failed: {type(exc).__name__}: {one_line(exc)} (logged at level DEBUG)"
            self.found.append(Gap(part, engine, cause))


def measure_report(request: ReportRequest, *, on_progress: Progress = no_progress) -> Report:
    """Measure the parts of ``request``.

    Raises InputError for an empty store or a folder that does not fit the engines or holds images that calibrated them,
    and the error of opening if no engine can be opened.
    """
    photos = request.photos or request.data
    find_images([photos])
    bundles = _bundles(request)
    gaps = _Gaps()
    data, found = _evaluate(request, bundles, gaps, on_progress)

    def add(part: Part, indices: Sequence[int], measure: Callable[[Engine], dict[str, Any]]) -> None:
        """Measure one part of the engines at ``indices``."""
        for done, i in enumerate(indices):
            on_progress(part, done, len(indices))
            engine = bundles[found[i].name]
            with gaps.around(part, engine.name):
                found[i] = replace(found[i], **measure(engine))
        on_progress(part, len(indices), len(indices))

    everyone = range(len(found))
    add("calibration", everyone, _records)
    if "latency" not in request.without:
        add("latency", everyone, lambda engine: {"profile": _profile(engine, request.profile, gaps)})
    if "stages" not in request.without:
        add("stages", _ends(found), lambda engine: _stages(request, engine, photos, on_progress))
    if "layers" not in request.without:
        add("layers", everyone, lambda engine: _layers(request, engine))
    checks: tuple[Check, ...] = ()
    if "environment" not in request.without:
        with gaps.around("environment", None):
            checks = tuple(examine())
    contract = bundles[found[0].name].contract
    return Report(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        command=tuple(shareable(_text(part)) for part in request.command),
        machine=_machine(checks),
        data=data,
        labels=contract.labels,
        class_ids=contract.class_ids,
        engines=tuple(found),
        photos=None if "stages" in request.without else _text(photos.resolve().name),
        checks=tuple(replace(check, found=shareable(check.found)) for check in checks),
        gaps=tuple(replace(gap, reason=shareable(gap.reason)) for gap in gaps.found),
    )


def _bundles(request: ReportRequest) -> dict[str, Engine]:
    """Return the bundles by name, verified, the most precise first."""
    found: dict[str, Engine] = {}
    for name in request.engines or some_bundle_names(request.store):
        engine = open_bundle(find_bundle(name, request.store))
        refuse_features(engine)
        if _text(engine.name) != engine.name:
            raise InputError(f"{name}: the name of the bundle is not valid text; rename its folder")
        if engine.name in found:
            raise UsageError(f"{name}: is named twice; name each bundle once")
        found[engine.name] = engine
    order = get_args(Precision)
    return {engine.name: engine for engine in sorted(found.values(), key=lambda engine: order.index(engine.precision))}


def _evaluate(
    request: ReportRequest, bundles: Mapping[str, Engine], gaps: _Gaps, on_progress: Progress
) -> tuple[DataSet, list[EngineReport]]:
    with ExitStack() as stack:
        opened = _open(request, bundles, gaps, stack)
        labelled = list_labelled(request.data, opened[0].runner.contract, opened[0].name)
        evaluation = evaluate_opened(
            opened,
            labelled,
            allow_calibration_images=request.allow_calibration_images,
            latency_s=None,
            on_progress=on_progress,
        )
    found = []
    for i, result in enumerate(evaluation.engines):
        with held(bundles[result.name]):
            manifest, files = load_manifest(bundles[result.name].path)
        file = opened[i].file.name
        found.append(
            EngineReport(
                result=result,
                created=manifest.created,
                file=file,
                file_sha256=files[file].sha256,
                tools=manifest.tools,
                notes=manifest.notes,
                reliability=()
                if result.accuracy.not_finite
                else reliability(
                    evaluation.answers.logits_NK[i],
                    evaluation.answers.target_N,
                    opened[i].runner.contract,
                ),
                delta=evaluation.deltas[i - 1] if i else None,
            )
        )
    files_read = evaluation.answers.files
    data = DataSet(
        name=_text(labelled.root.resolve().name),
        naming=evaluation.naming,
        readable=ImageSet(len(files_read), images_digest(map(sha256_of, files_read))),
        unreadable=len(evaluation.unreadable),
    )
    return data, found


def _open(
    request: ReportRequest, bundles: Mapping[str, Engine], gaps: _Gaps, stack: ExitStack
) -> list[EvaluatedEngine]:
    """Open the bundles that run here and fit the first; raise the first error if there is none."""
    found: list[EvaluatedEngine] = []
    errors: list[DeployError] = []
    for name, engine in bundles.items():
        folder = engine.onnx_path.parent
        try:
            with held(engine):
                (opened,) = stack.enter_context(
                    open_engines([folder], request.store, [request.profile.runtime], threads=request.profile.threads)
                )
        except UsageError:
            raise
        except DeployError as exc:
            errors.append(exc)
            gaps.found.append(Gap("accuracy", name, str(exc)))
            continue
        first = found[0].runner.contract if found else engine.contract
        rule = pixel_rule_that_differs(engine.contract.preprocessing, first.preprocessing)
        if engine.contract.class_ids != first.class_ids or rule is not None:
            reason = f"its classes or its preprocessing are not those of {found[0].name}; make a separate report for it"
            gaps.found.append(Gap("accuracy", name, reason))
            continue
        found.append(replace(opened, name=name))
    if not found:
        raise errors[0]
    return found


def _records(engine: Engine) -> dict[str, Any]:
    """Read the calibration of the bundle and the fit of its temperature, without the images, which may be many."""
    found: dict[str, Any] = {}
    with held(engine):
        if (engine.path / CALIBRATION).exists():
            record = read_record(engine.path / CALIBRATION)
            found["calibration"] = FromImages(ImageSet(len(record.files), record.digest()), replace(record, files=()))
        if (fit := read_confidence(engine.path, engine.contract)) is not None:
            found["fit"] = FromImages(ImageSet(fit.images, fit.digest()), replace(fit, sha256=(), outlier_sha256=()))
    return found


def _profile(engine: Engine, settings: ProfileSettings, gaps: _Gaps) -> EngineProfile | None:
    """Measure the latency at those batch sizes that the engine takes."""
    sizes = []
    for batch in settings.batch_sizes:
        with gaps.around("latency", engine.name):
            check_batch_sizes(engine, [batch])
            sizes.append(batch)
    if not sizes:
        return None
    profile = profile_engine(engine, replace(settings, batch_sizes=tuple(sizes)))
    # The reasons against other runtimes may quote paths of this machine, and are useless elsewhere.
    rows = tuple(replace(row, latency=row.latency.thinned()) for row in profile.rows)
    return replace(profile, passed_over=(), rows=rows)


def _ends(found: Sequence[EngineReport]) -> list[int]:
    """Return the indices of the most precise engine and the fastest: the stages of the others lie between these."""
    timed = {i: min(each.rows, key=lambda row: row.latency.batch) for i, each in enumerate(found) if each.rows}
    return sorted({0, min(timed, key=lambda i: timed[i].latency.median_ms, default=len(found) - 1)})


def _stages(request: ReportRequest, engine: Engine, photos: Path, on_progress: Progress) -> dict[str, Any]:
    opened = open_runner(engine, request.profile.runtime, threads=request.profile.threads)
    with closing(opened.runner) as runner:
        files = list(find_images([photos]))
        stage = f"stages of {engine.name}"
        named: Progress = lambda _, done, total: on_progress(stage, done, total)  # noqa: E731
        return {"stages": profile_stages(runner, files, on_progress=named)}


def _layers(request: ReportRequest, engine: Engine) -> dict[str, Any]:
    from alexnet_deploy.profiling.layers.profile import profile_layers

    settings = request.profile
    layers = profile_layers(engine, settings.runtime, min(settings.batch_sizes), settings.threads)
    return {"layers": replace(layers, passed_over=())}


def _machine(checks: Sequence[Check]) -> Machine:
    here = describe_machine()
    gpu = next((check.found for check in checks if check.name == "GPU" and check.state == "ok"), None)
    return Machine(str(here["cpu"]), int(here["cores"]), str(here["system"]), str(here["python"]), gpu)


def _text(name: str) -> str:
    """Return ``name`` as valid text: the odd bytes of a file name become \\udcXX."""
    return name.encode("utf-8", "backslashreplace").decode()
