"""``predict_on_ray``: images to a folder of Parquet parts, by all machines of a Ray cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from alexnet_deploy import __version__
from alexnet_deploy.adoption.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.bundle.decoding import decode_in_full
from alexnet_deploy.bundle.store import STORE, resolve_engine
from alexnet_deploy.errors import InputError, UnavailableError, one_line, require_positive
from alexnet_deploy.images.sources import Source
from alexnet_deploy.images.ten_crops import NO_MARGIN, has_margin, picture_for_crops
from alexnet_deploy.inference.batches import require_batch
from alexnet_deploy.inference.predict import require_threshold
from alexnet_deploy.inference.prediction import BATCH, TOP_K, Outputs
from alexnet_deploy.inference.ray.engine_files import EngineFiles, pack_engine
from alexnet_deploy.inference.ray.folders import Folder, folder_of
from alexnet_deploy.inference.ray.output import (
    RunRecord,
    begin,
    check_output,
    part_name,
    refuse_missing,
)
from alexnet_deploy.inference.ray.parts import PART_SIZE, Part, cut_into_parts, size_of
from alexnet_deploy.inference.ray.probe import prepare, require_ray
from alexnet_deploy.inference.ray.worker import PartAnswer, WorkerSettings
from alexnet_deploy.inference.run_settings import ADDED_SETTINGS, settings_of
from alexnet_deploy.runtime.select import Runtime

_log = logging.getLogger(__name__)
_GPU_RUNTIMES = ("tensorrt", "onnxruntime-cuda")


@dataclass(frozen=True, slots=True)
class RaySettings:
    """How a run on Ray computes.

    Only ``top_k``, ``threshold``, ``outputs``, ``ten_crop`` and ``full_decode`` change a row.
    """

    address: str
    """``HOST:PORT`` of the cluster's head, or ``local`` for all cores of this machine."""
    runtime: Runtime = "auto"
    """``tensorrt`` and ``onnxruntime-cuda`` take a GPU per worker; others see none."""
    threads: int | None = None
    """Of the runtime, per worker; None: its cores."""
    workers: int | None = None
    """Decoding threads per worker; None: one per core of it."""
    batch: int = BATCH
    top_k: int = TOP_K
    threshold: float | None = None
    outputs: Outputs = "top"
    ten_crop: bool = False
    part_size: int = PART_SIZE
    verify: bool = True
    full_decode: bool = False
    quiet: bool = True
    """Keep Ray's own log from the terminal."""


@dataclass(slots=True)
class RayResult:
    """Rows of the whole output: how many, how many failed, how many an earlier run had written."""

    rows: int
    failed: int
    resumed: int
    machines: dict[str, int] = field(default_factory=dict)
    """Rows of this run by the address of the machine."""
    runs: set[str] = field(default_factory=set)
    """Runtime, version and device of its workers."""


