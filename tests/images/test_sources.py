"""Images by any name: arguments, lists, the standard input, addresses, and the parts of a set."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import DeployError, InputError, UnavailableError, UsageError
from alexnet_deploy.images import remote, sources
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.sources import Shard, Source, find_sources, load_source
from tests.helpers.photos import save_photo
from tests.helpers.repository import ROOT
from tests.helpers.weights_server import Answer, Server, serving

PRE = Preprocessing(16, 16, "stretch", None)


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with ``photos/{a,b}.jpg`` and ``photos/in/c.jpg``."""
    for seed, name in enumerate(("a", "b", "in/c")):
        save_photo(tmp_path / f"photos/{name}.jpg", (200, 60, 50), seed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, "WAIT_S", 0.0)
    return tmp_path / "photos"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        running.answers = [Answer(Path("photos/a.jpg").read_bytes())]
        yield running


def names(*images: str, **options: Any) -> list[str]:
    return [str(image) for image in find_sources(images, **options)]


def pixels(source: Path | Source) -> Any:
    out = np.zeros((16, 16, 3), np.uint8)
    load_source(source, PRE, out)
    return out


def error(source: Path | Source) -> str:
    with pytest.raises(InputError) as refused:
        pixels(source)
    return str(refused.value)


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


def test_an_address_is_an_image(server: Server) -> None:
    (source,) = find_sources([f"{server.url}/a.jpg?key=1"], allow_http=True)
    np.testing.assert_array_equal(pixels(source), load_pixels(Path("photos/a.jpg"), PRE))
    assert str(source) == f"{server.url}/a.jpg?key=1"
    with pytest.raises(UsageError, match=r"is plain http, .*; use https or `allow_http`"):
        find_sources([server.url])


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([Answer(status=404)], "the server answered HTTP 404"),
        ([Answer(status=503)], "cannot be downloaded .the server answered HTTP 503"),
        ([Answer(b"no image")], "is not an image"),
        ([Answer(b"x" * 3000)], "has more than 0 MiB"),
        ([Answer(b"x" * 3000, announce=False)], "has more than 0 MiB"),
        ([Answer(status=302, headers={"Location": "/again"})], "is redirected more than 5 times"),
        ([Answer(status=302, headers={"Location": "file:///etc/passwd"})], "redirected to something that is no web"),
        ([Answer(b"x" * 900, cut_after=50)], "cannot be downloaded"),
    ],
)
def test_a_failing_address_is_an_error_of_its_image(
    server: Server, monkeypatch: pytest.MonkeyPatch, answers: list[Answer], message: str
) -> None:
    monkeypatch.setattr(sources, "MAX_IMAGE_BYTES", 2000)
    server.answers = answers
    (source,) = find_sources([f"{server.url}/a.jpg"], allow_http=True)
    text = error(source)
    assert message.replace(".the", "(the") in text
    assert text.startswith(f"{server.url}/a.jpg: ")
    assert "\n" not in text


def test_a_server_that_sends_for_ever_is_left(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_SECONDS", 0.0)
    (source,) = find_sources([f"{server.url}/a.jpg"], allow_http=True)
    assert "takes more than 0 s" in error(source)


def test_a_server_is_left_before_it_has_sent_a_whole_block(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one that sends a byte now and then holds a thread for days: none of its silences is long enough."""
    monkeypatch.setattr(remote, "MAX_SECONDS", 0.0)
    server.answers = [Answer(cut_after=10, stalls=True)]
    (source,) = find_sources([f"{server.url}/a.jpg"], allow_http=True)
    assert "takes more than 0 s" in error(source)


def test_a_damaged_encoding_is_an_error_of_its_image(server: Server) -> None:
    server.answers = [Answer(b"no gzip", headers={"Content-Encoding": "gzip"})]
    (source,) = find_sources([f"{server.url}/a.jpg"], allow_http=True)
    assert "cannot be downloaded" in error(source)


def test_plain_http_behind_another_address_is_refused(server: Server) -> None:
    pytest.importorskip("fsspec", reason="fsspec is not installed: extra `cloud`")
    with pytest.raises(UsageError, match=r"is plain http, .*; use https or `allow_http`"):
        find_sources([f"zip://a.jpg::{server.url}/x.zip"])


def test_what_passes_is_tried_again(server: Server) -> None:
    server.answers = [Answer(status=503), Answer(Path("photos/a.jpg").read_bytes())]
    (source,) = find_sources([f"{server.url}/a.jpg"], allow_http=True)
    assert pixels(source).any()
    assert len(server.asked) == 2


def test_plain_http_in_a_list_is_an_error_of_its_line(server: Server) -> None:
    Path("list").write_text(f"{server.url}/a.jpg\nphotos/a.jpg\nnowhere9://x/y.jpg\n")
    plain, good, unknown = find_sources([], from_file=Path("list"))
    assert "is plain http" in error(plain)
    assert pixels(good).any()
    assert "no storage is known as nowhere9://" in error(unknown)


def test_a_store_by_way_of_fsspec() -> None:
    store = fsspec.filesystem("memory")
    for name in ("a.jpg", "b.JPG", "in/c.jpg", "notes.txt", ".d.jpg"):
        store.pipe(f"/bucket/{name}", Path("photos/a.jpg").read_bytes())
    try:
        assert names("memory://bucket/a.jpg") == ["memory://bucket/a.jpg"]
        assert sorted(names("memory://bucket/")) == [
            f"memory://bucket/{name}" for name in ("a.jpg", "b.JPG", "in/c.jpg")
        ]
        assert names("memory://bucket/*.jpg") == ["memory://bucket/a.jpg"]
        for source in find_sources(["memory://bucket/"]):
            np.testing.assert_array_equal(pixels(source), load_pixels(Path("photos/a.jpg"), PRE))
        (gone,) = find_sources(["memory://bucket/gone.jpg"])
        assert "memory://bucket/gone.jpg: no such file" in error(gone)
    finally:
        store.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("address", "blocked", "message"),
    [
        ("s3://bucket/a.jpg", "s3fs", "pip install s3fs"),
        ("gs://bucket/a.jpg", "gcsfs", "pip install gcsfs"),
        ("az://bucket/a.jpg", "adlfs", "pip install adlfs"),
        ("hf://datasets/a.jpg", "huggingface_hub", "pip install huggingface_hub"),
        ("s3://bucket/a.jpg", "fsspec", r"needs fsspec; pip install 'alexnet-deploy\[cloud\]'"),
        ("https://host/a.jpg", "requests", r"needs requests; pip install 'alexnet-deploy\[cloud\]'"),
    ],
)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, address: str, blocked: str, message: str) -> None:
    monkeypatch.setitem(sys.modules, blocked, None)
    with pytest.raises(UnavailableError, match=message):
        find_sources([address])


@pytest.mark.parametrize("address", ["file:///etc/passwd", "nowhere9://bucket/a.jpg"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(DeployError, match=f"^{address}: "):
        find_sources([address])
