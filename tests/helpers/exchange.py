"""A bundle that is exchanged for another one at an exact moment while it is read."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import onnx

from alexnet_deploy.bundle.manifest import MANIFEST, MODEL, load_manifest, save_manifest
from alexnet_deploy.files.swap import swap_in
from alexnet_deploy.onnx_graph.onnx_file import set_contract


class Exchange:
    """Exchanges two bundles when the first one is read for the ``moments``-th time, counted from 0.

    It is read when Python opens one of its files, lists it, or opens what is remembered of earlier comparisons.
    """

    def __init__(self) -> None:
        self._bundles: tuple[Path, Path] | None = None
        self._moments: tuple[int, ...] = ()
        self.opened = 0
        sys.addaudithook(self._see)  # of the interpreter, for good: it does nothing once ``stop`` was called

    def start(self, bundles: tuple[Path, Path], *moments: int) -> None:
        self._bundles, self._moments, self.opened = bundles, moments, 0

    def stop(self) -> None:
        self._bundles = None

    def _see(self, event: str, args: tuple[Any, ...]) -> None:
        if self._bundles is None or event not in ("open", "os.listdir"):
            return
        name = str(args[0])
        if f"{name}/".startswith(f"{self._bundles[0]}/") or "/verdicts/" in name:
            if self.opened in self._moments:
                swap_in(self._bundles[1], self._bundles[0])
            self.opened += 1


def negated(bundle: Path, out: Path, *, relabelled: bool = True) -> Path:
    """``bundle`` with all logits negated and, if ``relabelled``, its labels in capitals."""
    shutil.copytree(bundle, out, ignore=shutil.ignore_patterns("*.plan"))
    model = onnx.load(out / MODEL)
    (logits,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["before" if name == logits.name else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Neg", ["before"], [logits.name]))
    manifest = load_manifest(bundle)[0]
    contract = manifest.contract
    if relabelled:
        contract = dataclasses.replace(contract, labels=tuple(map(str.upper, contract.labels)))
    set_contract(model, contract)
    onnx.save(model, out / MODEL)
    manifest = dataclasses.replace(manifest, contract=contract, plans=(), achieved={})
    (out / MANIFEST).unlink()
    save_manifest(manifest, out)
    return out
