"""Backticks in a message stand for parameters, which the command line writes as flags: nothing else may have them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import alexnet_deploy

PACKAGE = Path(alexnet_deploy.__file__).parent
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}


def parameters() -> set[str]:
    """Arguments of functions, and fields of classes, of the package."""
    found: set[str] = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                found.update(arg.arg.rstrip("_") for arg in (*node.args.args, *node.args.kwonlyargs))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
    return found


def test_each_word_in_backticks_is_a_parameter() -> None:
    known = parameters()
    wrong = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {word}"
        for path, tree in TREES.items()
        for raised in ast.walk(tree)
        if isinstance(raised, ast.Raise)
        for node in ast.walk(raised)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for word in re.findall(r"`([a-z][a-z0-9_]*)`", node.value)
        if word not in known
    ]
    assert not wrong
