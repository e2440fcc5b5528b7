"""JSON read without trust: one bounded reader for bundles, records and reports, and one for files of the user."""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from alexnet_deploy.errors import ArtifactError, InputError, UsageError, one_line
from alexnet_deploy.files import open_regular

T = TypeVar("T")
MAX_USERS_BYTES = 16 << 20
"""Largest file of names that a user gives; ImageNet's 1,000 take 30 KiB."""


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """One kind of JSON file, and how to read it.

    Its size is bounded. Its schema number is known, each field has the type that its dataclass declares, and no field
    is unknown. Anything wrong is an ArtifactError that ends in ``remedy``.
    """

    name: str
    """Name of such a file in errors."""
    schema: int
    remedy: str
    max_bytes: int = 64 << 20
    added: frozenset[str] = frozenset()
    """Fields that older files of this schema lack: they then have their default."""

    def read(self, path: Path, kind: type[T], *, computed: Mapping[str, Callable[[T], object]] | None = None) -> T:
        """``decode`` the file at ``path``; FileNotFoundError if it is missing, InputError if it cannot be read."""
        try:
            with open_regular(path) as stream:
                text = stream.read(self.max_bytes + 1)
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise InputError(f"{path}: cannot be read ({exc.strerror}); check its permissions") from exc
        return self.decode(text, kind, source=str(path), computed=computed)

    def decode(
        self,
        text: bytes | str,
        kind: type[T],
        *,
        source: str,
        computed: Mapping[str, Callable[[T], object]] | None = None,
    ) -> T:
        """Decode ``text`` into ``kind``, a dataclass or a builtin type; ``source`` names the file in errors.

        ``computed`` holds fields of the file that are not in ``kind``, with the function that computes each from the
        result: a different value shows an edit.
        """
        if len(text) > self.max_bytes:
            raise ArtifactError(f"{source}: is too large for a {self.name}; {self.remedy}")
        with self.checking(source):
            raw = decode_json(text, dict[str, Any])
            _refuse_repeated_keys(text)
        schema = raw.pop("schema", None)
        if type(schema) is not int or schema != self.schema:
            raise ArtifactError(
                f"{source}: {self.name} schema {one_line(schema, 20)}, but this version reads schema {self.schema}; "
                f"{self.remedy}, or use the alexnet-deploy that wrote it"
            )
        with self.checking(source):
            recorded = {field: raw.pop(field) for field in computed or {}}
            found = convert(raw, kind, added=self.added)
            for field, compute in (computed or {}).items():
                if recorded[field] != compute(found):
                    raise ValueError(f"{field} does not fit the rest: the file was edited")
        return found

    @contextlib.contextmanager
    def checking(self, source: str) -> Iterator[None]:
        """Turn an error about a value, raised in the block, into the ArtifactError of ``source``."""
        try:
            yield
        except KeyError as exc:
            raise ArtifactError(f"{source}: is not a valid {self.name} ({exc} is missing); {self.remedy}") from exc
        except (ValueError, TypeError, OverflowError, RecursionError, UsageError) as exc:
            raise ArtifactError(f"{source}: is not a valid {self.name} ({one_line(exc)}); {self.remedy}") from exc


def read_users_file(path: Path) -> bytes:
    """The content of a file that a user gives; ValueError above ``MAX_USERS_BYTES``, OSError if it cannot be read."""
    with open_regular(path) as stream:
        content = stream.read(MAX_USERS_BYTES + 1)
    if len(content) > MAX_USERS_BYTES:
        raise ValueError(f"it is larger than {MAX_USERS_BYTES >> 20} MiB")
    return content


def decode_json(text: bytes | str, kind: type[T]) -> T:
    """The JSON value ``text``; ValueError or RecursionError if it is not valid or of another type than ``kind``.

    A byte order mark before it, which editors on Windows write, is skipped.
    """
    import msgspec  # late: it takes 10 ms

    plain = text.removeprefix("\ufeff") if isinstance(text, str) else text.removeprefix(codecs.BOM_UTF8)
    return msgspec.json.decode(plain, type=kind)


def _refuse_repeated_keys(text: bytes | str) -> None:
    """ValueError if an object of valid JSON has a key twice: other readers may take the other value."""

    def refuse(pairs: list[tuple[str, object]]) -> None:
        keys: set[str] = set()
        for key, _ in pairs:
            if key in keys:
                raise ValueError(f"the key {one_line(repr(key), 60)} is repeated")
            keys.add(key)

    json.loads(text, object_pairs_hook=refuse)


def convert(raw: object, kind: type[T], *, added: frozenset[str] = frozenset()) -> T:
    """JSON values as ``kind``; ValueError for a value of another type, and for a field that is unknown or missing.

    A field may be missing where its default is None or empty, and where ``added`` contains its name.
    """
    import msgspec

    found = msgspec.convert(raw, kind)
    if (field := _odd_field(raw, msgspec.to_builtins(found), added)) is not None:
        raise ValueError(field)
    return found


def _odd_field(raw: object, known: object, added: frozenset[str]) -> str | None:
    """The error in the fields of the JSON value ``raw``, which msgspec read as ``known`` leniently."""
    if isinstance(raw, dict) and isinstance(known, dict):
        for key in raw.keys() - known.keys():
            return f"unknown field {key!r}"
        for key, value in known.items():
            if key not in raw and key not in added and value not in (None, (), {}):
                return f"field {key!r} is missing"
        pairs = [(value, known[key]) for key, value in raw.items()]
    elif isinstance(raw, list) and isinstance(known, list | tuple):
        pairs = list(zip(raw, known, strict=True))
    else:
        return None
    return next((odd for pair in pairs if (odd := _odd_field(*pair, added)) is not None), None)
