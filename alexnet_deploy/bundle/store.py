"""Find the engine that a command names: a bundle by name or path, an ONNX file, or the store's newest bundle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from alexnet_deploy.bundle.manifest import MANIFEST, Engine, Manifest, list_bundles, open_bundle
from alexnet_deploy.errors import InputError, UnavailableError, UsageError
from alexnet_deploy.onnx_graph.import_options import NO_IMPORT_OPTIONS, ImportOptions

STORE = Path("engines")
"""The default store, relative to the current folder."""
DEFAULT_ONNX = STORE / "alexnet.onnx"
"""Where ``export`` writes and ``build-engine`` reads by default."""
_BUILD = "build one: alexnet-deploy build-engine"


@contextmanager
def resolve_engine(
    name: str | None, store: Path, import_options: ImportOptions = NO_IMPORT_OPTIONS
) -> Iterator[Engine]:
    """Yield the engine that ``name`` means (None: the newest bundle of ``store``).

    An ONNX of another tool is converted to our form, in a temporary folder that lasts as long as the block. For an
    engine with a contract of its own ``import_options`` must be empty (UsageError).
    """
    if name is not None and name.endswith(".onnx"):
        with _onnx_engine(Path(name), import_options) as engine:
            yield engine
        return
    if import_options != NO_IMPORT_OPTIONS:
        raise UsageError(
            "`mean`, `std` and `labels` describe an ONNX of another tool; a bundle carries its own contract"
        )
    yield open_bundle(find_bundle(name, store) if name is not None else store / some_bundle_names(store)[0])


def find_bundle(name: str, store: Path) -> Path:
    """The bundle directory that ``name`` means: a path, or a name in ``store``; InputError lists those there are."""
    for directory in (Path(name), store / name):
        if (directory / MANIFEST).is_file():
            return directory
    if Path(name).exists():
        raise InputError(f"{name}: is not an engine bundle (a folder with {MANIFEST}) or an .onnx file")
    path, at, runtime = name.rpartition("@")
    if at and (Path(path).exists() or (store / path).exists()):
        raise InputError(f"{name}: no such engine; name the engine {path} here, and {runtime} as `runtime`")
    names = bundle_names(store)
    raise InputError(f"{name}: no such engine in {store}/; " + (f"it contains {', '.join(names)}" if names else _BUILD))


def bundle_names(store: Path) -> list[str]:
    """Names of the bundles in ``store`` that can be read, newest first."""
    return [directory.name for directory, manifest in list_bundles(store) if isinstance(manifest, Manifest)]


def some_bundle_names(store: Path) -> list[str]:
    """``bundle_names``, at least one; InputError if the store is empty."""
    names = bundle_names(store)
    if not names:
        raise InputError(no_engine_in(store))
    return names


def no_engine_in(store: Path) -> str:
    """The message for an empty store, with the next step."""
    return f"{store}/ holds no engine; {_BUILD}"


@contextmanager
def _onnx_engine(path: Path, import_options: ImportOptions) -> Iterator[Engine]:
    try:
        from alexnet_deploy.onnx_graph.adopt import adopt
        from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, precision_in
    except ImportError as exc:
        raise UnavailableError(f"{path}: reading an ONNX file needs the onnx package; pip install onnx") from exc
    model = load_onnx(path)
    contract, precision = contract_in(model, source=str(path)), precision_in(model)
    del model  # some hundred MB, which the runner reads again itself
    if contract is not None and import_options == NO_IMPORT_OPTIONS:
        yield Engine(path.stem, path, contract, precision, None)
        return
    with TemporaryDirectory(prefix="alexnet-deploy-") as folder:
        adopted = Path(folder) / "model.onnx"
        yield Engine(path.stem, adopted, adopt(path, adopted, import_options), precision, None)
