"""Images by any name: arguments, lists, the standard input, and the parts of a set."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.images import remote
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.sources import Shard, find_sources
from tests.helpers.photos import save_photo
from tests.helpers.repository import ROOT
from tests.images.loading import PRE, error, names, pixels


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with ``photos/{a,b}.jpg`` and ``photos/in/c.jpg``."""
    for seed, name in enumerate(("a", "b", "in/c")):
        save_photo(tmp_path / f"photos/{name}.jpg", (200, 60, 50), seed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, "WAIT_S", 0.0)
    return tmp_path / "photos"


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what the standard input holds."""

    def put(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return put


def test_files_are_called_as_they_were_written_and_folders_are_walked() -> None:
    assert names("./photos/a.jpg", "photos") == [
        "./photos/a.jpg", "photos/a.jpg", "photos/b.jpg", "photos/in/c.jpg",
    ]  # fmt: skip
    assert names("photos/*.jpg") == ["photos/a.jpg", "photos/b.jpg"]
    (source,) = find_sources(["./photos/a.jpg"])
    np.testing.assert_array_equal(pixels(source), load_pixels(Path("photos/a.jpg"), PRE))


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\0"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_a_list_has_a_name_per_line_or_between_nul_bytes(separator: bytes, bom: bytes, stdin: Any) -> None:
    listed = [b"./photos/a.jpg", b"gone.jpg", b"photos/in", b"caf\xe9.jpg", b" spaces .jpg"]
    if separator == b"\0":
        listed.append(b"line\nbreak.jpg")
    data = bom + separator.join(listed) + separator
    Path("list").write_bytes(data)
    stdin(data)
    expected = ["./photos/a.jpg", "gone.jpg", "photos/in/c.jpg", *map(os.fsdecode, listed[3:])]
    assert names(from_file=Path("list")) == expected
    assert names("-") == expected
    assert names("photos/b.jpg", from_file=Path("list"))[:2] == ["photos/b.jpg", "./photos/a.jpg"]
    assert error(list(find_sources([], from_file=Path("list")))[1]).startswith("gone.jpg: no such file")


def test_a_list_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first names are there before the list has an end."""
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(reading))
    os.write(writing, b"photos/a.jpg\nphotos/b.jpg\nphotos/in/c.jpg\nphot")
    found = find_sources(["-"])
    assert [str(source) for source in islice(found, 3)] == ["photos/a.jpg", "photos/b.jpg", "photos/in/c.jpg"]
    os.write(writing, b"os/d.jpg")
    os.close(writing)
    assert [str(source) for source in found] == ["photos/d.jpg"]
    sys.stdin.close()


@pytest.mark.parametrize("format_", ["jpeg", "png", "webp", "gif", "bmp", "tiff", "ppm", "avif", "jpeg2000"])
def test_one_image_on_the_standard_input(format_: str, stdin: Any) -> None:
    data = io.BytesIO()
    Image.open("photos/a.jpg").convert("P" if format_ == "gif" else "RGB").save(data, format_)
    stdin(data.getvalue())
    (source,) = find_sources(["-"])
    assert str(source) == "-"
    Path("same").write_bytes(data.getvalue())
    np.testing.assert_array_equal(pixels(source), load_pixels(Path("same"), PRE))


@pytest.mark.parametrize("data", [b"BMW.jpg\nx.jpg\n", b"BMW.jpg\0" * 9, b"P6.jpg\n", b"GIF8.gif", b"RIFF.webp\n" * 9])
def test_names_that_look_like_the_start_of_an_image(data: bytes, stdin: Any) -> None:
    stdin(data)
    assert "-" not in names("-")


def test_lists_that_are_none(stdin: Any) -> None:
    stdin(b"x" * 100_000)
    with pytest.raises(InputError, match="a line has more than 64 KiB; is it a list of images"):
        names("-")
    stdin(b"a.jpg\n" * 60_000 + b"b\0c\n")
    with pytest.raises(InputError, match="holds a NUL byte after its first lines"):
        names("-")
    os.mkfifo("pipe")
    for path in ("pipe", "photos", "/dev/zero", "gone"):
        with pytest.raises(InputError, match=f"^`from_file` {path}: "):
            names(from_file=Path(path))
    for images, list_ in (([], None), (["-", "-"], None), (["-"], Path("-"))):
        with pytest.raises(UsageError):
            names(*images, from_file=list_)


def test_a_list_from_the_shell() -> None:
    program = (
        "import sys; from pathlib import Path; from alexnet_deploy.images.sources import find_sources; "
        "print(*find_sources([], from_file=Path(sys.argv[1])))"
    )
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -c '{program}' <(ls -d photos/*.jpg)"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "photos/a.jpg photos/b.jpg\n", done.stderr


@given(st.lists(st.text(st.characters(exclude_characters="\0"), min_size=1)), st.integers(1, 9), st.randoms())
def test_shards_are_disjoint_and_together_everything(found: list[str], count: int, rng: random.Random) -> None:
    parts = [[name for name in found if Shard(i, count).has(name)] for i in range(1, count + 1)]
    assert sorted(chain.from_iterable(parts)) == sorted(found)
    shuffled = rng.sample(found, len(found))
    for i, part in enumerate(parts, start=1):
        assert sorted(name for name in shuffled if Shard(i, count).has(name)) == sorted(part), "order plays no part"


def test_shards_are_the_same_on_every_machine_and_about_equal(tmp_path: Path) -> None:
    # Fixed here: another version or machine must choose the same images, or a set would have gaps.
    assert [i for i in range(12) if Shard(1, 3).has(f"n01/{i}.jpg")] == FIRST_OF_THREE
    assert Shard(1, 3).has("e\u0301.jpg") == Shard(1, 3).has("\xe9.jpg")
    sizes = [sum(Shard(i, 4).has(f"{n}.jpg") for n in range(4000)) for i in range(1, 5)]
    assert all(abs(size - 1000) < 150 for size in sizes)  # five standard deviations
    (tmp_path / "elsewhere").symlink_to(tmp_path / "photos")
    for i in (1, 2):
        part = [Path(name).name for name in names("photos", shard=Shard(i, 2))]
        assert [Path(name).name for name in names(f"{tmp_path}/elsewhere", shard=Shard(i, 2))] == part


FIRST_OF_THREE = [1, 3, 4, 10, 11]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "4", "-1/4", "1/4/2", "a/b", "", "1 / 4", "٣/٤"])
def test_a_part_that_does_not_exist(text: str) -> None:
    with pytest.raises(UsageError, match=r"^`shard` "):
        Shard.parse(text)
