"""``engines``, ``inspect``: show the bundles of a store, and one of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from alexnet_deploy.bundle.listing import list_bundles
from alexnet_deploy.bundle.manifest import Manifest, load_manifest
from alexnet_deploy.bundle.store import find_bundle, no_engine_in
from alexnet_deploy.bundle.verified import verify
from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.output.bundle import print_bundle
from alexnet_deploy.cli.output.tables import add_row, print_json, print_line, size, table
from alexnet_deploy.cli.output.terminal import out
from alexnet_deploy.errors import ArtifactError, InputError


def engines(store: opt.Store = opt.STORE, json_: opt.Json = False) -> None:
    """List the engine bundles of a store."""
    if not os.path.isdir(store) and (store != opt.STORE or os.path.lexists(store)):
        raise InputError(f"{store}: no such folder; name a folder of engine bundles as `store`")
    found = list_bundles(store)
    if json_:
        print_json([_store_row(directory, manifest) for directory, manifest in found])
        return
    if not found:
        print_line(no_engine_in(store))
        return
    grid = table("engine", "precision", "plans", ">size", ">batch", "created")
    for directory, manifest in found:
        row = _store_row(directory, manifest)
        if isinstance(manifest, ArtifactError):
            add_row(grid, (directory.name, "damaged", "", "", "", row["error"]), style="red")
        else:
            batch = f"{manifest.batch.min}..{manifest.batch.max}"
            plans = ", ".join(row["targets"]) or "none"
            ends_at = f" up to {row['layer']}" if row["layer"] else ""
            add_row(
                grid, (directory.name, manifest.precision + ends_at, plans, size(row["bytes"]), batch, manifest.created)
            )
    out.print(grid)


def _store_row(directory: Path, found: Manifest | ArtifactError) -> dict[str, Any]:
    if isinstance(found, ArtifactError):
        return {"engine": directory.name, "error": str(found)}
    return {
        "engine": directory.name,
        "precision": found.precision,
        "layer": None if found.contract.features is None else found.contract.features.layer,
        "targets": [plan.target for plan in found.plans],
        "bytes": sum(record.bytes for record in load_manifest(directory)[1].values()),
        "created": found.created,
        "error": None,
    }


def inspect(engine: opt.Bundle, store: opt.Store = opt.STORE, json_: opt.Json = False) -> None:
    """Show one bundle: contract, files, precisions.

    Verifies every checksum.
    """
    directory = find_bundle(engine, store)
    manifest, _ = verify(directory)
    print_bundle(directory, manifest, as_json=json_, layers=True)
    if not json_ and manifest.contract.features is None:
        _print_confidence(directory, manifest)


def _print_confidence(directory: Path, manifest: Manifest) -> None:
    """Print the origin of the calibration and the rule for unknown; ArtifactError if record and contract disagree."""
    from alexnet_deploy.evaluation.confidence.record import read_confidence

    contract, record = manifest.contract, read_confidence(directory, manifest.contract)
    how = f"temperature {contract.temperature:.4f}"
    if contract.calibration is not None:
        how += f" and {contract.calibration.describe()}"
    if record is not None:
        print_line(f"{how}, fitted on {record.images} images ({record.created})")
        row = record.cross_validated
        if row is not None and row.ece_percent is not None and row.ece_interval is not None:
            print_line(
                f"on images that a fit has not seen (cross-validation): NLL {row.nll_nats:.4f}, ECE "
                f"{row.ece_percent:.2f} % ({row.ece_interval.low:.2f}..{row.ece_interval.high:.2f}), without the part "
                "that chance adds"
            )
        else:
            print_line(
                f"on the images of the fit, where it is too low: ECE {record.before.ece_percent:.2f} -> "
                f"{record.after.ece_percent:.2f} %"
            )
    elif contract.is_calibrated:
        print_line(f"{how}, from the bundle's source model; not fitted to the bundle")
    else:
        print_line("temperature 1, probabilities are not calibrated: alexnet-deploy calibrate-confidence")
    if contract.rejection is not None:
        print_line(contract.rejection.describe())
