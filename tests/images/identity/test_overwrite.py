"""An output is never an input."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from alexnet_deploy.errors import UsageError
from alexnet_deploy.images.identity.overwrite import refuse_to_replace, refusing_to_replace
from alexnet_deploy.images.sources import Source
from tests.helpers.photos import save_photo


@pytest.fixture(params=["same name", "other spelling", "symbolic link", "hard link", "folder link"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A file, and another name of it."""
    file = tmp_path / "in/list"
    file.parent.mkdir()
    file.write_text("a.jpg\n")
    names = {"same name": file, "other spelling": tmp_path / "in/../in/list"}
    name = names.get(request.param, tmp_path / "link")
    if request.param == "symbolic link":
        name.symlink_to(file)
    elif request.param == "hard link":
        os.link(file, name)
    elif request.param == "folder link":
        name.symlink_to(file.parent)
        name = name / "list"
    return file, name


def test_the_same_file_under_any_name(other: tuple[Path, Path]) -> None:
    for output, given in (other, other[::-1]):
        with pytest.raises(UsageError, match=r"^`output` .*: is the same file as the input "):
            refuse_to_replace(output, ["gone", "s3://x/y", "a\0b", given])
        for image in (given, Source("x", given)):
            with pytest.raises(UsageError, match=r"^`plot` .*: is the same file as the input "):
                list(refusing_to_replace([image], output, parameter="plot"))


def test_an_image_is_nobodys_output(tmp_path: Path) -> None:
    save_photo(tmp_path / "a.jpg", (1, 2, 3), 0)
    with pytest.raises(UsageError, match=r"a.jpg: is an image, which would be lost"):
        refuse_to_replace(tmp_path / "a.jpg", [])


def test_other_files_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("old")
    (tmp_path / "a").write_text("")
    images = [tmp_path / "a", Source("https://x", lambda: b""), tmp_path / "gone"]
    for output in (tmp_path / "rows", tmp_path / "new", tmp_path):
        refuse_to_replace(output, ["a", tmp_path / "a", str(tmp_path / "gone")])
        assert list(refusing_to_replace(images, output)) == images


def test_a_plot_may_be_drawn_again_unless_it_is_an_input(tmp_path: Path) -> None:
    plot = tmp_path / "photos/plot.png"
    plot.parent.mkdir()
    Figure(figsize=(1, 1)).savefig(plot)
    refuse_to_replace(plot, [tmp_path / "other"], is_picture=True)
    with pytest.raises(UsageError, match="is an image of the input"):
        refuse_to_replace(plot, [plot.parent], is_picture=True)
    with pytest.raises(UsageError, match="which would be lost"):
        refuse_to_replace(plot, [])
