"""All kinds by name."""

from __future__ import annotations

from tests.fuzz.images import image_kinds
from tests.fuzz.kind import Kind
from tests.fuzz.onnx_models import EngineKind, OnnxKind

KINDS: dict[str, Kind] = {kind.name: kind for kind in (*image_kinds(), OnnxKind(), EngineKind())}
