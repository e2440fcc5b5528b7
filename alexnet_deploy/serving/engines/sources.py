"""Where the engines of a server come from, and by which names they are served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from alexnet_deploy.adoption.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.bundle.manifest import MANIFEST
from alexnet_deploy.bundle.store import find_bundle, resolve_engine
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.runtime.select import Runtime, split_runtime


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from: ``path`` is a bundle or an ONNX file."""

    name: str
    path: Path
    runtime: Runtime
    import_options: ImportOptions = NO_IMPORT_OPTIONS

    @property
    def is_bundle(self) -> bool:
        """Whether it is a bundle, and not an ONNX file."""
        return self.path.suffix != ".onnx"

    @property
    def watched(self) -> Path:
        """The file that changes when the engine does; the weights of an ONNX may change in files beside it."""
        return self.path / MANIFEST if self.is_bundle else self.path


def find_sources(
    engines: Sequence[str], store: Path, runtime: Runtime, import_options: ImportOptions = NO_IMPORT_OPTIONS
) -> list[ModelSource]:
    """The models that ``engines`` mean (none: the newest bundle of ``store``), each by the name of its file or folder.

    ``import_options`` describe the ONNX files among them. ``NAME@RUNTIME`` keeps its runtime in the model's name, so
    that one engine can be served by two. Raises InputError for one that is missing, UsageError for two of the same name
    and for an unknown runtime.
    """
    if not engines:
        with resolve_engine(None, store, import_options) as newest:
            return [ModelSource(newest.name, newest.onnx_path.parent, runtime)]
    sources: dict[str, ModelSource] = {}
    specs = [split_runtime(text, store=store) for text in engines]
    options_for = import_options.for_each([engine for engine, _ in specs])
    for text, (engine, own_runtime), options in zip(engines, specs, options_for, strict=True):
        if engine.endswith(".onnx"):
            path, name = Path(engine), Path(engine).stem
            if not path.is_file():
                raise InputError(f"{engine}: no such file; check the path")
        else:
            path = find_bundle(engine, store)
            name = path.resolve().name
            options.refuse_for(path)
        if own_runtime is not None:
            name = f"{name}@{own_runtime}"
        if name in sources:
            raise UsageError(f"{text}: a model {name} is named already; give each engine once, or add @RUNTIME")
        sources[name] = ModelSource(name, path, cast(Runtime, own_runtime or runtime), options)
    return list(sources.values())
