"""The folder of parts: what is finished, what is refused, what is discarded; on a disk and in an object store."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from alexnet_deploy.errors import ArtifactError, DeployError, InputError, UnavailableError, UsageError
from alexnet_deploy.images.sources import Source
from alexnet_deploy.inference import parquet
from alexnet_deploy.inference.parquet import parquet_writer
from alexnet_deploy.inference.prediction import Answer, Prediction
from alexnet_deploy.inference.ray.folders import Folder, folder_of
from alexnet_deploy.inference.ray.output import RECORD, RunRecord, begin, part_name, refuse_missing
from alexnet_deploy.inference.ray.parts import Part, cut_into_parts

PARTS, NAMES = cut_into_parts((Source(f"{i}.jpg", Path(f"{i}.jpg")) for i in range(7)), 3)
RECORDED = RunRecord({"engine": "e", "top_k": "5"}, 7, 3, NAMES)


@pytest.fixture(params=["disk", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    if request.param == "disk":
        yield folder_of(str(tmp_path / "new/rows"))
        return
    fs = fsspec.filesystem("memory")
    yield folder_of("memory://bucket/new/rows/")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def rows_of(part: Part, failed: int = 0) -> bytes:
    sink = BytesIO()
    with parquet_writer(sink) as write:
        for i in range(part.start, part.stop):
            error = f"{i}.jpg: cannot be decoded" if i - part.start < failed else None
            write(Prediction(f"{i}.jpg", () if error else (Answer(i, "x", 0.5),), error))
    return sink.getvalue()


def write(folder: Folder, part: Part, failed: int = 0) -> None:
    folder.write(part_name(part, RECORDED), rows_of(part, failed))


def test_a_part_whose_last_group_of_rows_is_full(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP", 3)
    begin(folder, RECORDED, PARTS, resume=False, overwrite=False)
    write(folder, PARTS[0], failed=1)
    assert begin(folder, RECORDED, PARTS, resume=True, overwrite=False) == {0: 1}


def test_a_part_with_an_empty_group_of_rows(folder: Folder) -> None:
    """As earlier versions wrote it after a full one: it has no statistics."""
    begin(folder, RECORDED, PARTS, resume=False, overwrite=False)
    rows, sink = pq.read_table(BytesIO(rows_of(PARTS[0], failed=1))), BytesIO()
    with pq.ParquetWriter(sink, rows.schema) as writer:
        writer.write_table(rows)
        writer.write_table(rows[:0])
    folder.write(part_name(PARTS[0], RECORDED), sink.getvalue())
    assert begin(folder, RECORDED, PARTS, resume=True, overwrite=False) == {0: 1}


def test_a_run_goes_on_with_the_parts_that_are_missing(folder: Folder) -> None:
    assert begin(folder, RECORDED, PARTS, resume=False, overwrite=False) == {}
    write(folder, PARTS[2])
    write(folder, PARTS[0], failed=2)
    assert begin(folder, RECORDED, PARTS, resume=True, overwrite=False) == {0: 2, 6: 0}
    with pytest.raises(UnavailableError, match="lacks 1 of 3 parts; go on with `resume`"):
        refuse_missing(folder, RECORDED, PARTS)
    write(folder, PARTS[1])
    write(folder, PARTS[1])  # twice is once
    refuse_missing(folder, RECORDED, PARTS)
    rows = []
    for name in sorted(folder.names() - {RECORD}):
        rows += pq.read_table(BytesIO(folder.read(name))).to_pylist()
    assert [row["file"] for row in rows] == [f"{i}.jpg" for i in range(7)]


def test_resume_in_a_folder_without_a_run_begins_one(folder: Folder) -> None:
    assert begin(folder, RECORDED, PARTS, resume=True, overwrite=False) == {}
    assert folder.names() == {RECORD}


@pytest.mark.parametrize("content", [b"", b"no Parquet", rows_of(PARTS[0])[:-9], rows_of(PARTS[2])])
def test_a_part_that_is_damaged_or_has_other_rows_is_computed_again(folder: Folder, content: bytes) -> None:
    begin(folder, RECORDED, PARTS, resume=False, overwrite=False)
    folder.write(part_name(PARTS[0], RECORDED), content)
    assert begin(folder, RECORDED, PARTS, resume=True, overwrite=False) == {}


def test_a_run_is_neither_mixed_with_another_nor_lost(folder: Folder) -> None:
    begin(folder, RECORDED, PARTS, resume=False, overwrite=False)
    write(folder, PARTS[0])
    with pytest.raises(UsageError, match="holds 1 parts of a run; go on with `resume`, or discard them with `over"):
        begin(folder, RECORDED, PARTS, resume=False, overwrite=False)
    others = {
        "top_k 5, this run has 2": RunRecord(RECORDED.settings | {"top_k": "2"}, 7, 3, NAMES),
        "threshold None, this run has 0.3": RunRecord(RECORDED.settings | {"threshold": "0.3"}, 7, 3, NAMES),
        "images 7, this run has 8": RunRecord(RECORDED.settings, 8, 3, NAMES),
        "part_size 3, this run has 4": RunRecord(RECORDED.settings, 7, 4, NAMES),
        "7 images of other names or in another order": RunRecord(RECORDED.settings, 7, 3, "other"),
    }
    for message, other in others.items():
        assert other.fingerprint != RECORDED.fingerprint
        with pytest.raises(UsageError, match=message):
            begin(folder, other, PARTS, resume=True, overwrite=False)
    assert len(folder.names()) == 2
    other = others["top_k 5, this run has 2"]
    assert begin(folder, other, PARTS, resume=False, overwrite=True) == {}
    assert folder.names() == {RECORD}
    write(folder, PARTS[0])  # the first run was still at work
    for part in PARTS:
        folder.write(part_name(part, other), rows_of(part))
    with pytest.raises(UnavailableError, match="another run wrote parts into it"):
        refuse_missing(folder, other, PARTS)


def test_overwrite_deletes_nothing_but_a_run(folder: Folder) -> None:
    folder.write("thesis.txt", b"years of work")
    for resume, overwrite in ((False, False), (True, False), (False, True)):
        with pytest.raises(UsageError, match="is not empty, and holds no run on Ray; choose a new folder"):
            begin(folder, RECORDED, PARTS, resume=resume, overwrite=overwrite)
    assert folder.read("thesis.txt") == b"years of work"
    folder.remove("thesis.txt")
    begin(folder, RECORDED, PARTS, resume=False, overwrite=False)
    folder.write("part-of-a-thesis.parquet", b"years of work")
    begin(folder, RECORDED, PARTS, resume=False, overwrite=True)
    assert folder.names() == {RECORD, "part-of-a-thesis.parquet"}


@pytest.mark.parametrize("content", ["", "{}", '{"schema": 9}', '{"schema": 1, "settings": 5}', "[1]"])
def test_a_damaged_record_is_one_line(folder: Folder, content: str) -> None:
    folder.write(RECORD, content.encode())
    with pytest.raises(ArtifactError, match=RECORD):
        begin(folder, RECORDED, PARTS, resume=True, overwrite=False)
    begin(folder, RECORDED, PARTS, resume=False, overwrite=True)
    assert json.loads(folder.read(RECORD))["images"] == 7


def test_programs_that_read_folders_of_parquet_see_the_rows_alone(tmp_path: Path) -> None:
    folder = folder_of(str(tmp_path / "rows"))
    begin(folder, RECORDED, PARTS, resume=False, overwrite=False)
    for part in reversed(PARTS):
        write(folder, part)
    assert pq.read_table(tmp_path / "rows").column("file").to_pylist() == [f"{i}.jpg" for i in range(7)]
    assert sorted(os.listdir(tmp_path / "rows"))[0] == RECORD


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("https://example.org/rows", UsageError),
        ("file:///tmp/rows", UsageError),
        ("nowhere://x/rows", InputError),
    ],
)
def test_an_address_that_cannot_be_written_is_refused_by_its_form(address: str, error: type[DeployError]) -> None:
    with pytest.raises(error):
        folder_of(address)


def test_a_run_that_failed_before_its_first_part_holds_up_nobody(folder: Folder) -> None:
    begin(folder, RECORDED, PARTS, resume=False, overwrite=False)
    assert begin(folder, RECORDED, PARTS, resume=False, overwrite=False) == {}
