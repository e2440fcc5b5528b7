"""Results on the screen: a table for people, JSON with stable field names for programs."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from alexnet_deploy.bundle.manifest import LayerPrecision, Manifest, load_manifest
from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import ArtifactError

if TYPE_CHECKING:  # these load torch or a runtime; here they are only shapes to print
    from alexnet_deploy.model.export import Parity


def parity(console: Console, path: Path, contract: ModelContract, result: Parity, *, as_json: bool) -> None:
    """What ``export`` wrote and how it was proved."""
    if as_json:
        _json({"onnx": str(path), "bytes": path.stat().st_size, "parity": dataclasses.asdict(result)})
        return
    pre = contract.preprocessing
    console.print(
        f"{path}  {_size(path.stat().st_size)}  {contract.architecture}, {len(contract.labels)} classes\n"
        f"  in   {contract.input_name} uint8 [N,{pre.height},{pre.width},3] RGB ({pre.resize})\n"
        f"  out  {contract.output_name} float32 [N,{len(contract.labels)}]\n"
        f"parity with torch on {result.images} images in {result.runtime}: max abs difference "
        f"{result.max_abs_difference:.2e} of {result.largest_logit:.1f}, "
        f"top-1 agreement {result.top1_agreement_percent:.0f} %",
        soft_wrap=True,
    )


def bundle(console: Console, directory: Path, manifest: Manifest, *, as_json: bool, layers: bool = False) -> None:
    """One bundle: its files and plans, and the achieved precision in short or layer by layer."""
    files = load_manifest(directory)[1]
    if as_json:
        raw = dataclasses.asdict(manifest) | {"contract": json.loads(manifest.contract.to_json())}
        sizes = {name: dataclasses.asdict(record) for name, record in files.items()}
        _json({"bundle": str(directory), "files": sizes} | raw)
        return
    profile = manifest.batch
    console.print(
        f"{directory}/  {manifest.precision}, batch {profile.min}..{profile.max} (tuned for {profile.opt}), "
        f"{manifest.contract.architecture} with {len(manifest.contract.labels)} classes, {manifest.created}",
        soft_wrap=True,
    )
    table = _table("file", "size", "what")
    what = {plan.file: f"{plan.builder} {plan.version} plan for {plan.target}" for plan in manifest.plans}
    what |= {"model.onnx": "typed ONNX, runs anywhere", "calibration.json": "what calibrated it"}
    what["confidence.json"] = "the fit of its temperature"
    for name, record in files.items():
        table.add_row(name, _size(record.bytes), what.get(name, ""))
    console.print(table)
    for file, achieved in manifest.achieved.items():
        console.print(f"precision of {file}: {_in_short(achieved)}", soft_wrap=True)
        if layers:
            console.print(_layer_table(achieved))
    for note in manifest.notes:
        console.print(note, soft_wrap=True, style="yellow")


def _in_short(achieved: Sequence[LayerPrecision]) -> str:
    counts = Counter((layer.asked, layer.got) for layer in achieved)
    parts = [f"{n} {got}" if asked == got else f"{n} {got} (asked {asked})" for (asked, got), n in counts.items()]
    return f"{len(achieved)} layers: " + ", ".join(parts)


def _layer_table(achieved: Sequence[LayerPrecision]) -> Table:
    table = _table("node", "op", "asked", "got", "engine layer")
    for layer in achieved:
        style = None if layer.asked == layer.got else "red"
        table.add_row(layer.node, layer.op, layer.asked, layer.got, layer.engine_layer, style=style)
    return table


def store(
    console: Console, folder: Path, rows: Sequence[tuple[Path, Manifest | ArtifactError]], *, as_json: bool
) -> None:
    """All bundles of a store."""
    if as_json:
        _json([_store_row(directory, found) for directory, found in rows])
        return
    if not rows:
        console.print(f"{folder}/ holds no engine; build one: alexnet-deploy build-engine --fp16", soft_wrap=True)
        return
    table = _table("engine", "precision", "plans", "size", "batch", "created")
    for directory, found in rows:
        if isinstance(found, ArtifactError):
            table.add_row(directory.name, "damaged", "", "", "", str(found), style="red")
        else:
            size = sum(record.bytes for record in load_manifest(directory)[1].values())
            plans = ", ".join(plan.target for plan in found.plans) or "none"
            batch = f"{found.batch.min}..{found.batch.max}"
            table.add_row(directory.name, found.precision, plans, _size(size), batch, found.created)
    console.print(table)


def _store_row(directory: Path, found: Manifest | ArtifactError) -> dict[str, Any]:
    if isinstance(found, ArtifactError):
        return {"engine": directory.name, "error": str(found)}
    return {
        "engine": directory.name,
        "precision": found.precision,
        "targets": [plan.target for plan in found.plans],
        "bytes": sum(record.bytes for record in load_manifest(directory)[1].values()),
        "created": found.created,
        "error": None,
    }


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = column.endswith((" ms", "/s", "%")) or column in ("size", "batch", "images")
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    return table


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _json(value: object) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))
