"""Bundles whose files are those that their manifest records."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from alexnet_deploy.bundle.manifest import MODEL, Engine, FileRecord, Manifest, load_manifest
from alexnet_deploy.bundle.replaced import is_like, look, retried, unreplaced
from alexnet_deploy.errors import ArtifactError, DeployError, ReplacedError
from alexnet_deploy.files import sha256_of


def verify(directory: Path, *, only: set[str] | None = None) -> tuple[Manifest, dict[str, FileRecord]]:
    """Check size and SHA-256 of a bundle's files (``only``: a subset); ArtifactError on the first that differs.

    Returns what ``load_manifest`` does. A bundle that is replaced meanwhile is read again, so files of two bundles are
    never mixed.
    """
    found = load_manifest(directory)
    while True:
        try:
            for name, record in found[1].items():
                if only is None or name in only:
                    _check_file(directory / name, record)
        except ArtifactError:
            before, found = found, load_manifest(directory)
            if found == before:
                raise
        else:
            return found


def _check_file(path: Path, record: FileRecord) -> None:
    check_size(path, record)
    try:
        sha256 = sha256_of(path)
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read ({exc.strerror}); build the bundle again") from exc
    if sha256 != record.sha256:
        raise ArtifactError(f"{path}: was edited: its SHA-256 differs from the manifest; build the bundle again")


def check_size(path: Path, record: FileRecord) -> None:
    """ArtifactError unless ``path`` is a plain file of the recorded size."""
    try:
        found = path.stat()
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path}: is missing from its bundle; build the bundle again") from exc
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read ({exc.strerror}); build the bundle again") from exc
    if not stat.S_ISREG(found.st_mode):
        raise ArtifactError(f"{path}: is not a plain file; build the bundle again")
    if found.st_size != record.bytes:
        raise ArtifactError(
            f"{path}: has {found.st_size} bytes, the manifest records {record.bytes}; build the bundle again"
        )


def open_bundle(directory: Path) -> Engine:
    """The verified bundle in ``directory``; one that is replaced meanwhile is read again."""
    return retried(partial(_open_once, directory))


def _open_once(directory: Path) -> Engine:
    with unreplaced(directory) as seen:
        manifest, files = verify(directory)
        name = directory.resolve().name
    return Engine(
        name=name,
        onnx_path=directory / MODEL,
        contract=manifest.contract,
        precision=manifest.precision,
        batch=manifest.batch,
        plans=tuple((plan, directory / plan.file) for plan in manifest.plans),
        files=files,
        seen=seen,
    )


@contextmanager
def held(engine: Engine) -> Iterator[None]:
    """A block that reads files of ``engine``; ReplacedError if they are others by now, or become others within it.

    Files that only look different, as after a backup by hard links, are verified again, before the block and after it.
    """
    if engine.seen is None:
        yield
        return
    with unreplaced(engine.path, partial(_is_same, engine)):
        if not is_like(look(engine.path), engine.seen) and not _is_same(engine):
            raise ReplacedError(f"{engine.path}: was replaced after it was opened; run the command again")
        yield


def _is_same(engine: Engine) -> bool:
    """Whether the files on disk are still those that were opened."""
    with suppress(DeployError, OSError, ValueError):  # others, and not whole yet
        if engine.files:
            return verify(engine.path)[1] == engine.files  # the model among them holds the contract
        return engine.sha256 is not None and replace(engine, sha256=None).content_sha256() == engine.sha256
    return False
