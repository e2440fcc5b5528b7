"""Only plain files are opened: nothing waits for a FIFO, and no device is touched. Names may be any bytes."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_deploy.errors import InputError
from alexnet_deploy.files import open_regular, sha256_of, text_path


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "it is a FIFO, not a plain file"),
        (_socket, "it is a socket, not a plain file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a plain file"),
        (Path.mkdir, "Is a directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: None, "No such file or directory"),
    ],
    ids=["fifo", "socket", "device", "folder", "loop", "missing"],
)
@pytest.mark.parametrize("read", [open_regular, sha256_of])
def test_what_is_no_plain_file_is_refused_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    words: str,
    read: Callable[[Path], object],
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket has at most 107 bytes
    make(Path("it"))
    with pytest.raises(OSError, match=re.escape(words)) as caught:
        read(Path("it"))
    assert caught.value.filename in ("it", Path("it"))


def test_a_file_that_becomes_a_fifo_between_the_looks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it"
    path.touch()
    stat = os.stat

    def replace_after(*args: object) -> os.stat_result:
        found = stat(path)
        path.unlink()
        os.mkfifo(path)
        monkeypatch.undo()
        return found

    monkeypatch.setattr(os, "stat", replace_after)
    with pytest.raises(OSError, match="it is a FIFO"):
        open_regular(path)


def test_a_plain_file_is_read_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link") as stream:
        assert stream.read() == b"content"


@pytest.mark.parametrize(
    ("folder", "name"), [(b"caf\xe9", b"m.onnx"), (b"cafe", b"caf\xe9.onnx"), (b"a", b"m.caf\xe9")]
)
def test_a_name_of_any_bytes_has_a_text_name_for_a_while(tmp_path: Path, folder: bytes, name: bytes) -> None:
    path = tmp_path / os.fsdecode(folder) / os.fsdecode(name)
    path.parent.mkdir()
    path.write_text("content")
    (path.parent / "weights").write_text("beside")
    with text_path(path) as text:
        text.encode()
        assert Path(text).read_text() == "content"
        if name == b"m.onnx":
            assert Path(text).with_name("weights").read_text() == "beside"
    assert not Path(text).exists()
    with text_path(tmp_path / "plain") as text:
        assert text == str(tmp_path / "plain")


def test_a_temporary_folder_without_a_text_name_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / os.fsdecode(b"caf\xe9")
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    with (
        pytest.raises(InputError, match=r"caf\\udce9/m: its name is not valid Unicode; rename"),
        text_path(place / "m"),
    ):
        pass
