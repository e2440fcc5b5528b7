"""All kinds by name."""

from __future__ import annotations

from tests.fuzz.bundles import BundleKind
from tests.fuzz.features import FeaturesKind
from tests.fuzz.images import image_kinds
from tests.fuzz.kind import Kind
from tests.fuzz.labels import ClassListKind, LabelsKind
from tests.fuzz.onnx_models import EngineKind, OnnxKind
from tests.fuzz.records import record_kinds
from tests.fuzz.text_files import JournalKind, SettingsKind, SourcesKind
from tests.fuzz.weights import PickleKind, SafetensorsKind, StateKind

_ALL: tuple[Kind, ...] = (
    *image_kinds(), OnnxKind(), EngineKind(), BundleKind(), *record_kinds(), FeaturesKind(".npz"),
    FeaturesKind(".parquet"), SafetensorsKind(), PickleKind(),
    StateKind(), LabelsKind(), ClassListKind(), SourcesKind(), JournalKind(), SettingsKind(),
)  # fmt: skip
KINDS = {kind.name: kind for kind in _ALL}
