"""Find the engine that a command names: a bundle by name or path, an ONNX file, or the store's newest bundle."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from alexnet_deploy.adoption.import_options import NO_IMPORT_OPTIONS, ImportOptions
from alexnet_deploy.bundle.feature_engines import refuse_features
from alexnet_deploy.bundle.listing import list_bundles
from alexnet_deploy.bundle.manifest import MANIFEST, Engine, Manifest
from alexnet_deploy.bundle.replaced import is_like, look, unreplaced
from alexnet_deploy.bundle.verified import open_bundle
from alexnet_deploy.errors import ArtifactError, InputError, ReplacedError, UnavailableError

_log = logging.getLogger(__name__)

STORE = Path("engines")
"""The default store, relative to the current folder."""
DEFAULT_ONNX = STORE / "alexnet.onnx"
"""Where ``export`` writes and ``build-engine`` reads by default."""
TEMPORARY = "alexnet-deploy-"
"""How the names of folders begin that hold an imported model while it is used."""
_BUILD = "build one: alexnet-deploy build-engine"


@contextmanager
def resolve_engine(
    name: str | None,
    store: Path,
    import_options: ImportOptions = NO_IMPORT_OPTIONS,
    *,
    verify: bool = True,
    features: bool = False,
) -> Iterator[Engine]:
    """Yield the engine that ``name`` means (None: the newest bundle of ``store``).

    An engine whose output are features is passed over, or refused (InputError), unless ``features`` accepts it.

    An ONNX of another tool is converted to our form, in a temporary folder that lasts as long as the block, and with
    ``verify`` compared with the original on photos.

    For an engine with a contract of its own ``import_options`` must be empty (UsageError).
    """
    if name is not None and name.endswith(".onnx"):
        with _onnx_engine(Path(name), import_options, verify) as engine:
            if not features:
                refuse_features(engine)
            yield engine
        return
    directory = find_bundle(name, store) if name is not None else newest_bundle(store, features=features)
    import_options.refuse_for(directory)
    engine = open_bundle(directory)
    if not features:
        refuse_features(engine)
    yield engine


def find_bundle(name: str, store: Path) -> Path:
    """The bundle directory that ``name`` means: a path, or a name in ``store``; InputError lists those there are."""
    # os.path, because Path's methods raise for a name that is too long or a folder that cannot be entered.
    for directory in (Path(name), store / name):
        if os.path.lexists(directory / MANIFEST):
            return directory
    if os.path.lexists(name) and name.endswith(".onnx"):
        raise InputError(
            f"{name}: is an ONNX file, and this takes an engine bundle (a folder with {MANIFEST}); build one from it: "
            f"alexnet-deploy build-engine {name}"
        )
    if name.endswith(".onnx") and os.path.isfile(name):
        raise InputError(
            f"{name}: is an ONNX file, and a bundle is needed; build one: alexnet-deploy build-engine {name}"
        )
    if os.path.lexists(name):
        raise InputError(f"{name}: is not an engine bundle (a folder with {MANIFEST}) or an .onnx file")
    path, at, runtime = name.rpartition("@")
    if at and (os.path.exists(path) or os.path.exists(store / path)):
        raise InputError(f"{name}: no such engine; name the engine {path} here, and {runtime} as `runtime`")
    names = bundle_names(store)
    raise InputError(f"{name}: no such engine in {store}/; " + (f"it contains {', '.join(names)}" if names else _BUILD))


def bundle_names(store: Path) -> list[str]:
    """Names of the bundles in ``store`` that can be read, newest first."""
    return [directory.name for directory, manifest in list_bundles(store) if isinstance(manifest, Manifest)]


def some_bundle_names(store: Path) -> list[str]:
    """Names of all bundles in ``store`` that name classes, newest first.

    InputError if the store is empty, ArtifactError if one of them is damaged: a result on "all bundles" that lacks one
    would look complete.
    """
    found = list_bundles(store)
    if not found:
        raise InputError(no_engine_in(store))
    for _, manifest in found:
        _refuse_damaged(manifest)
    found = [(directory, manifest) for directory, manifest in found if not _has_features(manifest)]
    if not found:
        raise InputError(_only_features_in(store))
    return [directory.name for directory, _ in found]


def newest_bundle(store: Path, *, features: bool = False) -> Path:
    """The newest bundle of ``store``, with ``features`` also one whose output are features.

    InputError without one, ArtifactError if it is damaged, as an older one would give other answers.
    """
    bundles = list_bundles(store)
    found = [(directory, manifest) for directory, manifest in bundles if features or not _has_features(manifest)]
    if not found:
        raise InputError(_only_features_in(store) if bundles else no_engine_in(store))
    directory, manifest = found[0]
    _refuse_damaged(manifest)
    return directory


def _has_features(manifest: Manifest | ArtifactError) -> bool:
    return isinstance(manifest, Manifest) and manifest.contract.features is not None


def _only_features_in(store: Path) -> str:
    return f"{store}/ holds feature engines alone, which name no class; {_BUILD}"


def _refuse_damaged(manifest: Manifest | ArtifactError) -> None:
    if isinstance(manifest, ArtifactError):
        raise ArtifactError(f"{manifest}; or name the engine to use, or move the damaged bundle out of the store")


def no_engine_in(store: Path) -> str:
    """The message for an empty store, with the next step."""
    return f"{store}/ holds no engine; {_BUILD}"


@contextmanager
def _onnx_engine(path: Path, import_options: ImportOptions, verify: bool) -> Iterator[Engine]:
    try:
        from alexnet_deploy.onnx_graph.onnx_file import contract_in, load_onnx, precision_in
    except ModuleNotFoundError as exc:
        if exc.name != "onnx":
            raise
        raise UnavailableError(f"{path}: reading an ONNX file needs the onnx package; pip install onnx") from exc
    with unreplaced(path) as seen:
        model = load_onnx(path)
        contract, precision = contract_in(model, source=str(path)), precision_in(model)
        del model  # some hundred MB, which the runner reads again itself
    if contract is not None and import_options == NO_IMPORT_OPTIONS:
        yield Engine(path.stem, path, contract, precision, None, seen=seen)
        return
    from alexnet_deploy.verification.imported import adopt_verified

    with TemporaryDirectory(prefix=TEMPORARY) as folder:
        adopted = Path(folder) / "model.onnx"
        with unreplaced(path):  # read more than once
            if not is_like(look(path), seen):
                raise ReplacedError(f"{path}: was replaced while it was read; wait until its writer is done")
            contract, notes = adopt_verified(path, adopted, import_options, verify=verify)
        for note in notes:
            _log.warning("%s: %s", path, note)
        yield Engine(path.stem, adopted, contract, precision, None)
