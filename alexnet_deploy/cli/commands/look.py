"""``engines``, ``inspect``, ``doctor``: show bundles and this machine."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import typer

from alexnet_deploy.bundle.listing import list_bundles
from alexnet_deploy.bundle.manifest import (
    UNPROVED,
    LayerPrecision,
    Manifest,
    Plan,
    Verification,
    load_manifest,
    unlisted_files,
    verify,
)
from alexnet_deploy.bundle.plan_options import DEFAULT_OPTIONS
from alexnet_deploy.bundle.store import find_bundle, no_engine_in
from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.flags import in_flags
from alexnet_deploy.cli.output.tables import add_row, print_json, print_line, size, table
from alexnet_deploy.cli.output.terminal import out
from alexnet_deploy.cli.trtexec import as_trtexec
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.runtime.tensorrt.support import undocumented

_STATE_STYLE = {"ok": "green", "absent": "dim", "broken": "red"}


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
    manifest = verify(directory)
    print_bundle(directory, manifest, as_json=json_, layers=True)
    if not json_ and manifest.contract.features is None:
        _print_confidence(directory, manifest)


def print_bundle(
    directory: Path,
    manifest: Manifest,
    *,
    as_json: bool,
    layers: bool = False,
    more: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Print one bundle: its files and plans, and the achieved precision in short or layer by layer.

    ``more`` is added to its JSON.
    """
    files, unlisted = load_manifest(directory)[1], unlisted_files(directory)
    if as_json:
        raw = dataclasses.asdict(manifest) | {"contract": json.loads(manifest.contract.to_json())}
        print_json({"bundle": directory, "files": files, "unlisted": unlisted} | raw | dict(more))
        return
    profile = manifest.batch
    print_line(
        f"{directory}/  {manifest.precision}, batch {profile.min}..{profile.max} (tuned for {profile.opt}), "
        f"{manifest.contract.architecture} {_what_it_returns(manifest)}, {manifest.created}"
    )
    print_line(f"images: {manifest.contract.preprocessing.describe()}")
    what = {plan.file: _describe_plan(plan) for plan in manifest.plans} | {
        "model.onnx": "typed ONNX, runs anywhere",
        "calibration.json": "record of the calibration",
        "confidence.json": "record of the fit of its confidence",
    }
    grid = table("file", ">size", "what")
    for name, record in files.items():
        add_row(grid, (name, size(record.bytes), what.get(name, "")))
    for name in unlisted:
        add_row(grid, (name, "", "not in the manifest: not verified and not used"), style="yellow")
    out.print(grid)
    for file, achieved in manifest.achieved.items():
        print_line(f"precision of {file}: {_in_short(achieved)}")
        if layers:
            grid = table("node", "op", "asked", "got", "engine layer")
            for layer in achieved:
                cells = (layer.node, layer.op, layer.asked, layer.got, layer.engine_layer)
                style = None if layer.asked == layer.got else "yellow" if layer.got == UNPROVED else "red"
                add_row(grid, cells, style=style)
            out.print(grid)
    if manifest.verification is not None:
        _print_verification(manifest.verification)
    if (seen := manifest.feature_verification) is not None:
        print_line(
            f"verified on {seen.images} photos with {seen.runtime}: features with a cosine of {seen.median_cosine:.4f} "
            f"to those of the float model in the median, {seen.least_cosine:.4f} at least"
        )
    # Bundles of earlier versions lack the note.
    doubts = undocumented(
        (plan.builder, [layer.got for layer in manifest.achieved.get(plan.file, ())]) for plan in manifest.plans
    )
    for remark in dict.fromkeys((*manifest.notes, *doubts)):
        print_line(in_flags(remark), style="yellow")


def _what_it_returns(manifest: Manifest) -> str:
    features = manifest.contract.features
    if features is None:
        return f"with {len(manifest.contract.labels)} classes"
    return f"up to layer {features.layer}: {features.width} features"


def _describe_plan(plan: Plan) -> str:
    """For the list of files; options that are not the usual ones as trtexec's flags."""
    flags = () if plan.options in (None, DEFAULT_OPTIONS) else as_trtexec(plan.options)
    return " ".join((f"{plan.builder} {plan.version} plan for {plan.target}", *flags))


def _print_verification(seen: Verification) -> None:
    many_changed = 4 * seen.same_answers < 3 * seen.images
    print_line(
        f"verified on {seen.images} photos with {seen.runtime}: {seen.same_answers} answers as the float model's, "
        f"probabilities within {seen.largest_difference_points:.2f} points"
        + ("; to see which layers change them: alexnet-deploy diagnose" if many_changed else ""),
        style="yellow" if many_changed else None,
    )


def _in_short(achieved: Sequence[LayerPrecision]) -> str:
    counts = Counter((layer.asked, layer.got) for layer in achieved)
    parts = [f"{n} {got}" if asked == got else f"{n} {got} (requested {asked})" for (asked, got), n in counts.items()]
    return f"{len(achieved)} layers: " + ", ".join(parts)


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


def doctor(json_: opt.Json = False) -> None:
    """Check Python, CPU, GPU and every runtime, with fixes.

    Exit code 1 if no engine can run before something is fixed.
    """
    from alexnet_deploy.doctor import can_run, examine

    checks = examine()
    fit = can_run(checks)
    if json_:
        print_json({"can_run": fit, "checks": checks})
    else:
        grid = table("what", "state", "found", "fix")
        for check in checks:
            add_row(grid, (check.name, check.state, check.found, check.fix), style=_STATE_STYLE[check.state])
        out.print(grid)
    if not fit:
        raise typer.Exit(1)
