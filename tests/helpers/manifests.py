"""A bundle with a plan, whose files hold next to nothing, and edits of its manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alexnet_deploy.bundle.manifest import (
    CALIBRATION,
    MANIFEST,
    MODEL,
    LayerPrecision,
    Manifest,
    Plan,
    save_manifest,
    write_bundle,
)
from alexnet_deploy.contract import BatchProfile, ModelContract

PLAN = Plan("sm89.plan", "tensorrt_rtx", "1.7.1.116", "sm89")
LAYER = LayerPrecision("classifier.1/Gemm", "Gemm", "int8", "int8", "fc6 + relu")
BUNDLE = Manifest(
    precision="int8",
    contract=ModelContract("alexnet", ("Kirche", "tench"), ("n03028079", "n01440764"), temperature=1.5),
    batch=BatchProfile(1, 4, 16),
    tools={"onnx": "1.19.0", "tensorrt_rtx": "1.7.1.116"},
    plans=(PLAN,),
    achieved={PLAN.file: (LAYER,)},
    notes=("ein Vermerk, größer als ASCII",),
    created="2026-01-02T03:04:05+00:00",
)


def write(directory: Path, manifest: Manifest = BUNDLE, *, model: bytes = b"model") -> Path:
    with write_bundle(directory) as temporary:
        (temporary / MODEL).write_bytes(model)
        (temporary / CALIBRATION).write_text("{}")
        for plan in manifest.plans:
            (temporary / plan.file).write_bytes(b"plan of " + model)
        save_manifest(manifest, temporary)
    return directory


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads((bundle / MANIFEST).read_text())
    change(raw)
    (bundle / MANIFEST).write_text(json.dumps(raw))
