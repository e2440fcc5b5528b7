"""What runs on the other machines: opens the engine once, then answers part after part. It does not know Ray."""

from __future__ import annotations

import os
import pickle
import weakref
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from alexnet_deploy import __version__
from alexnet_deploy.bundle.store import TEMPORARY
from alexnet_deploy.errors import DeployError, UnavailableError
from alexnet_deploy.images.sources import Source
from alexnet_deploy.inference.engine import open_engine
from alexnet_deploy.inference.parquet import parquet_writer
from alexnet_deploy.inference.predict import predict
from alexnet_deploy.inference.prediction import FullOutputs, Outputs
from alexnet_deploy.inference.ray.engine_files import EngineFiles, unpack_engine
from alexnet_deploy.inference.ray.parts import Part, size_of
from alexnet_deploy.inference.run_settings import settings_of
from alexnet_deploy.runtime.select import Runtime


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker needs to know besides the engine."""

    version: str
    """Of this package, on the machine that gives the parts: another one may see other pixels."""
    engine: dict[str, str]
    """``settings_of`` the engine there."""
    runtime: Runtime
    threads: int
    workers: int
    top_k: int
    threshold: float | None
    batch: int
    verify: bool
    full_decode: bool = False
    outputs: Outputs = "top"
    ten_crop: bool = False


@dataclass(frozen=True, slots=True)
class PartAnswer:
    """The rows of one part, or the reason why this worker can answer none."""

    start: int
    failed: int = 0
    parquet: bytes = b""
    runs: str = ""
    """Runtime, version and device."""
    unlike: str = ""
    """A local file that this machine lacks, or has in another size than the machine that named it."""
    unlike_bytes: int = -1
    """Its size here; -1: it is missing."""
    problem: str = ""


class PartWorker:
    """An open engine and the folder that it was unpacked into; both go with it.

    No error leaves it: the first one makes the reason of every answer, so that a cluster does not try again what
    cannot succeed.
    """

    def __init__(self, settings: WorkerSettings, files: EngineFiles) -> None:
        self._settings = settings
        self._problem = ""
        try:
            self._open(settings, files)
        except DeployError as exc:
            self._problem = str(exc)
        except OSError as exc:
            self._problem = f"the engine cannot be unpacked ({exc.strerror}); free some room in its temporary folder"

    def _open(self, settings: WorkerSettings, files: EngineFiles) -> None:
        if settings.version != __version__:
            raise UnavailableError(
                f"has alexnet-deploy {__version__}, and this machine {settings.version}; install one version everywhere"
            )
        folder = TemporaryDirectory(prefix=TEMPORARY)
        weakref.finalize(self, folder.cleanup)
        self._engine = open_engine(
            unpack_engine(files, Path(folder.name)),
            runtime=settings.runtime,
            threads=settings.threads,
            verify=settings.verify,
            full_decode=settings.full_decode,
        )
        weakref.finalize(self, self._engine.close)
        if settings_of(self._engine.model_sha256(), self._engine.contract) != settings.engine:
            raise UnavailableError(f"{files.name}: arrived changed; run the command again")

    def __call__(self, part: Part) -> PartAnswer:
        """The rows of ``part`` as a Parquet file."""
        if self._problem:
            return PartAnswer(part.start, problem=self._problem)
        images: list[Source] = pickle.loads(part.images)  # of our own process, by way of the cluster that it trusts
        try:
            return self._answer(part, images)
        except DeployError as exc:
            return PartAnswer(part.start, problem=str(exc))

    def _answer(self, part: Part, images: list[Source]) -> PartAnswer:
        settings, failed = self._settings, 0
        unlike = _first_unlike(part, images)
        sink = BytesIO()
        with parquet_writer(sink, FullOutputs.of(self._engine.contract, settings.outputs)) as write:
            rows = predict(
                self._engine, images, top_k=settings.top_k, threshold=settings.threshold, outputs=settings.outputs,
                ten_crop=settings.ten_crop, batch=settings.batch, workers=settings.workers,
            )  # fmt: skip
            for image, row in zip(images, rows, strict=True):
                write(row)
                failed += row.error is not None
                if row.error and unlike is None and isinstance(image.read, Path) and not os.path.lexists(image.read):
                    unlike = image.read
        return PartAnswer(
            part.start,
            failed,
            sink.getvalue(),
            self._engine.description,
            "" if unlike is None else str(unlike),
            -1 if unlike is None or (size := size_of(unlike)) is None else size,
        )


def _first_unlike(part: Part, images: list[Source]) -> Path | None:
    """The first image, if it has another size here than where the part was made."""
    first = images[0].read
    if isinstance(first, Path) and part.first_bytes is not None and size_of(first) != part.first_bytes:
        return first
    return None
