"""An engine bundle on disk: everything needed to run one model at one precision, anywhere.

    engines/alexnet-int8/
      bundle.json        this module's manifest: contract, precision, hashes, tools, targets, proof
      model.onnx         the typed ONNX: runs in ONNX Runtime and OpenVINO on any machine
      sm89.plan          raw TensorRT plan, one a target GPU (zero or more)
      calibration.json   what calibrated it (int8 and fp8 only)
      confidence.json    the fit that its temperature comes from (calibrate-confidence)

The manifest is the only place for metadata; a plan stays loadable by any TensorRT program.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from alexnet_deploy.contract import BatchProfile, ModelContract
from alexnet_deploy.errors import ArtifactError, DeployError, InputError, UsageError
from alexnet_deploy.files import atomic_directory, sha256_of

SCHEMA = 1
MANIFEST = "bundle.json"
MODEL = "model.onnx"
CALIBRATION = "calibration.json"
CONFIDENCE = "confidence.json"
MAX_MANIFEST_BYTES = 16 << 20
"""A manifest is some 100 KiB; a larger file is not one, and is not read into memory."""

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of a bundle, as it was when the bundle was made."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One TensorRT plan. ``builder`` is ``"tensorrt"`` or ``"tensorrt_rtx"``: their plans do not mix.

    ``target`` is a compute capability such as ``"sm89"``, or ``"sm80+"`` for a portable plan of that one and later.
    """

    file: str
    builder: str
    version: str
    target: str


