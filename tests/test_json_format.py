"""JSON files of ours are read without trusting them: whatever is wrong is one line with the next step."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta

from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.json_format import JsonFormat, decode_json, read_users_file


@dataclass(frozen=True)
class Layer:
    name: str
    share: Annotated[float, Meta(ge=0)]


@dataclass(frozen=True)
class Sheet:
    kind: Literal["a", "b"]
    layers: tuple[Layer, ...]
    sizes: dict[str, int]
    note: str | None = None

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("a sheet has layers")


FORMAT = JsonFormat("sheet", 3, "make it again")
SHEET = Sheet("a", (Layer("conv", 1), Layer("fc", 0.5)), {"fc": 4})
COUNT: dict[str, Callable[[Sheet], object]] = {"count": lambda sheet: len(sheet.layers)}


def raw() -> dict[str, Any]:
    return {"schema": 3, "count": 2} | asdict(SHEET)


def decode(content: object) -> Sheet:
    return FORMAT.decode(json.dumps(content), Sheet, source="x.json", computed=COUNT)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(raw()))
    assert FORMAT.read(path, Sheet, computed=COUNT) == SHEET
    assert decode({key: value for key, value in raw().items() if key != "note"}) == SHEET  # None says nothing


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda raw: raw.update(more=1), "unknown field 'more'"),
        (lambda raw: raw["layers"][1].update(more=1), "unknown field 'more'"),
        (lambda raw: raw.pop("kind"), "missing required field 'kind'"),
        (lambda raw: raw.pop("count"), "'count' is missing"),
        (lambda raw: raw.update(count=3), "count does not fit the rest"),
        (lambda raw: raw.update(kind="c"), "Invalid enum value 'c'"),
        (lambda raw: raw.update(note=1), "Expected 'str | null', got 'int'"),
        (lambda raw: raw.update(layers=[], count=0), "a sheet has layers"),
        (lambda raw: raw["layers"][0].update(share=-1), "Expected 'float' >= 0.0 - at '$.layers[0].share'"),
        (lambda raw: raw["layers"][0].update(share=True), "Expected 'float', got 'bool'"),
        (lambda raw: raw["layers"][0].update(share="1"), "Expected 'float', got 'str'"),
        (lambda raw: raw["sizes"].update(fc=1.5), "Expected 'int', got 'float'"),
        (lambda raw: raw["layers"][0].update(name="\ud800"), "malformed"),
        (lambda raw: raw["sizes"].update(fc=float("nan")), "malformed"),
        (lambda raw: raw.update(schema=2), "sheet schema 2, but this version reads schema 3; make it"),
        (lambda raw: raw.update(schema=True), "sheet schema True"),
        (lambda raw: raw.update(schema=3.0), "sheet schema 3.0"),
        (lambda raw: raw.pop("schema"), "sheet schema None"),
    ],
)
def test_a_field_that_is_not_right(change: Callable[[dict[str, Any]], object], cause: str) -> None:
    content = raw()
    change(content)
    with pytest.raises(ArtifactError) as caught:
        decode(content)
    message = str(caught.value)
    assert message.startswith("x.json: ")
    assert cause in message
    assert "; make it again" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff\xfe", b"[]", b'"schema"', b"null", b"9" * 5000, b"[" * 100_000, b'{"a":' * 100_000, b'{"schema": 3'],
)
def test_what_is_no_json_object(text: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"^x.json: is not a valid sheet \([^\n]+\); make it again$"):
        FORMAT.decode(text, Sheet, source="x.json")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (b'{"schema": 3, "schema": 3}', "the key 'schema' is repeated"),
        (b'{"schema": 3, "layers": [{"name": "a", "name": "b"}]}', "the key 'name' is repeated"),
        (rb'{"schema": 3, "k\u0069nd": "a", "kind": "b"}', "the key 'kind' is repeated"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "out of range"),
        (b'{"schema": 1e999}', "out of range"),
        (b'{"schema": -Infinity}', "malformed"),
        (b'{"schema": 3, "kind": "caf\xe9"}', "decode byte 0xe9"),
        (b'{"schema": 3, "kind": "a\x1b"}', "malformed"),
    ],
)
def test_what_other_readers_may_read_differently(text: bytes, cause: str) -> None:
    with pytest.raises(ArtifactError, match=r"^x.json: is not a valid sheet") as caught:
        FORMAT.decode(text, Sheet, source="x.json", computed=COUNT)
    assert cause in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_byte_order_mark_is_skipped() -> None:
    """Editors on Windows write one."""
    text = json.dumps(raw()).encode("utf-8-sig")
    assert FORMAT.decode(text, Sheet, source="x.json", computed=COUNT) == SHEET
    assert decode_json(text, dict)["schema"] == 3


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["fifo", "device"])
def test_a_file_that_never_ends_is_not_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x.json")
    with pytest.raises(InputError, match=r"x.json: cannot be read \(it is a (FIFO|device), not a plain file\)"):
        FORMAT.read(tmp_path / "x.json", Sheet)
    with pytest.raises(OSError, match="not a plain file"):
        read_users_file(tmp_path / "x.json")


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("wb") as stream:
        stream.truncate(FORMAT.max_bytes + 1)
    with pytest.raises(ArtifactError, match=r"x.json: is too large for a sheet; make it again"):
        FORMAT.read(path, Sheet)


def test_a_missing_file_is_the_callers_business_and_another_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FORMAT.read(tmp_path / "none.json", Sheet)
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\); check its permissions"):
        FORMAT.read(tmp_path, Sheet)