def predict_on_ray(
    images: Callable[[], Iterable[Path | Source]],
    output: str,
    settings: RaySettings,
    *,
    engine: str | Path | None = None,
    store: str | Path = STORE,
    import_options: ImportOptions = NO_IMPORT_OPTIONS,
    shaping: dict[str, object] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_rows: Callable[[int, int], None] = lambda rows, total: None,
) -> RayResult:
    """Answer ``images`` on all machines of a Ray cluster, into the folder ``output``: a path or an address.

    The rows are those of ``infer``, in the order of the images if the parts are read in the order of their names.
    ``resume`` computes the parts that are missing; ``overwrite`` discards an earlier run. ``shaping`` is what else
    decides which images there are. ``on_rows`` gets the number of rows and of images.

    A worker that dies is replaced and its part computed again. This process alone writes, so no part is there twice.

    Raises UnavailableError without Ray, for a cluster that does not answer, for a worker that lacks the local files or
    cannot run the engine; UsageError for an output that cannot be used; and what ``open_engine`` raises.
    """
    require_positive(
        top_k=settings.top_k, part_size=settings.part_size, threads=settings.threads, workers=settings.workers
    )
    require_threshold(settings.threshold)
    require_ray()
    folder = folder_of(output)
    check_output(folder, resume=resume, overwrite=overwrite)
    with resolve_engine(
        None if engine is None else str(engine), Path(store), import_options, verify=settings.verify
    ) as found:
        if settings.full_decode:
            found = decode_in_full(found)
        pre = found.contract.preprocessing
        require_batch(settings.batch, picture_for_crops(pre) if settings.ten_crop else pre)
        if settings.ten_crop and not has_margin(pre):
            _log.warning(NO_MARGIN)
        plain = settings_of(found.model_sha256(), found.contract)
        options: dict[str, object] = {
            "top_k": min(settings.top_k, len(found.contract.labels)),
            "threshold": settings.threshold,
        }
        new: dict[str, object] = {"outputs": settings.outputs, "ten_crop": settings.ten_crop}
        # The others are left out, so that parts of a run that an earlier version began keep their names.
        options |= {key: value for key, value in new.items() if str(value) != ADDED_SETTINGS[key]}
        named = plain | {key: str(value) for key, value in (options | (shaping or {})).items()}
        parts, names = cut_into_parts(images(), settings.part_size)
        record = RunRecord(named, sum(part.rows for part in parts), settings.part_size, names)
        if not parts:
            raise InputError("no image among those named; check the paths")
        prepare(settings.address)
        _import_ray()  # both before an earlier run is discarded
        done = begin(folder, record, parts, outputs=settings.outputs, resume=resume, overwrite=overwrite)
        before = sum(part.rows for part in parts if part.start in done)
        result = RayResult(before, sum(done.values()), before)
        on_rows(result.rows, record.images)
        if len(done) < len(parts):
            _compute(parts, done, record, folder, settings, plain, pack_engine(found), result, on_rows)
    refuse_missing(folder, record, parts)
    return result


def _import_ray() -> None:
    try:
        import alexnet_deploy.inference.ray.cluster  # noqa: F401
    except ImportError as exc:
        raise UnavailableError(
            f"`ray` cannot be imported ({one_line(exc, 200)}); reinstall it: pip install 'alexnet-deploy[ray]'"
        ) from exc


def _compute(
    parts: list[Part],
    done: Collection[int],
    record: RunRecord,
    folder: Folder,
    settings: RaySettings,
    plain: dict[str, str],
    files: EngineFiles,
    result: RayResult,
    on_rows: Callable[[int, int], None],
) -> None:
    from alexnet_deploy.inference.ray.cluster import answers, count_workers, joined

    todo = {part.start: part for part in parts if part.start not in done}
    with joined(settings.address, quiet=settings.quiet):
        workers = count_workers(per_gpu=settings.runtime in _GPU_RUNTIMES)
        _log.info("%d workers of %d cores on %d machines", workers.count, workers.cpus, workers.machines)
        worker_settings = WorkerSettings(
            __version__, plain, settings.runtime, settings.threads or workers.cpus, settings.workers or workers.cpus,
            settings.top_k, settings.threshold, settings.batch, settings.verify, settings.full_decode,
            settings.outputs, settings.ten_crop,
        )  # fmt: skip
        # Closed before Ray is left: its executor would still talk to a cluster that has gone, which ends the process.
        with closing(answers(list(todo.values()), worker_settings, files, workers)) as found:
            for machine, answer in found:
                _refuse_unusable(machine, answer)
                part = todo.pop(answer.start, None)
                if part is None:
                    continue  # a worker that was taken for dead has answered it as well
                folder.write(part_name(part, record), answer.parquet)
                result.rows += part.rows
                result.failed += answer.failed
                result.machines[machine] = result.machines.get(machine, 0) + part.rows
                result.runs.add(answer.runs)
                on_rows(result.rows, record.images)


def _refuse_unusable(machine: str, answer: PartAnswer) -> None:
    """UnavailableError for an answer that is about the machine rather than about the images."""
    if answer.problem:
        raise UnavailableError(f"{machine}: {answer.problem}")
    here = size_of(Path(answer.unlike)) if answer.unlike else None
    if here is None or here == answer.unlike_bytes:
        return  # the file is missing here as well by now, or has become the same
    what = "is not on" if answer.unlike_bytes < 0 else "is another file on"
    raise UnavailableError(
        f"{os.path.relpath(answer.unlike)}: {what} {machine}; put the images where all machines find them under the "
        "same path, or name addresses (s3:// and others)"
    )
