"""The bundles of a store, sound or damaged."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from alexnet_deploy.bundle.manifest import CALIBRATION, CONFIDENCE, MANIFEST, MODEL, Manifest, load_manifest
from alexnet_deploy.bundle.verified import check_size
from alexnet_deploy.errors import ArtifactError, DeployError, InputError


def list_bundles(store: Path) -> list[tuple[Path, Manifest | ArtifactError]]:
    """Every bundle below ``store``, newest first; for one that is damaged, the error instead of the manifest.

    The content of its files is not hashed. Where the manifest cannot be read, the folder's time stands for its date.
    InputError if ``store`` exists and cannot be listed.
    """
    found: list[tuple[str, Path, Manifest | ArtifactError]] = []
    try:
        directories = sorted(store.iterdir())
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise InputError(f"{store}: cannot be listed ({exc.strerror}); name a folder of bundles as `store`") from exc
    for directory in directories:
        if directory.name.startswith(".") or not _may_be_a_bundle(directory):
            continue
        created = _changed(directory)
        try:
            manifest, files = load_manifest(directory)
            created = manifest.created
            for name, record in files.items():
                check_size(directory / name, record)
            found.append((created, directory, manifest))
        except DeployError as exc:
            found.append((created, directory, ArtifactError(str(exc))))
    return [(directory, result) for _, directory, result in sorted(found, key=lambda row: row[0], reverse=True)]


def _may_be_a_bundle(directory: Path) -> bool:
    """Whether it is a folder with a file of a bundle, or what is left of one."""
    if not os.path.isdir(directory):
        return directory.is_symlink() and not os.path.exists(directory)
    try:
        names = {entry.name for entry in directory.iterdir()}
    except OSError:
        return True  # nobody can know
    return not names.isdisjoint((MANIFEST, MODEL, CALIBRATION, CONFIDENCE)) or any(n.endswith(".plan") for n in names)


def _changed(directory: Path) -> str:
    """When a folder or its manifest was last changed, as ``Manifest.created`` has it.

    A second more, because file times are coarser: of two of the same moment the damaged one counts as the newer.
    """
    places = (directory, directory / MANIFEST)
    seconds = max((os.lstat(place).st_mtime for place in places if os.path.lexists(place)), default=0.0) + 1
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
