"""Images behind an address: what is read, what is refused, and how long a server is waited for."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from alexnet_deploy.errors import DeployError, UnavailableError, UsageError
from alexnet_deploy.images import remote, sources
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.sources import find_sources
from tests.helpers.photos import save_photo
from tests.helpers.weights_server import Answer, Server, serving
from tests.images.loading import PRE, error, names, pixels


@pytest.fixture(autouse=True)
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder, with ``photos/a.jpg``."""
    save_photo(tmp_path / "photos/a.jpg", (200, 60, 50), 0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, "WAIT_S", 0.0)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        running.answers = [Answer(Path("photos/a.jpg").read_bytes())]
        yield running


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """By https, with a certificate of its own that is trusted here."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", *kind, *names, "-keyout", key, "-out", certificate]
    subprocess.run(make, check=True, capture_output=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(context) as running:
        yield running


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


def test_five_redirects_are_followed_and_no_sixth(server: Server) -> None:
    again, image = Answer(status=302, headers={"Location": "/again"}), Answer(Path("photos/a.jpg").read_bytes())
    (source,) = find_sources([f"{server.url}/a.jpg"], allow_http=True)
    server.answers = [*[again] * 5, image]
    assert pixels(source).any()
    server.answers = [*[again] * 6, image]
    assert "is redirected more than 5 times" in error(source)
    assert len(server.asked) == 6 + 6


def test_a_redirect_to_plain_http_is_refused_unless_it_is_allowed(secure: Server, server: Server) -> None:
    """Else whoever stands on the way would choose the picture."""
    secure.answers = [Answer(status=302, headers={"Location": f"{server.url}/b.jpg"})]
    (source,) = find_sources([f"{secure.url}/a.jpg"])
    assert "is redirected to plain http, which is not allowed" in error(source)
    assert not server.asked
    (source,) = find_sources([f"{secure.url}/a.jpg"], allow_http=True)
    np.testing.assert_array_equal(pixels(source), load_pixels(Path("photos/a.jpg"), PRE))


def test_a_certificate_that_nobody_trusts_is_refused(secure: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    (source,) = find_sources([f"{secure.url}/a.jpg"])
    assert "certificate verify failed" in error(source)
    assert not secure.asked


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


@pytest.mark.parametrize(
    "answer",
    [
        Answer(headers_end=False),
        Answer(
            b"\x1f\x8b\x08\x08" + bytes(6) + b"name", headers={"Content-Encoding": "gzip"}, announce=False, stalls=True
        ),
        Answer(cut_after=0, stalls=True),
    ],
    ids=["in its headers", "in a name in gzip", "before the body"],
)
def test_a_server_is_left_wherever_it_stands_still(
    answer: Answer, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the library reads on by itself nobody looks at the time, and single bytes are no silence."""
    monkeypatch.setattr(remote, "MAX_SECONDS", 0.4)
    server.answers = [answer]
    (source,) = find_sources([f"{server.url}/a.jpg"], allow_http=True)
    assert "takes more than 0 s" in error(source)


def test_what_ends_with_the_connection_is_no_whole_image_after_the_deadline(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "MAX_SECONDS", 0.4)
    server.answers = [Answer(Path("photos/a.jpg").read_bytes(), announce=False, stalls=True)]
    (source,) = find_sources([f"{server.url}/a.jpg"], allow_http=True)
    assert "takes more than 0 s" in error(source)


def test_a_body_that_is_cut_is_tried_again(server: Server) -> None:
    whole = Path("photos/a.jpg").read_bytes()
    server.answers = [Answer(whole, cut_after=50), Answer(whole)]
    (source,) = find_sources([f"{server.url}/a.jpg"], allow_http=True)
    assert pixels(source).any()
    assert len(server.asked) == 2


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
