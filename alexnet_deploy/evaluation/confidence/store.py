"""A fit goes into a bundle: into both copies of its contract, with its record beside them."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

from alexnet_deploy.build.engine import BORROWED
from alexnet_deploy.bundle.manifest import (
    CONFIDENCE,
    MANIFEST,
    MODEL,
    Manifest,
    load_manifest,
    save_manifest,
    write_bundle,
)
from alexnet_deploy.bundle.verified import verify
from alexnet_deploy.errors import ArtifactError
from alexnet_deploy.evaluation.confidence.record import ConfidenceRecord
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, save_onnx, set_contract


def store_fit(bundle: Path, measured: Manifest, record: ConfidenceRecord) -> None:
    """Swap ``bundle``, whose manifest was ``measured``, for one with the fit of ``record`` in its contracts.

    Raises ArtifactError if the bundle has changed meanwhile; it is then as it was.
    """
    with write_bundle(bundle) as new:
        manifest, files = load_manifest(bundle)
        if manifest != measured:
            raise ArtifactError(f"{bundle}: was replaced while its images ran; run the command again")
        for name in files:
            _link_or_copy(bundle / name, new / name)
        shutil.copyfile(bundle / MANIFEST, new / MANIFEST)
        verify(new)  # proves that a whole bundle was copied, even if somebody wrote to ``bundle`` meanwhile
        contract = record.applied_to(manifest.contract)
        model = load_onnx(new / MODEL)
        set_contract(model, contract)
        save_onnx(model, new / MODEL)
        # A link must be replaced, never written to: the old bundle would change.
        (new / CONFIDENCE).unlink(missing_ok=True)
        (new / CONFIDENCE).write_text(record.to_json(), encoding="utf-8")
        notes = tuple(note for note in manifest.notes if not note.startswith(BORROWED))
        save_manifest(dataclasses.replace(manifest, contract=contract, notes=notes), new)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system has hard links
        shutil.copyfile(source, target)
