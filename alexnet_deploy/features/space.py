"""What features were computed by: only those of one space can be compared."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from alexnet_deploy import __version__
from alexnet_deploy.contract import FeatureOutput, ModelContract, Preprocessing
from alexnet_deploy.errors import UsageError
from alexnet_deploy.json_format import JsonFormat, convert

if TYPE_CHECKING:
    from alexnet_deploy.inference.engine import OpenEngine

FORMAT = JsonFormat("file of features", 1, "make it again: alexnet-deploy features", max_bytes=1 << 20)
KEY = "alexnet_deploy.features"
"""Key under which a Parquet file carries the space as JSON; an .npz has an entry ``space``."""


@dataclass(frozen=True, slots=True)
class FeatureSpace:
    """The engine, the layer and the preprocessing of features, and the versions that computed them."""

    engine: str
    precision: str
    engine_sha256: str
    """Of the files of the engine. Two engines may still be one up to the layer: ``features.sha256`` decides."""
    contract: ModelContract
    """Of the engine up to the layer."""
    runtime: str
    """For people: another runtime gives the same features within its rounding."""
    tools: Mapping[str, str] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    @property
    def features(self) -> FeatureOutput:
        """The layer, its shape and its hash."""
        assert self.contract.features is not None  # checked by whatever made it
        return self.contract.features

    @property
    def preprocessing(self) -> Preprocessing:
        """From files to pixels."""
        return self.contract.preprocessing

    def to_json(self) -> str:
        """The space as one line of JSON."""
        raw = dataclasses.asdict(self) | {"contract": json.loads(self.contract.to_json())}
        return json.dumps({"schema": FORMAT.schema, "sha256": _sha256(raw)} | raw, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str) -> FeatureSpace:
        """Read what ``to_json`` wrote; ``source`` names the file in the ArtifactError if it is not valid."""
        raw: dict[str, Any] = FORMAT.decode(text, dict, source=source)
        with FORMAT.checking(source):
            if raw.pop("sha256") != _sha256(raw):
                raise ValueError("it was edited: its SHA-256 differs from the recorded one")
            contract = ModelContract.from_json(json.dumps(raw.pop("contract")), source=source)
            if contract.features is None:
                raise ValueError("its contract has no features")
            return convert(raw | {"contract": contract}, cls)


def _sha256(raw: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()


def space_of(opened: OpenEngine) -> FeatureSpace:
    """The space of an engine that was opened with ``features``; UsageError for one that names classes."""
    if opened.contract.features is None:
        raise UsageError(f"{opened.name} names classes; open it with open_engine(..., features=True)")
    tools = {"alexnet-deploy": __version__}
    for name in ("numpy", "pillow"):  # what makes the pixels; the runtime's version is in its description
        with suppress(importlib.metadata.PackageNotFoundError):
            tools[name] = importlib.metadata.version(name)
    return FeatureSpace(
        opened.name, opened.precision, opened.content_sha256(), opened.contract, opened.description, tools
    )


def difference_between(first: FeatureSpace, second: FeatureSpace) -> str | None:
    """Why vectors of the two cannot be compared, on one line; None where they can."""
    a, b = first.features, second.features
    if (a.layer, a.shape) != (b.layer, b.shape) and a.sha256 != b.sha256:
        return (
            f"its features are those of layer {a.layer} {list(a.shape)}, and these of layer {b.layer} {list(b.shape)}"
        )
    if a.sha256 != b.sha256:
        return (
            f"its features were computed by another engine ({first.engine}, {first.precision}, SHA-256 "
            f"{first.engine_sha256[:12]}) than {second.engine} ({second.precision}, {second.engine_sha256[:12]})"
        )
    if first.preprocessing != second.preprocessing:
        return f"its images were prepared otherwise ({first.preprocessing.describe()})"
    return None
