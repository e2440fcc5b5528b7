"""An engine on its way to machines that do not have it: its files as bytes, and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.bundle.manifest import MANIFEST, MODEL, Engine
from alexnet_deploy.errors import InputError

_PACKED = "engine"


@dataclass(frozen=True, slots=True)
class EngineFiles:
    """The files of one engine by their name, and what of them is opened: a bundle, or one ONNX file."""

    name: str
    contents: dict[str, bytes]
    onnx: str | None
    """The ONNX file; None: they are a bundle."""


def pack_engine(engine: Engine) -> EngineFiles:
    """Read all files of ``engine`` (some 60 to 250 MB); InputError if one cannot be read."""
    folder, model = engine.onnx_path.parent, engine.onnx_path
    if model.name == MODEL and (folder / MANIFEST).is_file():
        files, onnx = [path for path in sorted(folder.iterdir()) if path.is_file()], None
    else:
        from alexnet_deploy.onnx_graph.weights_data import external_files

        files, onnx = [model, *external_files(model)], model.name
    try:
        contents = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    except OSError as exc:
        raise InputError(f"{exc.filename}: cannot be read ({exc.strerror}); check its permissions") from exc
    return EngineFiles(engine.name, contents, onnx)


def unpack_engine(files: EngineFiles, folder: Path) -> Path:
    """Write the files below ``folder``; returns what ``open_engine`` takes. OSError if there is no room."""
    # The name of a bundle is that of its folder, and stands in messages.
    root = folder / (Path(files.name).name or _PACKED)
    for name, content in files.contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root if files.onnx is None else root / files.onnx
