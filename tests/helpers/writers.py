"""A file or a folder written by either of the atomic writers, and what lies there afterwards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from alexnet_deploy.files import atomic_file

Writer = Callable[[Path], AbstractContextManager[Path]]


def put(path: Path, text: str, writer: Writer) -> None:
    with writer(path) as temporary:
        inside(temporary, writer).write_text(text)


def inside(temporary: Path, writer: Writer) -> Path:
    """The file to write: ``temporary`` itself, or one in that directory."""
    return temporary if writer is atomic_file else temporary / "model.onnx"


def content(path: Path) -> str:
    return (path if path.is_file() else path / "model.onnx").read_text()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
