"""The public face: lazy, complete, and used by the pages that show it."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import alexnet_deploy
from alexnet_deploy.images.samples import sample_photos
from alexnet_deploy.model.checkpoint import shipped_checkpoint
from tests.helpers.repository import ROOT


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.S | re.M)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages start from: a checkpoint, photos, and labelled photos."""
    shutil.copy(shipped_checkpoint(), tmp_path / "checkpoint.safetensors")
    for photo in sample_photos():
        label = next((k for k in ("church", "tench") if photo.name.startswith((k, {"tench": "fish"}.get(k, k)))), None)
        for target in (tmp_path / "images", *([tmp_path / "val" / label] if label else [])):
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", ["docs/python.md", "README.md"])
def test_the_examples_run(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)
    out = capsys.readouterr().out
    assert re.search(r"church_berlin\.jpg church", out)
    if page == "docs/python.md":
        assert re.search(r"^(openvino|onnxruntime) cpu \(2, 10\)", out, re.MULTILINE)  # by the processor
        assert "most sensitive layer: " in out
        assert "no-such-engine: no such engine" in out


def test_every_exported_name_is_there_and_documented() -> None:
    assert set(alexnet_deploy.__all__) <= set(dir(alexnet_deploy))
    for name in alexnet_deploy.__all__:
        documentation = getattr(alexnet_deploy, name).__doc__
        assert documentation, name
        assert not documentation.startswith(f"{name}("), f"{name}: a dataclass generates this one"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = getattr(alexnet_deploy, "nothing")  # noqa: B009


def test_type_checkers_and_python_see_the_same_names() -> None:
    """They read the TYPE_CHECKING block and ``__all__``; Python imports what ``_MODULE_OF`` says."""
    tree = ast.parse(Path(alexnet_deploy.__file__).read_text(encoding="utf-8"))
    checked, hidden = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in checked.body if isinstance(node, ast.ImportFrom)]
    assert {alias.asname: f"{node.module}.{alias.name}" for node in imports for alias in node.names} == {
        name: f"alexnet_deploy.{module}.{name}" for name, module in alexnet_deploy._MODULE_OF.items()
    }
    assert sorted(alexnet_deploy.__all__) == sorted(["__version__", *alexnet_deploy._MODULE_OF])
    assert "__getattr__" in [node.name for node in hidden.body if isinstance(node, ast.FunctionDef)]
    assert ast.unparse(hidden.test) == "not TYPE_CHECKING", "with it every misspelt name would have the type Any"


def test_the_pages_show_every_exported_name() -> None:
    text = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    missing = [name for name in alexnet_deploy.__all__ if not re.search(rf"\b{name}\b", text) and name[0] != "_"]
    assert missing == []


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = "import sys, alexnet_deploy as ad; ad.__all__; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"numpy", "torch", "onnx", "onnxruntime", "openvino", "typer", "PIL"} & set(done.stdout.split())
