"""A kill or an error leaves the old artifact whole, and nothing stays behind for good."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_deploy.errors import InputError, UnavailableError
from alexnet_deploy.files import atomic_directory, atomic_file, cache_folder
from alexnet_deploy.files.workspace import meant, workspace
from tests.helpers.writers import Writer, content, inside, names, put

WRITING = """
import sys
from pathlib import Path
from alexnet_deploy import files
from alexnet_deploy.files import swap
with getattr(files, sys.argv[1])(Path(sys.argv[2])) as temporary:
    part = temporary if sys.argv[1] == "atomic_file" else temporary / "model.onnx"
    with part.open("w") as stream:
        stream.write("half of the")
        stream.flush()
        print("writing", flush=True)
        sys.stdin.read()
        stream.write(" new one")
"""

REPLACING = """
import sys
from itertools import count
from pathlib import Path
from alexnet_deploy.files import atomic_directory, atomic_file
for version in count():
    with atomic_directory(Path(sys.argv[1]) / "bundle") as temporary:
        (temporary / "a").write_text(str(version % 10) * 10_000)
        (temporary / "b").write_text(str(version % 10) * 10_000)
    with atomic_file(Path(sys.argv[1]) / "file") as temporary:
        temporary.write_text(str(version % 10) * 10_000)
    print(version, flush=True)
"""

DYING_BETWEEN_TWO_RENAMES = """
import os, signal, sys
from pathlib import Path
from alexnet_deploy import files
from alexnet_deploy.files import swap
swap._exchange = lambda new, target: False
rename = os.rename
def rename_and_die(source, target):
    rename(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
with files.atomic_directory(Path(sys.argv[1])) as temporary:
    (temporary / "model.onnx").write_text("new")
    os.rename = rename_and_die
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
    assert process.returncode == -9


def start_writing(writer: Writer, path: Path) -> subprocess.Popen[str]:
    process = start(WRITING, writer.__name__, path)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def test_it_appears_whole_with_its_parents_and_replaces_the_old(tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "new" / "folders" / "artifact"
    put(path, "old", writer)
    with writer(path) as temporary:
        inside(temporary, writer).write_text("new")
        assert content(path) == "old"
    assert content(path) == "new"
    assert names(path.parent) == {"artifact"}


def test_a_file_system_that_cannot_flush_folders_takes_folders_within_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, flushed = os.fsync, []

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flushed.append(descriptor)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    with atomic_directory(tmp_path / "artifact") as folder:
        (folder / "inside").mkdir()
        (folder / "inside" / "file").write_text("new")
    assert (tmp_path / "artifact" / "inside" / "file").read_text() == "new"
    assert len(flushed) == 1


def test_a_replaced_directory_keeps_nothing_of_the_old(tmp_path: Path) -> None:
    put(tmp_path / "bundle", "old", atomic_directory)
    with atomic_directory(tmp_path / "bundle") as temporary:
        (temporary / "other").touch()
    assert names(tmp_path / "bundle") == {"other"}


@pytest.mark.parametrize("error", [InputError("x"), KeyboardInterrupt(), ZeroDivisionError()])
def test_an_error_leaves_the_old_and_no_leftover(tmp_path: Path, writer: Writer, error: BaseException) -> None:
    put(tmp_path / "artifact", "old", writer)
    with pytest.raises(type(error)), writer(tmp_path / "artifact") as temporary:
        inside(temporary, writer).write_text("new")
        raise error
    assert content(tmp_path / "artifact") == "old"
    assert names(tmp_path) == {"artifact"}


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127])
def test_a_name_as_long_as_the_file_system_allows(name: str, tmp_path: Path, writer: Writer) -> None:
    for text in ("old", "new"):
        put(tmp_path / name, text, writer)
        assert content(tmp_path / name) == text
    assert names(tmp_path) == {name}


def test_an_error_names_the_whole_of_a_long_name(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 200)
    with workspace(path) as temporary:
        assert len(temporary.parent.parent.name) < 100
        assert meant(temporary / "inside") == meant(temporary) == path


