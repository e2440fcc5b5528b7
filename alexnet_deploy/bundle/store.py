"""Which engine a command means: a bundle by name or path, an ONNX file, or the store's newest bundle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from alexnet_deploy.bundle.manifest import CALIBRATION, MANIFEST, MODEL, Engine, Manifest, list_bundles, open_bundle
from alexnet_deploy.errors import InputError, UnavailableError, UsageError
from alexnet_deploy.onnx_graph.import_options import NO_IMPORT_OPTIONS, ImportOptions


@contextmanager
def resolve_engine(
    name: str | None, store: Path, import_options: ImportOptions = NO_IMPORT_OPTIONS
) -> Iterator[Engine]:
    """Yield the engine that ``name`` means (None: the newest bundle of ``store``).

    An ONNX of another tool is brought into our form in a temporary folder that lives as long as the block; for
    anything that carries its contract, ``import_options`` must be empty (UsageError).
    """
    if name is not None and name.endswith(".onnx"):
        with _onnx_engine(Path(name), import_options) as engine:
            yield engine
        return
    if import_options != NO_IMPORT_OPTIONS:
        raise UsageError(
            "--mean, --std and --labels describe an ONNX of another tool; a bundle carries its own contract"
        )
    yield open_bundle(find_bundle(name, store) if name is not None else store / some_bundle_names(store)[0])


def find_bundle(name: str, store: Path) -> Path:
    """The bundle directory that ``name`` means: a path, or a name in ``store``; InputError names what there is."""
    for directory in (Path(name), store / name):
        if (directory / MANIFEST).is_file():
            return directory
    names = bundle_names(store)
    raise InputError(f"{name}: no such engine in {store}/; " + (f"there is {', '.join(names)}" if names else _BUILD))


def bundle_names(store: Path) -> list[str]:
    """Names of the bundles in ``store`` that can be read, newest first."""
    return [directory.name for directory, manifest in list_bundles(store) if isinstance(manifest, Manifest)]


_BUILD = "build one: alexnet-deploy build-engine --fp16"


def some_bundle_names(store: Path) -> list[str]:
    """``bundle_names``, at least one; InputError says how to make the first."""
    names = bundle_names(store)
    if not names:
        raise InputError(f"{store}/ holds no engine; {_BUILD}")
    return names


def float_twin(engine: Engine, store: Path) -> str | None:
    """Name of the float32 bundle in ``store`` that ``engine``, an int8 or fp8 bundle, was quantised from, if there."""
    record = engine.onnx_path.parent / CALIBRATION
    if engine.onnx_path.name != MODEL or not record.is_file():
        return None
    from alexnet_deploy.onnx_graph.onnx_file import load_onnx
    from alexnet_deploy.precision.calibration_record import read_record
    from alexnet_deploy.precision.convert import weights_sha256

    wanted = read_record(record).weights_sha256
    for directory, manifest in list_bundles(store):
        if isinstance(manifest, Manifest) and manifest.precision == "fp32":
            model = load_onnx(directory / MODEL)
            if weights_sha256(model) == wanted:
                return directory.name
    return None


def refuse_bundle(onnx: Path, store: Path) -> None:
    """InputError where a bundle is named for a float ONNX file; it names the file that the user may have meant."""
    directory = next((folder for folder in (onnx, store / onnx) if (folder / MANIFEST).is_file()), None)
    if directory is None:
        return
    engine = open_bundle(directory)
    twin = directory if engine.precision == "fp32" else None
    if twin is None and (name := float_twin(engine, directory.parent)) is not None:
        twin = directory.parent / name
    instead = "the one that it was built from" if twin is None else twin / MODEL
    raise InputError(f"{onnx}: is an engine bundle ({engine.precision}), this takes a float32 ONNX: give {instead}")


@contextmanager
def _onnx_engine(path: Path, import_options: ImportOptions) -> Iterator[Engine]:
    try:
        from alexnet_deploy.onnx_graph.adopt import adopt
        from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, precision_in
    except ImportError as exc:
        raise UnavailableError(f"{path}: reading an ONNX file needs the onnx package; pip install onnx") from exc
    model = load_onnx(path)
    contract, precision = contract_in(model, source=str(path)), precision_in(model)
    del model  # some hundred MB that the runner reads for itself
    if contract is not None and import_options == NO_IMPORT_OPTIONS:
        yield Engine(path.stem, path, contract, precision, None)
        return
    with TemporaryDirectory(prefix="alexnet-deploy-") as folder:
        adopted = Path(folder) / "model.onnx"
        yield Engine(path.stem, adopted, adopt(path, adopted, import_options), precision, None)
