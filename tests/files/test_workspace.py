"""Locks distinguish the workspaces: across processes, containers and kills, each writer keeps its own."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from alexnet_deploy.errors import InputError
from alexnet_deploy.files import atomic_directory, atomic_file, check_directory, swap

# Writes a directory of two files, waiting for a line on its standard input before each.
STEPWISE = """
import sys
from pathlib import Path
from alexnet_deploy.files import atomic_directory
path, text = Path(sys.argv[1]), sys.argv[2]
with atomic_directory(path) as folder:
    for name in ("a", "b"):
        print(name, flush=True)
        sys.stdin.readline()
        (folder / name).write_text(text)
"""

AT_ONCE = """
import sys
from pathlib import Path
from alexnet_deploy.files import atomic_directory, swap
if sys.argv[3] == "rename":
    swap._exchange = lambda new, target: False
for _ in range(40):
    with atomic_directory(Path(sys.argv[1])) as folder:
        for name in ("a", "b"):
            (folder / name).write_text(sys.argv[2])
"""

DYING_WHILE_DELETING = """
import errno, os, signal, sys
from pathlib import Path
from alexnet_deploy.files import atomic_directory, swap
target, step = Path(sys.argv[1]), int(sys.argv[2])
swap._exchange = lambda new, target: False
steps = iter(range(100))

def refusing(function, *, rename=False):
    def call(self, *args, **kwargs):
        if rename and Path(self) == target:  # as in a lower layer of an overlay
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        if next(steps) == step:
            os.kill(os.getpid(), 9)
        return function(self, *args, **kwargs)
    return call

with atomic_directory(target) as folder:
    for name in ("a", "b"):
        (folder / name).write_text("new")
    Path.unlink, Path.rmdir, Path.touch = map(refusing, (Path.unlink, Path.rmdir, Path.touch))
    os.rename = refusing(os.rename, rename=True)
"""


def start(script: str, *arguments: object, wrap: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*wrap, sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def contents(path: Path) -> set[str]:
    return {file.read_text() for file in path.iterdir()}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def go_on(process: subprocess.Popen[str]) -> str:
    """The name of the step that ``process`` waits at, after the one it waited at."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


def write_side_by_side(path: Path, wrap: tuple[str, ...] = ()) -> None:
    first, second = start(STEPWISE, path, "first", wrap=wrap), start(STEPWISE, path, "second", wrap=wrap)
    assert first.stdout is not None
    assert second.stdout is not None
    assert first.stdout.readline() == second.stdout.readline() == "a\n"
    assert len(names(path.parent)) == 2, "each has a workspace"
    assert go_on(first) == go_on(second) == "b\n"
    for process, text in ((second, "second"), (first, "first")):
        process.communicate("\n")
        assert process.returncode == 0
        assert contents(path) == {text}, "the last one to finish wins, as a whole"
    assert names(path.parent) == {path.name}


def test_two_writers_at_the_same_time_write_two_whole_directories(tmp_path: Path) -> None:
    write_side_by_side(tmp_path / "bundle")


