"""Files of this package: plain files read and hashed, artifacts written whole or not at all, one cache folder."""

from __future__ import annotations

from alexnet_deploy.files.atomic import atomic_directory, atomic_file, check_directory, check_file
from alexnet_deploy.files.cache import CACHE_VARIABLE, cache_folder
from alexnet_deploy.files.names import is_inside, is_text, shareable, text_path
from alexnet_deploy.files.reading import open_regular, sha256_of

__all__ = [
    "CACHE_VARIABLE",
    "atomic_directory",
    "atomic_file",
    "cache_folder",
    "check_directory",
    "check_file",
    "is_inside",
    "is_text",
    "open_regular",
    "sha256_of",
    "shareable",
    "text_path",
]
