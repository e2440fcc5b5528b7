"""Files, folders and patterns become image files in a settled order; the samples are such files."""

from __future__ import annotations

import inspect
import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.find import find_images
from alexnet_deploy.images.samples import PARITY_IMAGES, parity_pixels, sample_photos
from tests.helpers.repository import ROOT


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b/2.JPG", "b/10.png", "b/notes.txt", "a.webp", "c/d/e.jpeg", ".hidden.jpg", ".git/x.png", "[1].png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(root: Path, *sources: str | Path) -> list[str]:
    return [str(path.relative_to(root)) for path in find_images(sources)]


def test_a_folder_yields_its_images_sorted_without_hidden_ones(tree: Path) -> None:
    assert names(tree, tree) == ["[1].png", "a.webp", "b/10.png", "b/2.JPG", "c/d/e.jpeg"]


def test_sources_keep_their_order_and_a_named_file_is_taken(tree: Path) -> None:
    found = names(tree, str(tree / "c"), tree / "b/notes.txt", tree / "[1].png", tree / ".hidden.jpg")
    assert found == ["c/d/e.jpeg", "b/notes.txt", "[1].png", ".hidden.jpg"]


@pytest.mark.parametrize(
    "clutter",
    [
        "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/a.jpg", "._a.jpg", "$RECYCLE.BIN/a.jpg", "lost+found/a.jpg",
        ".thumbnails/a.png", "System Volume Information/a.jpg", "#recycle/a.jpg", "Thumbs.db", ".DS_Store",
        "desktop.ini",
    ],
)  # fmt: skip
def test_what_systems_leave_beside_photos_is_nobody_s_photo(tree: Path, clutter: str) -> None:
    path = tree / "b" / clutter
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert names(tree, tree / "b") == names(tree, f"{tree}/b/**") == ["b/10.png", "b/2.JPG"]
    if path.parent != tree / "b":  # who names the folder means it
        assert names(tree, path) == names(tree, f"{path.parent}/*.[jp]*g") == [str(path.relative_to(tree))]


def test_photos_that_are_not_decoded_are_found_for_their_error(tree: Path) -> None:
    for name in ("a.heic", "b.JXL", "c.tga", "d.NEF", "e.psd", "f.svg", "g.txt", "h.xmp", "jpg"):
        (tree / "c/d" / name).touch()
    assert names(tree, tree / "c") == [f"c/d/{name}" for name in (
        "a.heic", "b.JXL", "c.tga", "d.NEF", "e.jpeg", "e.psd", "f.svg",
    )]  # fmt: skip


def test_patterns(tree: Path) -> None:
    assert names(tree, f"{tree}/b/*") == ["b/10.png", "b/2.JPG"]
    assert names(tree, f"{tree}/**") == ["[1].png", "a.webp", "b/10.png", "b/2.JPG", "c/d/e.jpeg"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("gone.jpg", "no such file"),
        ("gone/", "no such file"),
        ("", "an image source is empty"),
        ("void", "holds no image"),
        ("*.gif", "matches no image"),
    ],
)
def test_a_source_without_images_is_refused_before_any_work(tree: Path, source: str, reason: str) -> None:
    (tree / "void").mkdir()
    with pytest.raises(InputError, match=reason):
        find_images([tree, source and f"{tree}/{source}"])


def test_links_that_loop_end_and_dangling_ones_are_reported(tree: Path) -> None:
    (tree / "b/up").symlink_to(tree)
    (tree / "c/again").symlink_to(tree / "c/d")
    (tree / "lost.jpg").symlink_to(tree / "nowhere.jpg")
    (tree / "self.jpg").symlink_to(tree / "self.jpg")
    assert names(tree, tree) == [
        "[1].png",
        "a.webp",
        "b/10.png",
        "b/2.JPG",
        "c/again/e.jpeg",
        "lost.jpg",
        "self.jpg",
    ]
    (tree / "folder.jpg").symlink_to(tree / "c")
    assert names(tree, f"{tree}/*.jpg") == ["lost.jpg", "self.jpg"]  # a pattern finds them, too


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_plain_file_is_not_passed_over(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tree / "b/pipe.jpg")
    os.mkfifo(tree / "b/pipe.txt")
    (tree / "b/zero.jpg").symlink_to("/dev/zero")
    monkeypatch.chdir(tree / "b")  # the path of a socket may have some hundred bytes
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.jpg")
    expected = ["b/10.png", "b/2.JPG", "b/pipe.jpg", "b/socket.jpg", "b/zero.jpg"]
    assert names(tree, tree / "b") == expected
    assert names(tree, f"{tree}/b/*") == expected


def test_a_folder_that_cannot_be_listed_is_handed_on_for_its_error(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refusing(path: str) -> object:
        if path == str(tree / "b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert names(tree, tree) == ["[1].png", "a.webp", "b", "c/d/e.jpeg"]


def test_folders_nest_deeper_than_the_stack(tmp_path: Path) -> None:
    deepest = tmp_path.joinpath(*["d"] * 100)
    deepest.mkdir(parents=True)
    (deepest / "deep.png").touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 60)
    try:
        assert list(find_images([tmp_path])) == [deepest / "deep.png"]
    finally:
        sys.setrecursionlimit(limit)


def test_every_sample_has_a_licence() -> None:
    table = (ROOT / "samples/LICENSES.md").read_text(encoding="utf-8")
    photos = sample_photos()
    assert 8 <= len(photos) <= 16
    assert [photo.name for photo in photos if f"| `{photo.name}` |" not in table] == []
    assert {path.name for path in (ROOT / "samples").iterdir()} == {photo.name for photo in photos} | {"LICENSES.md"}


def test_the_samples_are_what_a_folder_of_photos_is() -> None:
    """Grey, transparent and turned photos are among them, so the demo runs through those paths."""
    modes = set()
    orientations = set()
    for photo in sample_photos():
        with Image.open(photo) as image:
            modes.add(image.mode)
            orientations.add(image.getexif().get(0x0112, 1))
    assert {"RGB", "L", "RGBA"} <= modes
    assert orientations == {1, 6}


def test_parity_pixels_skip_what_cannot_be_read_and_stop_at_their_number(tmp_path: Path) -> None:
    pre = Preprocessing(16, 16, "stretch", None)
    (tmp_path / "00.jpg").write_bytes(b"broken")
    for index in range(1, PARITY_IMAGES + 5):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(tmp_path / f"{index:02d}.png")
    pixels_NHWC = parity_pixels(tmp_path, pre)
    assert pixels_NHWC.shape == (PARITY_IMAGES - 1, 16, 16, 3)
    np.testing.assert_array_equal(pixels_NHWC[0], load_pixels(tmp_path / "01.png", pre))


def test_parity_needs_one_readable_image(tmp_path: Path) -> None:
    (tmp_path / "00.jpg").write_bytes(b"broken")
    with pytest.raises(InputError, match="choose other `parity_images`"):
        parity_pixels(tmp_path, Preprocessing())
