"""The journal: what it refuses, what it forgets, and what it survives."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.errors import ArtifactError, UnavailableError, UsageError
from alexnet_deploy.inference.journal import journal_of, open_journal
from alexnet_deploy.inference.prediction import Answer, Prediction
from tests.helpers.limits import files_of_at_most

SETTINGS = {"engine": "abc", "top_k": "5"}
ROWS = [Prediction(f"{i}.jpg", (Answer(i, "church", 0.5),), None) for i in range(6)]
ODD = Prediction(os.fsdecode(b"caf\xe9\n- \x00.jpg"), (), "cannot\nbe decoded")


def begun(path: Path, rows: list[Prediction] = ROWS) -> Path:
    """A journal as a killed run leaves it."""
    with open_journal(path, SETTINGS) as journal:
        for row in rows:
            journal.append(row)
        journal.flush()
    return path


def rows_of(path: Path, settings: dict[str, str] = SETTINGS) -> list[Prediction]:
    with open_journal(path, settings, resume=True) as journal:
        return list(journal.predictions())


def test_it_keeps_rows_of_any_name_exactly(tmp_path: Path) -> None:
    assert rows_of(begun(tmp_path / "j", [*ROWS, ODD])) == [*ROWS, ODD]


def test_a_later_try_takes_the_place_of_the_row(tmp_path: Path) -> None:
    path = begun(tmp_path / "j", [ROWS[0], ODD, ROWS[1]])
    better = Prediction(ODD.file, (Answer(1, "x", 0.1),))
    for again in (Prediction(ODD.file, (), "still not"), better):
        with open_journal(path, SETTINGS, resume=True) as journal:
            journal.append(again, 1)
            assert journal.rows == 3
            journal.flush()
    assert rows_of(path) == [ROWS[0], better, ROWS[1]]


@given(cut=st.integers(0, 900), garbage=st.binary(max_size=30))
def test_a_torn_end_is_forgotten_and_the_rest_kept(
    tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bytes
) -> None:
    path = begun(tmp_path_factory.mktemp("torn") / "j")
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    lines = path.read_bytes().count(b"\n")
    if lines:  # a power cut may leave anything behind the last flush
        with path.open("ab") as stream:
            stream.write(garbage.replace(b"\n", b""))
    assert rows_of(path) == ROWS[: max(0, lines - 1)]
    with open_journal(path, SETTINGS, resume=True) as journal:
        journal.append(ODD)
        journal.flush()
    assert rows_of(path) == [*ROWS[: max(0, lines - 1)], ODD]


def _edit(lines: list[bytes]) -> None:
    lines[2] = lines[2].replace(b"church", b"temple")


def _edit_and_sum(lines: list[bytes]) -> None:
    rest = lines[2][8:].replace(b"church", b"temple")
    lines[2] = b"%08x" % zlib.crc32(rest) + rest


def _remove(lines: list[bytes]) -> None:
    del lines[2]


def _swap(lines: list[bytes]) -> None:
    lines[2], lines[3] = lines[3], lines[2]


def _double(lines: list[bytes]) -> None:
    lines.insert(2, lines[1])


def _edit_header(lines: list[bytes]) -> None:
    lines[0] = lines[0].replace(b"abc", b"abd")


@pytest.mark.parametrize("edit", [_edit, _edit_and_sum, _remove, _swap, _double, _edit_header])
def test_an_edited_journal_is_refused(tmp_path: Path, edit: object) -> None:
    path = begun(tmp_path / "j")
    lines = path.read_bytes().splitlines(keepends=True)
    edit(lines)  # type: ignore[operator]
    path.write_bytes(b"".join(lines))
    before = path.read_bytes()
    with pytest.raises(ArtifactError, match=r"line \d was edited or damaged; keep the \d lines before it") as refused:
        rows_of(path)
    assert path.read_bytes() == before
    kept = int(str(refused.value).split("keep the ")[1].split()[0])
    path.write_bytes(b"".join(before.splitlines(keepends=True)[:kept]))
    assert rows_of(path) == ROWS[: max(0, kept - 1)], "what the message says works"


@pytest.mark.parametrize("content", [b"my notes\n", b"\x00" * 64, b'{"file": "a"}\n', b"12345678\n", b"a.jpg\nb.jpg\n"])
def test_a_file_that_is_no_journal_is_not_touched(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "j").write_bytes(content)
    for overwrite in (False, True):
        with (
            pytest.raises(ArtifactError, match="is no journal; move it"),
            open_journal(tmp_path / "j", SETTINGS, resume=not overwrite, overwrite=overwrite),
        ):
            pass
        assert (tmp_path / "j").read_bytes() == content
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(UnavailableError, match=f"{name}: "):
            rows_of(tmp_path / name)


def test_rows_are_never_discarded_unasked(tmp_path: Path) -> None:
    path = begun(tmp_path / "j")
    with pytest.raises(UsageError, match=r"keeps 6 rows .* go on with `resume`, or discard them with `overwrite`"):
        open_journal(path, SETTINGS).__enter__()
    assert rows_of(path) == ROWS
    path.write_bytes(path.read_bytes().replace(b"church", b"temple"))  # a damaged one is discarded as well
    with open_journal(path, SETTINGS, overwrite=True) as journal:
        assert journal.rows == 0
        journal.append(ODD)
        journal.flush()
    assert rows_of(path) == [ODD]


@pytest.mark.parametrize(("key", "value"), [("engine", "abd"), ("top_k", "3")])
def test_other_settings_are_named(tmp_path: Path, key: str, value: str) -> None:
    path = begun(tmp_path / "j")
    with pytest.raises(UsageError, match=f"was begun with {key} {SETTINGS[key]}, this run has {value}"):
        rows_of(path, SETTINGS | {key: value})
    assert rows_of(path) == ROWS


def test_a_journal_of_another_schema_is_not_continued(tmp_path: Path) -> None:
    path, sum_, lines = begun(tmp_path / "j"), 0, []
    for line in path.read_bytes().replace(b'{"journal": 1,', b'{"journal": 2,').splitlines(keepends=True):
        sum_ = zlib.crc32(line[8:], sum_)
        lines.append(b"%08x" % sum_ + line[8:])
    path.write_bytes(b"".join(lines))
    with pytest.raises(ArtifactError, match="has journal schema 2, this version reads 1; discard it with `overwrite`"):
        rows_of(path)
    assert path.read_bytes() == b"".join(lines)


def test_one_process_writes_it(tmp_path: Path) -> None:
    with open_journal(tmp_path / "j", SETTINGS), pytest.raises(UnavailableError, match="another process writes it"):
        rows_of(tmp_path / "j")


def test_a_full_disk_is_one_line_and_the_rows_stay(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with (
        pytest.raises(UnavailableError, match=r"keeps the rows before: free some room, then go on with `resume`$"),
        files_of_at_most(300),
        open_journal(path, SETTINGS) as journal,
    ):
        for row in ROWS:
            journal.append(row)
            journal.flush()
    kept = rows_of(path)
    assert 0 < len(kept) < len(ROWS)
    assert kept == ROWS[: len(kept)]


def test_a_run_that_fails_before_its_first_row_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), open_journal(tmp_path / "j", SETTINGS):
        raise RuntimeError("device lost")
    assert os.listdir(tmp_path) == []


def test_it_lies_beside_the_file_that_a_link_means(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there/rows")
    assert journal_of(tmp_path / "link") == tmp_path / "there/rows.journal"
