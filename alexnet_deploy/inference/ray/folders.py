"""A folder to write into: on a disk of this machine, or in an object store (such as ``s3://``) through fsspec."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from alexnet_deploy.errors import UnavailableError, one_line
from alexnet_deploy.files import atomic_file, check_directory
from alexnet_deploy.images.remote import open_store
from alexnet_deploy.images.sources import is_address


class Folder(Protocol):
    """A flat folder of files; ``str`` of it is its name for people. All methods raise our errors."""

    def names(self) -> set[str]:
        """Names in it; none if it does not exist yet."""

    def read(self, name: str) -> bytes:
        """The content of the file ``name``."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole, or not at all."""

    def remove(self, name: str) -> None:
        """Delete a file."""


def folder_of(output: str) -> Folder:
    """The folder ``output``, a path or an address, which may not exist yet.

    Raises UsageError or UnavailableError if nothing can be written there, as far as that shows before the work.
    """
    return StoreFolder(output) if is_address(output) else LocalFolder(Path(output))


class LocalFolder:
    """A folder on a disk."""

    def __init__(self, path: Path) -> None:
        check_directory(path)
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def names(self) -> set[str]:
        """Names in it; none if it does not exist yet."""
        try:
            return set(os.listdir(self._path))
        except FileNotFoundError:
            return set()

    def read(self, name: str) -> bytes:
        """The content of the file ``name``."""
        try:
            return (self._path / name).read_bytes()
        except OSError as exc:
            raise UnavailableError(
                f"{self._path / name}: cannot be read ({exc.strerror}); check its permissions"
            ) from exc

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole, or not at all."""
        with atomic_file(self._path / name) as temporary:
            temporary.write_bytes(content)

    def remove(self, name: str) -> None:
        """Delete a file."""
        (self._path / name).unlink(missing_ok=True)


class StoreFolder:
    """A folder in an object store, where an object appears whole by itself."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        self._fs, self._path = open_store(address)
        self._path = self._path.rstrip("/")

    def __str__(self) -> str:
        return self._address

    def names(self) -> set[str]:
        """Names in it; none if it does not exist yet."""
        with self._translated("cannot be listed"):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._path, detail=False)
            except FileNotFoundError:
                return set()
        names = {path.rstrip("/").rpartition("/")[2] for path in found}
        return names - {""}

    def read(self, name: str) -> bytes:
        """The content of the file ``name``."""
        with self._translated("cannot be read"):
            return bytes(self._fs.cat_file(f"{self._path}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole, or not at all."""
        with self._translated("cannot be written"):
            self._fs.pipe_file(f"{self._path}/{name}", content)

    def remove(self, name: str) -> None:
        """Delete a file."""
        with self._translated("cannot be written"):
            self._fs.rm_file(f"{self._path}/{name}")

    @contextmanager
    def _translated(self, cause: str) -> Iterator[None]:
        try:
            yield
        except Exception as exc:  # every store has errors of its own
            raise UnavailableError(
                f"{self._address}: {cause} ({one_line(exc)}); check the address and your access"
            ) from exc
