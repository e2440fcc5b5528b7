"""Imports only go down: docs/decisions/0001 names the layer of every module, and the code keeps to it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.helpers.repository import ROOT

PACKAGE = ROOT / "alexnet_deploy"
DECISION = ROOT / "docs/decisions/0001-layers-and-late-imports.md"
OUTSIDE = {"__init__", "__main__"}
"""The version, which has no layer, and the way in."""


def layers() -> dict[str, int]:
    """Of each module, by its path below the package."""
    rows = re.findall(r"^\| (\d), [^|]*\|([^|]*)\|$", DECISION.read_text(encoding="utf-8"), re.M)
    return {name: int(layer) for layer, cell in rows for name in re.findall(r"`([a-z_/0-9]+)`", cell)}


def modules() -> dict[str, Path]:
    paths = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix("/__init__"): path for name, path in paths.items() if name not in OUTSIDE}


def imported(path: Path, known: set[str]) -> set[str]:
    """Modules of ours that ``path`` imports at its top; below ``TYPE_CHECKING`` or in a function is late."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "alexnet_deploy":
            base = (node.module or "").split(".")[1:]
            found.add("/".join(base))
            found |= {"/".join([*base, alias.name]) for alias in node.names}
    return found & known


def layer_of(name: str, known: dict[str, int]) -> int:
    return known["cli"] if name.partition("/")[0] == "cli" else known[name]


def test_every_module_has_a_layer() -> None:
    named = {name for name in layers() if name != "open_runner"}
    there = {"cli" if name.partition("/")[0] == "cli" else name for name in modules()}
    assert named == there


def test_imports_go_down_or_stay() -> None:
    known, paths = layers(), modules()
    up = {
        f"{name} -> {other}"
        for name, path in paths.items()
        for other in imported(path, set(paths))
        if layer_of(other, known) > layer_of(name, known)
    }
    assert up == set()


def test_nobody_in_the_package_imports_the_command_line_or_training() -> None:
    for name, path in modules().items():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(from|import) (training|benchmarks)\b", text, re.M), name
        assert name.partition("/")[0] == "cli" or "alexnet_deploy.cli" not in text, name
