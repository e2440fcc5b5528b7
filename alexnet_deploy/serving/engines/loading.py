"""An engine on disk becomes one in memory: its contract, its weights and its version are of the same files."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from functools import partial

from alexnet_deploy.bundle.manifest import load_manifest
from alexnet_deploy.bundle.replaced import retried, unreplaced
from alexnet_deploy.errors import InputError
from alexnet_deploy.files import open_regular
from alexnet_deploy.inference.engine import OpenEngine, open_engine
from alexnet_deploy.serving.engines.engine import LoadedEngine
from alexnet_deploy.serving.engines.instances import open_instances
from alexnet_deploy.serving.engines.sources import ModelSource
from alexnet_deploy.serving.settings import Settings

_VERSION_DIGITS = 12  # 48 bits: enough to tell the versions of one model apart


def discard(loaded: LoadedEngine | None) -> None:
    """Release what nobody waits for any more."""
    if loaded is not None:
        loaded.instances.close()


def open_source(source: ModelSource, settings: Settings, in_use: str | None) -> LoadedEngine | None:
    """The engine on disk, warm, and its version; None if that version is ``in_use``."""
    return retried(partial(_open_once, source, settings, in_use))


def _open_once(source: ModelSource, settings: Settings, in_use: str | None) -> LoadedEngine | None:
    with ExitStack() as resources:
        # Else its contract and its weights can be of two bundles. The version alone does not show that: the first
        # bundle can be back by now.
        with unreplaced(source.path):
            version = _version(source)
            if version == in_use:
                return None
            instances = open_instances(partial(open_copy, source, settings), settings)
            resources.callback(instances.close)
            loaded = LoadedEngine(instances, version, _proof(source))
        resources.pop_all()
        return loaded


def open_copy(source: ModelSource, settings: Settings, concurrency: int) -> OpenEngine:
    """Open the engine for ``concurrency`` calls at the same time, with the options of the server."""
    return open_engine(
        source.path,
        runtime=source.runtime,
        threads=settings.threads,
        concurrency=concurrency,
        import_options=source.import_options,
        full_decode=settings.full_decode,
        tf32=settings.tf32,
        device=settings.device,
        features=None,
    )


def _proof(source: ModelSource) -> str | None:
    if not source.is_bundle:
        return None
    manifest = load_manifest(source.path)[0]
    if (features := manifest.feature_verification) is not None:
        return (
            f"when built, features with a cosine of {features.median_cosine:.4f} to those of the float model in the "
            f"median of {features.images} photos, {features.least_cosine:.4f} at least, in {features.runtime}"
        )
    if (seen := manifest.verification) is None:
        return None
    return (
        f"when built, the float model's answer on {seen.same_answers} of {seen.images} photos in {seen.runtime}, "
        f"probabilities within {seen.largest_difference_points:.2g} points"
    )


def _version(source: ModelSource) -> str:
    """The beginning of the SHA-256 of the manifest, which holds those of all files, or of the ONNX and its weights."""
    try:
        if source.is_bundle:
            with open_regular(source.watched) as stream:
                return hashlib.sha256(stream.read()).hexdigest()[:_VERSION_DIGITS]
        from alexnet_deploy.onnx_graph.weights_data import onnx_sha256

        return onnx_sha256(source.path)[:_VERSION_DIGITS]
    except OSError as exc:
        repair = "build the bundle again" if source.is_bundle else "put its files in place"
        raise InputError(f"{exc.filename or source.path}: cannot be read ({exc.strerror}); {repair}") from exc
    except ValueError as exc:
        raise InputError(f"{source.path}: {exc}; save the model with its weights beside it") from exc
