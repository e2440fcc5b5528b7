"""The cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from alexnet_deploy.errors import UnavailableError

CACHE_VARIABLE = "ALEXNET_DEPLOY_CACHE"


def cache_folder() -> Path:
    """The folder for files that this package can always make or download again; it need not exist.

    $ALEXNET_DEPLOY_CACHE, or ``alexnet-deploy`` under $XDG_CACHE_HOME or ``~/.cache``. Raises UnavailableError without
    the variable and without a home directory.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "alexnet-deploy"
    try:
        return Path.home() / ".cache" / "alexnet-deploy"
    except RuntimeError as exc:
        raise UnavailableError(f"no home directory to keep a cache in; set {CACHE_VARIABLE} to a folder") from exc
