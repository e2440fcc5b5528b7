"""A folder that fills: each image once, when it is complete."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexnet_deploy.errors import InputError
from alexnet_deploy.images.sources import Shard
from alexnet_deploy.images.watch import watch_folder

LONG_AGO = (1_000_000_000, 1_000_000_000)


class Watcher:
    """Reads one round at a call: the names of the images that it yields."""

    def __init__(self, folder: Path, shard: Shard | None = None) -> None:
        self.folder, self.stop = folder, threading.Event()
        self.rounds: Iterator[Iterator[Path]] = watch_folder(folder, self.stop, shard=shard, poll_s=0)

    def __call__(self) -> list[str]:
        return [str(path.relative_to(self.folder)) for path in next(self.rounds)]


@pytest.fixture
def watcher(tmp_path: Path) -> Watcher:
    return Watcher(tmp_path)


def put(path: Path, content: bytes = b"photo") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_new_file_is_yielded_once_when_it_stays_as_it_is(watcher: Watcher, tmp_path: Path) -> None:
    assert watcher() == []
    put(tmp_path / "a.jpg")
    put(tmp_path / "notes.txt")
    assert watcher() == []
    put(tmp_path / "deep/b.jpg")
    assert watcher() == ["a.jpg"]
    assert watcher() == ["deep/b.jpg"]
    put(tmp_path / "a.jpg", b"another one")
    assert [watcher() for _ in range(3)] == [[], [], []]


def test_a_file_that_grows_waits(watcher: Watcher, tmp_path: Path) -> None:
    for size in range(4):
        put(tmp_path / "a.jpg", b"x" * size)
        assert watcher() == []
    assert watcher() == ["a.jpg"]


def test_an_empty_file_waits_for_its_content(watcher: Watcher, tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", b"")
    assert [watcher() for _ in range(3)] == [[], [], []]
    os.utime(tmp_path / "a.jpg", LONG_AGO)
    assert watcher() == ["a.jpg"], "its row says that it is empty"


def test_what_was_there_long_ago_does_not_wait(watcher: Watcher, tmp_path: Path) -> None:
    os.utime(put(tmp_path / "a.jpg"), LONG_AGO)
    assert watcher() == ["a.jpg"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell whether a file is being written")
def test_a_file_that_is_open_to_write_waits_however_still_it_is(watcher: Watcher, tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as stream:
        stream.write(b"half of it")
        stream.flush()
        assert [watcher() for _ in range(4)] == [[]] * 4
    assert watcher() == ["a.jpg"]


def test_renames_removals_and_links_do_no_harm(watcher: Watcher, tmp_path: Path) -> None:
    put(tmp_path / "a.tmp").rename(tmp_path / "a.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "later")
    put(tmp_path / "b.jpg")
    assert watcher() == []
    (tmp_path / "b.jpg").unlink()
    assert watcher() == ["a.jpg"]
    put(tmp_path / "later")
    watcher()
    assert watcher() == ["link.jpg"]


def test_a_stop_ends_a_round_and_the_watch(watcher: Watcher, tmp_path: Path) -> None:
    for name in "abc":
        os.utime(put(tmp_path / f"{name}.jpg"), LONG_AGO)
    images = next(watcher.rounds)
    assert next(images).name == "a.jpg"
    watcher.stop.set()
    assert list(images) == []
    assert list(watcher.rounds) == []


def test_a_part_of_a_folder(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(9)]
    for name in names:
        os.utime(put(tmp_path / name), LONG_AGO)
    parts = [Watcher(tmp_path, Shard(i, 2))() for i in (1, 2)]
    assert sorted(parts[0] + parts[1]) == names
    assert parts[0] == [name for name in names if Shard(1, 2).has(name)]


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone: is no folder to watch"):
        Watcher(tmp_path / "gone")()
