"""A place that cannot be written is one line that names it, before any work where that can be known."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from alexnet_deploy.errors import DeployError, UnavailableError, UsageError
from alexnet_deploy.files import atomic_directory, atomic_file, check_file
from tests.helpers.limits import files_of_at_most
from tests.helpers.writers import Writer, content, inside, names, put


def test_a_full_disk_is_one_line_and_leaves_the_old(tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "artifact"
    put(path, "old", writer)
    with pytest.raises(UnavailableError) as caught, writer(path) as temporary:
        part = inside(temporary, writer)
        part.symlink_to("/dev/full")  # the kernel's own full disk
        part.write_text("new")
    assert str(caught.value) == f"{path}: no room left on the disk; free some, or choose another place"
    assert content(path) == "old"
    assert names(tmp_path) == {"artifact"}


def test_a_file_too_large_for_its_file_system_is_one_line(tmp_path: Path) -> None:
    with (
        files_of_at_most(100_000),
        pytest.raises(UnavailableError, match=r"artifact: cannot be written \(File too large\); choose another place"),
        atomic_file(tmp_path / "artifact") as temporary,
    ):
        temporary.write_bytes(bytes(200_000))
    assert names(tmp_path) == set()


@pytest.mark.parametrize("place", ["/sys/artifact", "a file/artifact", "long " * 52])
def test_a_place_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Writer, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a file").touch()
    with pytest.raises(UnavailableError) as caught, writer(Path(place)):
        pytest.fail("refused only after the work")
    assert str(caught.value).startswith(f"{Path(place)}: cannot be written (")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "writer", "message"),
    [
        (".", atomic_file, "is not a plain file"),
        (os.devnull, atomic_file, "is not a plain file"),
        ("bundle", atomic_directory, "in the way"),
    ],
)
def test_a_thing_of_another_kind_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, writer: Writer, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bundle").write_text("mine")
    with pytest.raises(UnavailableError, match=message), writer(Path(place)):
        pytest.fail("refused only after the work")
    assert not Path(os.devnull).is_file()
    assert Path("bundle").read_text() == "mine"


def test_a_file_inside_a_bundle_that_cannot_be_written_is_told_as_the_bundle(tmp_path: Path) -> None:
    """The temporary path would be gone when the user looks for it."""

    def write_a_name_too_long() -> None:
        with atomic_directory(tmp_path / "bundle") as folder, atomic_file(folder / ("x" * 300)):
            pass

    with pytest.raises(UnavailableError) as caught:
        write_a_name_too_long()
    assert str(caught.value).startswith(f"{tmp_path / 'bundle'}: cannot be written (File name too long)")


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("folder.html", UsageError, "`gallery` folder.html: is not a plain file; name a file"),
        ("page.txt", UsageError, "`gallery` page.txt: does not end in one of .html, .htm; choose one"),
        ("file/page.html", UnavailableError, "`gallery` file/page.html: cannot be written (Not a directory)"),
        ("link.html", UnavailableError, "`gallery` link.html: cannot be written (Not a directory)"),
    ],
)
def test_a_target_is_checked_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[DeployError], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.html").mkdir()
    Path("file").touch()
    Path("link.html").symlink_to("file/page.html")  # a writer follows it
    with pytest.raises(error) as caught:
        check_file(Path(name), "gallery", formats=(".html", ".htm"))
    assert str(caught.value).startswith(words)
    check_file(Path("new/PAGE.HTML"), "gallery", formats=(".html", ".htm"))
    assert not Path("new").exists()