def test_two_containers_on_one_volume_are_two_writers(tmp_path: Path) -> None:
    """Each is process 1 of its own process namespace, and sees nothing of the other."""
    wrap = ("unshare", "-p", "-f", "--mount-proc")
    if shutil.which("unshare") is None or subprocess.run([*wrap, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a process namespace")
    write_side_by_side(tmp_path / "bundle", wrap)


@pytest.mark.parametrize("how", ["exchange", "rename"])
def test_writers_that_swap_at_the_same_moment_all_succeed(tmp_path: Path, how: str) -> None:
    path = tmp_path / "bundle"
    processes = [start(AT_ONCE, path, text, how) for text in ("one", "two", "three")]
    errors = [process.communicate()[1] for process in processes]  # of all, before one fails: no pipe stays open
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert len(contents(path)) == 1
    assert names(path) == {"a", "b"}
    assert names(tmp_path) == {"bundle"}


def test_a_directory_that_comes_and_goes_is_never_taken_for_a_file(tmp_path: Path) -> None:
    """What another writer's swap by two renames looks like to one that begins."""
    path, aside, done = tmp_path / "bundle", tmp_path / "aside", threading.Event()
    path.mkdir()

    def rename_to_and_fro() -> None:
        while not done.is_set():
            path.rename(aside)
            aside.rename(path)

    other = threading.Thread(target=rename_to_and_fro)
    other.start()
    try:
        for _ in range(2000):
            check_directory(path)
    finally:
        done.set()
        other.join()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_the_workspace_of_a_killed_writer_is_swept_by_the_next(tmp_path: Path, sent: signal.Signals) -> None:
    path = tmp_path / "bundle"
    process = start(STEPWISE, path, "lost")
    assert process.stdout is not None
    process.stdout.readline()
    assert go_on(process) == "b\n"
    process.send_signal(sent)
    process.communicate()
    assert process.returncode == -sent
    assert len(names(tmp_path)) == 1
    with atomic_directory(path) as folder:
        (folder / "a").write_text("next")
    assert names(tmp_path) == {"bundle"}


@pytest.mark.parametrize("step", range(7))
def test_a_directory_that_cannot_be_renamed_is_replaced_and_a_kill_is_repaired(tmp_path: Path, step: int) -> None:
    """As in a lower layer of an overlay, where ``rename`` fails with EXDEV. Step 6 is the last: the rename itself."""
    path = tmp_path / "bundle"
    with atomic_directory(path) as folder:
        for name in ("a", "b"):
            (folder / name).write_text("old")
    process = start(DYING_WHILE_DELETING, path, step)
    _, error = process.communicate()
    assert process.returncode == -signal.SIGKILL, error
    with pytest.raises(InputError), atomic_directory(path):
        raise InputError("even a writer that fails repairs")
    assert contents(path) == ({"old"} if step < 2 else {"new"})
    assert names(path) == {"a", "b"}
    assert names(tmp_path) == {"bundle"}


def test_what_the_user_put_there_after_the_kill_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    with atomic_directory(path) as folder:
        (folder / "a").write_text("old")
    start(DYING_WHILE_DELETING, path, 3).communicate()
    shutil.rmtree(path)
    path.mkdir()
    (path / "mine").write_text("mine")
    with pytest.raises(InputError), atomic_directory(path):
        raise InputError("stop")
    assert names(path) == {"mine"}


def test_without_renaming_the_new_replaces_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rename = tmp_path / "bundle", os.rename
    with atomic_directory(path) as folder:
        (folder / "a").write_text("old")

    def refused(source: Path, target: Path) -> None:
        if source == path:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target)

    monkeypatch.setattr(swap, "_exchange", lambda new, target: False)
    monkeypatch.setattr(os, "rename", refused)
    with atomic_directory(path) as folder:
        (folder / "b").write_text("new")
    assert names(path) == {"b"}
    assert names(tmp_path) == {"bundle"}


def test_without_locks_a_writer_works_and_sweeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network file system without a lock server: a leftover cannot be told from a writer that lives."""

    def refused(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    leftover = tmp_path / ".artifact.tmp-abcdefgh"
    leftover.mkdir()
    for text in ("old", "new"):
        with atomic_file(tmp_path / "artifact") as temporary:
            temporary.write_text(text)
    assert (tmp_path / "artifact").read_text() == "new"
    assert leftover.exists()


def test_a_link_that_looks_like_a_workspace_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / ".artifact.tmp-abcdefgh").symlink_to("mine")
    with atomic_file(tmp_path / "artifact") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == {"artifact", "mine", ".artifact.tmp-abcdefgh"}
    assert names(tmp_path / "mine") == set()


def test_an_error_leaves_no_folder_that_was_made_for_the_artifact(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "engines/of/bundle", tmp_path / "there/bundle"):
        with pytest.raises(InputError), atomic_directory(path):
            raise InputError("no such ONNX file")
    assert names(tmp_path) == {"there"}
    with atomic_directory(tmp_path / "engines/of/bundle"):
        pass
    assert (tmp_path / "engines/of/bundle").is_dir()
