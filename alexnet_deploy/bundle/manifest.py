"""An engine bundle on disk: everything needed to run one model at one precision, anywhere.

    engines/alexnet-int8/
      bundle.json        this module's manifest: contract, precision, hashes, tools, targets, proof
      model.onnx         the typed ONNX: runs in ONNX Runtime and OpenVINO on any machine
      sm89.plan          raw TensorRT plan, one per target GPU (zero or more)
      calibration.json   record of its calibration, if images calibrated it
      confidence.json    the fit that its temperature comes from (calibrate-confidence)

All metadata is in the manifest, and a plan is plain TensorRT: any TensorRT program can load it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alexnet_deploy.bundle.plan_options import PlanOptions
from alexnet_deploy.contract import BatchProfile, ModelContract
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.files import atomic_directory, sha256_of, shareable
from alexnet_deploy.json_format import JsonFormat, convert

MANIFEST = "bundle.json"
MODEL = "model.onnx"
CALIBRATION = "calibration.json"
CONFIDENCE = "confidence.json"
FORMAT = JsonFormat("bundle manifest", 1, "build the bundle again", max_bytes=16 << 20)
"""A manifest has about 100 KiB."""

UNPROVED = "unproved"
"""``LayerPrecision.got`` where the builder's report does not say it."""

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of a bundle, as it was when the bundle was made."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One TensorRT plan. ``builder`` is ``"tensorrt"`` or ``"tensorrt_rtx"``: neither loads the plans of the other.

    ``target`` is a compute capability such as ``"sm89"``, or ``"sm80+"`` for a portable plan of that one and later.
    """

    file: str
    builder: str
    version: str
    target: str
    options: PlanOptions | None = None
    """None: not recorded, by an earlier version of this package; the library's defaults."""
    card: str = ""
    """Name of the model of GPU that built it, if it was tuned for that one; empty: for any, or not recorded."""


@dataclass(frozen=True, slots=True)
class LayerPrecision:
    """The precision that the builder gave one quantisable or castable ONNX node.

    ``asked`` comes from the typed ONNX, ``got`` from the builder's own report: ``"fp32"``, ``"fp16"``, ``"int8"``,
    ``"fp8"``, and ``"int8-weights"`` or ``"int4"`` for a weight alone, multiplied in float16. ``got`` is ``"unproved"``
    where the report does not say it, and ``"unknown"`` where it does not name the node. ``engine_layer`` is the fused
    layer that computes it.
    """

    node: str
    op: str
    asked: str
    got: str
    engine_layer: str


@dataclass(frozen=True, slots=True)
class Verification:
    """The finished engine beside its float model on photos, when it was built.

    ``largest_difference_points`` is of a probability, in percentage points; for int8 and fp8 it contains what the
    quantisation itself changes.
    """

    runtime: str
    images: int
    same_answers: int
    """Number of images whose first class is the float model's."""
    largest_difference_points: float


@dataclass(frozen=True, slots=True)
class FeatureVerification:
    """The features of a finished engine beside those of its float model on photos, when it was built."""

    runtime: str
    images: int
    median_cosine: float
    least_cosine: float