@dataclass(frozen=True, slots=True)
class LayerPrecision:
    """What the builder made of one quantisable or castable ONNX node.

    ``asked`` comes from the typed ONNX, ``got`` from the builder's own report: ``"fp32"``, ``"fp16"``,
    ``"int8"``, ``"fp8"``; ``engine_layer`` is the fused layer that ended up computing it.
    """

    node: str
    op: str
    asked: str
    got: str
    engine_layer: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Content of ``bundle.json``."""

    precision: str
    contract: ModelContract
    batch: BatchProfile
    tools: dict[str, str]
    plans: tuple[Plan, ...] = ()
    achieved: dict[str, tuple[LayerPrecision, ...]] = field(default_factory=dict)
    """Proof of precision by plan file name."""
    notes: tuple[str, ...] = ()
    """Sentences for whoever inspects the bundle: why there is no plan, which fallback was allowed."""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))


@dataclass(frozen=True, slots=True)
class Engine:
    """Something a runner can run: a bundle, or one ONNX file with its contract."""

    name: str
    onnx_path: Path
    contract: ModelContract
    precision: str
    batch: BatchProfile | None
    """Batch sizes of the plans; None: the ONNX decides alone."""
    plans: tuple[tuple[Plan, Path], ...] = ()


@contextmanager
def write_bundle(directory: Path) -> Iterator[Path]:
    """Yield a directory to fill with files and ``save_manifest``; it becomes ``directory`` as a whole.

    A kill at any moment leaves the old bundle or the new one. A directory is replaced only if it is empty or a bundle
    and nothing else: a file that no bundle holds is the user's, and would be lost with it (InputError).
    """
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    ours = (MANIFEST, MODEL, CALIBRATION, CONFIDENCE)
    foreign = sorted(name for name in names if name not in ours and not name.endswith(".plan"))
    if foreign or (names and MANIFEST not in names):
        raise InputError(
            f"{directory}: holds {foreign[0] if foreign else f'no {MANIFEST}'}, so it is not just an engine bundle and "
            "will not be replaced; choose another --output"
        )
    with atomic_directory(directory) as temporary:
        yield temporary


def save_manifest(manifest: Manifest, directory: Path) -> None:
    """Write ``bundle.json`` last: it records size and SHA-256 of every file that stands in ``directory``."""
    files = {
        path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in sorted(directory.iterdir())
        if path.name != MANIFEST
    }
    raw = dataclasses.asdict(manifest)
    raw["contract"] = json.loads(manifest.contract.to_json())
    head = {"schema": SCHEMA, "contract_sha256": _contract_sha256(raw["contract"]), "files": files}
    text = json.dumps(head | raw, indent=1, ensure_ascii=False)
    (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")


def load_manifest(directory: Path) -> tuple[Manifest, dict[str, FileRecord]]:
    """Read and check ``bundle.json``; the files themselves are left to ``verify``."""
    path = directory / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ArtifactError(f"{path}: too large for a manifest; build the bundle again")
        raw: dict[str, Any] = json.loads(path.read_bytes())
        schema = raw.pop("schema")
    except FileNotFoundError as exc:
        raise InputError(
            f"{directory}: no engine bundle there ({MANIFEST} is missing); list them: alexnet-deploy engines"
        ) from exc
    except OSError as exc:
        raise InputError(f"{path}: cannot be read ({exc.strerror}); check its permissions") from exc
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ArtifactError(f"{path}: is damaged ({exc}); build the bundle again") from exc
    if schema != SCHEMA:
        raise ArtifactError(
            f"{path}: bundle schema {schema}, this version reads {SCHEMA}; "
            "build the bundle again, or use the alexnet-deploy that wrote it"
        )
    try:
        files = {_checked_name(name): FileRecord(**record) for name, record in raw.pop("files").items()}
        contract_sha256, raw_contract = raw.pop("contract_sha256"), raw.pop("contract")
        contract = ModelContract.from_json(json.dumps(raw_contract), source=str(path))
        plans = tuple(Plan(**plan) for plan in raw.pop("plans"))
        achieved = {
            name: tuple(LayerPrecision(**layer) for layer in layers) for name, layers in raw.pop("achieved").items()
        }
        batch = BatchProfile(**raw.pop("batch"))
        manifest = Manifest(
            contract=contract, batch=batch, plans=plans, achieved=achieved, notes=tuple(raw.pop("notes")), **raw
        )
        _check_types(manifest)
        missing = {MODEL, *(plan.file for plan in plans)} - files.keys()
        if missing:
            raise ValueError(f"lists no {sorted(missing)}")
    except (ValueError, KeyError, TypeError, AttributeError, UsageError) as exc:
        raise ArtifactError(f"{path}: is not a valid manifest ({exc}); build the bundle again") from exc
    # Labels or a temperature that somebody changed would give wrong answers that look right.
    if contract_sha256 != _contract_sha256(raw_contract):
        raise ArtifactError(
            f"{path}: its contract was edited, its SHA-256 differs from the one beside it; build the bundle again"
        )
    return manifest, files


def _contract_sha256(raw: dict[str, Any]) -> str:
    """SHA-256 of a contract as it stands in the manifest, whatever its indents and the order of its keys."""
    return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()


def _check_types(manifest: Manifest) -> None:
    """ValueError or TypeError where JSON put another type, or text that no file can hold, into a field."""
    texts = [manifest.precision, manifest.created, *manifest.notes, *manifest.tools.keys(), *manifest.tools.values()]
    for plan in manifest.plans:
        texts += dataclasses.astuple(plan)
    for layer in chain.from_iterable(manifest.achieved.values()):
        texts += dataclasses.astuple(layer)
    "".join(texts).encode()
    if not all(isinstance(size, int) for size in dataclasses.astuple(manifest.batch)):
        raise ValueError(f"batch sizes {manifest.batch} are not whole numbers")


def _checked_name(name: str) -> str:
    if not _FILE_NAME.fullmatch(name) or name == MANIFEST:
        raise ValueError(f"file name {name!r} is not allowed in a bundle")
    return name


def verify(directory: Path, *, only: set[str] | None = None) -> Manifest:
    """Check size and SHA-256 of a bundle's files (``only``: a subset); ArtifactError on the first that differs.

    A bundle that is replaced meanwhile is read anew, so the files of two are never mixed up.
    """
    found = load_manifest(directory)
    while True:
        manifest, files = found
        try:
            for name, record in files.items():
                if only is None or name in only:
                    _check_file(directory / name, record)
        except ArtifactError:
            found = load_manifest(directory)
            if found == (manifest, files):
                raise
        else:
            return manifest


def _check_file(path: Path, record: FileRecord) -> None:
    try:
        size = path.stat().st_size
        sha256 = sha256_of(path) if size == record.bytes else None
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path}: is missing from its bundle; build the bundle again") from exc
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read ({exc.strerror}); build the bundle again") from exc
    if sha256 is None:
        raise ArtifactError(f"{path}: has {size} bytes, the manifest says {record.bytes}; build the bundle again")
    if sha256 != record.sha256:
        raise ArtifactError(f"{path}: was edited, its SHA-256 differs from the manifest; build the bundle again")


def open_bundle(directory: Path) -> Engine:
    """A verified bundle as something to run."""
    manifest = verify(directory)
    return Engine(
        name=directory.resolve().name,
        onnx_path=directory / MODEL,
        contract=manifest.contract,
        precision=manifest.precision,
        batch=manifest.batch,
        plans=tuple((plan, directory / plan.file) for plan in manifest.plans),
    )


def list_bundles(store: Path) -> list[tuple[Path, Manifest | ArtifactError]]:
    """Every bundle below ``store``, newest first; one that cannot be read comes with its error instead."""
    found: list[tuple[Path, Manifest | ArtifactError]] = []
    directories = sorted(store.iterdir()) if store.is_dir() else []
    for directory in directories:
        if directory.name.startswith(".") or not (directory / MANIFEST).is_file():
            continue
        try:
            found.append((directory, load_manifest(directory)[0]))
        except DeployError as exc:
            found.append((directory, ArtifactError(str(exc))))
    return sorted(found, key=lambda row: row[1].created if isinstance(row[1], Manifest) else "", reverse=True)
