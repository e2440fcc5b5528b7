"""A bundle in print: its files and plans, and what each layer got."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from alexnet_deploy.bundle.manifest import (
    UNPROVED,
    LayerPrecision,
    Manifest,
    Plan,
    Verification,
    load_manifest,
    unlisted_files,
)
from alexnet_deploy.bundle.plan_options import DEFAULT_OPTIONS
from alexnet_deploy.cli.flags import in_flags
from alexnet_deploy.cli.output.tables import add_row, print_json, print_line, size, table
from alexnet_deploy.cli.output.terminal import out
from alexnet_deploy.cli.trtexec import as_trtexec
from alexnet_deploy.runtime.tensorrt.support import undocumented


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