@dataclass(frozen=True, slots=True)
class Manifest:
    """Content of ``bundle.json``."""

    precision: str
    contract: ModelContract
    batch: BatchProfile
    tools: dict[str, str]
    plans: tuple[Plan, ...] = ()
    achieved: dict[str, tuple[LayerPrecision, ...]] = field(default_factory=dict)
    """Proof of precision, by file name of the plan."""
    verification: Verification | None = None
    """None: no runtime of the machine that built it could run it."""
    feature_verification: FeatureVerification | None = None
    """The same for an engine whose output are features."""
    notes: tuple[str, ...] = ()
    """Sentences for people: why the bundle has no plan, which fallback was allowed."""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine on disk that a runner can open: a bundle, or one ONNX file with its contract."""

    name: str
    onnx_path: Path
    contract: ModelContract
    precision: str
    batch: BatchProfile | None
    """Batch sizes of the plans; None: the ONNX alone decides."""
    plans: tuple[tuple[Plan, Path], ...] = ()
    sha256: str | None = None
    """Of the content of an ONNX and its weights, where it is known without reading them."""
    files: dict[str, FileRecord] = field(default_factory=dict, compare=False)
    """Of a bundle: all its files, as they were verified. Its manifest may be another one by now."""
    seen: tuple[str, str, int] | None = field(default=None, compare=False)
    """How its files looked (``replaced.look``) before they were read; None for temporary ones that nobody replaces."""

    @property
    def path(self) -> Path:
        """What is replaced as a whole: the folder of a bundle, or the ONNX file."""
        return self.onnx_path.parent if self.files else self.onnx_path

    def content_sha256(self) -> str:
        """SHA-256 of what a runtime computes with."""
        return _content_sha256(self.files) if self.files else self.hashed().sha256 or ""

    def model_sha256(self) -> str:
        """SHA-256 of the ONNX with its weights, whatever plans lie beside it."""
        return self.files[MODEL].sha256 if self.files else self.content_sha256()

    def hashed(self) -> Engine:
        """The engine with its hashes: those that its bundle records, or of its files as they are now."""
        if self.files or self.sha256 is not None:
            return self
        from alexnet_deploy.onnx_graph.weights_data import onnx_sha256

        return dataclasses.replace(self, sha256=onnx_sha256(self.onnx_path))


@contextmanager
def write_bundle(directory: Path) -> Iterator[Path]:
    """Yield a directory to fill with files and ``save_manifest``; it becomes ``directory`` as a whole.

    A kill at any moment leaves the old bundle or the new one. A directory is replaced only if it is empty or holds a
    bundle alone: any other file is the user's and would be lost (InputError).
    """
    try:
        is_file = {path.name: path.is_file() for path in directory.iterdir()} if os.path.isdir(directory) else {}
    except OSError as exc:
        raise InputError(f"{directory}: cannot be listed ({exc.strerror}); choose another `output`") from exc
    ours = (MANIFEST, MODEL, CALIBRATION, CONFIDENCE)
    others = sorted(n for n, plain in is_file.items() if not (plain and (n in ours or n.endswith(".plan"))))
    if others or (is_file and MANIFEST not in is_file):
        raise InputError(
            f"{directory}: holds {others[0] if others else f'no {MANIFEST}'}, so it is not just an engine bundle and "
            "will not be replaced; choose another `output`"
        )
    with atomic_directory(directory) as temporary:
        yield temporary


def save_manifest(manifest: Manifest, directory: Path) -> None:
    """Write ``bundle.json`` last: it records size and SHA-256 of every file in ``directory``.

    Absolute paths in the notes become relative, as a bundle is passed on.
    """
    files = {
        path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in sorted(directory.iterdir())
        if path.name != MANIFEST
    }
    raw = dataclasses.asdict(manifest)
    raw["contract"] = json.loads(manifest.contract.to_json())
    raw["notes"] = list(map(shareable, manifest.notes))
    head = {"schema": FORMAT.schema, "contract_sha256": _contract_sha256(raw["contract"]), "files": files}
    text = json.dumps(head | raw, indent=1, ensure_ascii=False, allow_nan=False)
    (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")


def load_manifest(directory: Path) -> tuple[Manifest, dict[str, FileRecord]]:
    """Read and check ``bundle.json``; ``verified.verify`` checks the files themselves."""
    path = directory / MANIFEST
    try:
        raw: dict[str, Any] = FORMAT.read(path, dict)
    except FileNotFoundError as exc:
        raise InputError(
            f"{directory}: is not an engine bundle ({MANIFEST} is missing); list the bundles: alexnet-deploy engines"
        ) from exc
    with FORMAT.checking(str(path)):
        files = convert(raw.pop("files"), dict[str, FileRecord])
        contract_sha256, raw_contract = raw.pop("contract_sha256"), raw.pop("contract")
        contract = ModelContract.from_json(json.dumps(raw_contract), source=str(path))
        manifest = convert(raw | {"contract": contract}, Manifest, added=frozenset(("card",)))
        for name in files:
            if not _FILE_NAME.fullmatch(name) or name == MANIFEST:
                raise ValueError(f"file name {name!r} is not allowed in a bundle")
        if missing := {MODEL, *(plan.file for plan in manifest.plans)} - files.keys():
            raise ValueError(f"lists no {sorted(missing)}")
    # Edited labels or an edited temperature would give wrong answers that look right.
    if contract_sha256 != _contract_sha256(raw_contract):
        raise ArtifactError(
            f"{path}: its contract was edited: its SHA-256 differs from the recorded one; build the bundle again"
        )
    return manifest, files


def _contract_sha256(raw: dict[str, Any]) -> str:
    """SHA-256 of a contract in the manifest, independent of its indents and the order of its keys."""
    return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()


def _content_sha256(files: dict[str, FileRecord]) -> str:
    """SHA-256 of the model and the plans, by the hashes in the manifest."""
    hashes = [f"{name} {files[name].sha256}" for name in sorted(files) if name == MODEL or name.endswith(".plan")]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def unlisted_files(directory: Path) -> list[str]:
    """Names of what lies in a bundle without being listed in its manifest."""
    listed = load_manifest(directory)[1].keys() | {MANIFEST}
    return sorted(path.name for path in directory.iterdir() if path.name not in listed)