@pytest.mark.parametrize("name", ["model [1]*", "n" * 250], ids=["pattern", "long"])
def test_kill_9_leaves_the_old_and_the_next_writer_sweeps_up(name: str, tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / name  # with characters that a careless sweep would take for a pattern
    put(path, "old", writer)
    process = start_writing(writer, path)
    kill(process)
    assert content(path) == "old"
    assert len(names(tmp_path)) == 2
    put(path, "new", writer)
    assert content(path) == "new"
    assert names(tmp_path) == {path.name}


def test_a_live_writer_keeps_its_folder_and_may_finish(tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "artifact"
    process = start_writing(writer, path)
    put(path, "ours", writer)
    assert len(names(tmp_path)) == 2
    process.communicate("")
    assert process.returncode == 0
    assert content(path) == "half of the new one"
    assert names(tmp_path) == {"artifact"}


def test_the_leftover_of_an_earlier_process_with_our_number_is_in_nobodys_way(tmp_path: Path, writer: Writer) -> None:
    """In a container each run may well be process 1."""
    stale = tmp_path / f".artifact.tmp-{os.getpid()}"
    (stale / "artifact").mkdir(parents=True)
    put(tmp_path / "artifact", "new", writer)
    assert names(tmp_path) == {"artifact"}


def test_folders_that_only_look_like_leftovers_stay(tmp_path: Path) -> None:
    lookalikes = {".artifact.tmp-", ".artifact.tmp-notes", ".artifact2.tmp-99999999", "artifact.tmp-99999999"}
    for name in lookalikes:
        (tmp_path / name).mkdir()
    (tmp_path / f".artifact.tmp-{'9' * 30}").mkdir()  # a number that no process has
    put(tmp_path / "artifact", "new", atomic_file)
    assert names(tmp_path) == {"artifact", *lookalikes}


@pytest.mark.parametrize("versions", [1, 2, 3, 5, 8])
def test_kill_9_at_any_moment_leaves_one_whole_version(tmp_path: Path, versions: int) -> None:
    process = start(REPLACING, tmp_path)
    assert process.stdout is not None
    for _ in range(versions):
        process.stdout.readline()
    kill(process)  # wherever it is by now
    a, b, file = (tmp_path / name for name in ("bundle/a", "bundle/b", "file"))
    assert a.read_text() == b.read_text()
    assert len(a.read_text()) == 10_000
    assert len(file.read_text()) == 10_000


def test_whoever_has_it_open_reads_the_old_to_the_end(tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "artifact"
    put(path, "old" * 100_000, writer)
    with (path if path.is_file() else path / "model.onnx").open() as stream:
        first = stream.read(3)
        put(path, "new", writer)
        assert first + stream.read() == "old" * 100_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two names in one step")
def test_a_directory_is_exchanged_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So there is no moment without the artifact; a kill between two renames would leave one."""
    put(tmp_path / "bundle", "old", atomic_directory)
    monkeypatch.setattr(os, "rename", lambda source, target: pytest.fail("renamed, not exchanged"))
    put(tmp_path / "bundle", "new", atomic_directory)
    assert content(tmp_path / "bundle") == "new"


class TestWithoutExchange:
    """File systems and systems that cannot swap two names in one step."""

    @pytest.fixture(autouse=True)
    def _cannot(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("alexnet_deploy.files.swap._exchange", lambda new, target: False)

    def test_the_new_replaces_the_old(self, tmp_path: Path) -> None:
        put(tmp_path / "bundle", "old", atomic_directory)
        put(tmp_path / "bundle", "new", atomic_directory)
        assert content(tmp_path / "bundle") == "new"
        assert names(tmp_path) == {"bundle"}

    def test_a_refused_rename_brings_the_old_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        put(tmp_path / "bundle", "old", atomic_directory)
        rename, calls = os.rename, iter([False, True, False])

        def second_is_refused(source: Path, target: Path) -> None:
            if next(calls):
                raise PermissionError(13, "Permission denied")
            rename(source, target)

        with pytest.raises(UnavailableError), atomic_directory(tmp_path / "bundle") as temporary:
            (temporary / "model.onnx").write_text("new")
            monkeypatch.setattr(os, "rename", second_is_refused)
        assert content(tmp_path / "bundle") == "old"
        assert names(tmp_path) == {"bundle"}

    def test_after_a_kill_between_the_renames_the_next_writer_brings_the_old_back(self, tmp_path: Path) -> None:
        path = tmp_path / "bundle"
        put(path, "old", atomic_directory)
        process = start(DYING_BETWEEN_TWO_RENAMES, path)
        process.communicate()
        assert process.returncode == -9
        assert not path.exists()
        with pytest.raises(InputError), atomic_directory(path):
            raise InputError("even one that fails")
        assert content(path) == "old"
        assert names(tmp_path) == {"bundle"}


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    put(tmp_path / "disk" / "bundle", "old", atomic_directory)
    (tmp_path / "link").symlink_to("disk/bundle")
    put(tmp_path / "link", "new", atomic_directory)
    assert content(tmp_path / "disk" / "bundle") == "new"
    assert names(tmp_path) == {"disk", "link"}
    assert names(tmp_path / "disk") == {"bundle"}


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ALEXNET_DEPLOY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value, below in (
        ("HOME", "home", "home/.cache/alexnet-deploy"),
        ("XDG_CACHE_HOME", "xdg", "xdg/alexnet-deploy"),
        ("ALEXNET_DEPLOY_CACHE", "mine", "mine"),
    ):
        monkeypatch.setenv(name, str(tmp_path / value))
        assert cache_folder() == tmp_path / below


def test_a_link_to_a_file_stays_and_what_it_means_is_replaced(tmp_path: Path) -> None:
    """As ``open`` does; a rename alone would put a file in the place of the link, here on another disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/report").write_text("old")
    (tmp_path / "link").symlink_to("disk/report")
    (tmp_path / "ahead").symlink_to("disk/none yet")
    for name in ("link", "ahead"):
        with atomic_file(tmp_path / name) as temporary:
            temporary.write_text("new")
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "disk/report").read_text() == (tmp_path / "disk/none yet").read_text() == "new"
    assert names(tmp_path) == {"ahead", "disk", "link"}
    assert names(tmp_path / "disk") == {"none yet", "report"}
