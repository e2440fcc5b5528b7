"""Downloads against a real HTTP server on this machine: damaged, refused, too large and cached."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from pathlib import Path

import pytest
import requests
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.errors import ArtifactError, InputError, UnavailableError
from alexnet_deploy.model.weights import download as module
from alexnet_deploy.model.weights.download import CHUNK_BYTES, expected_prefix, fetch
from tests.helpers.weights_server import WEIGHTS, Answer
from tests.model.weights.conftest import NAME, OTHER, Download


def test_downloads_verifies_reports_and_leaves_only_the_file(download: Download) -> None:
    seen: list[tuple[str, int, int]] = []
    path = download(on_progress=lambda *at: seen.append(at))
    assert path == download.cache / NAME
    assert path.read_bytes() == WEIGHTS
    assert download.leftovers() == {NAME}
    assert download.server.asked[0]["path"] == f"/models/{NAME}"
    assert "range" not in download.server.asked[0]
    assert download.waits == []
    assert seen[0] == ("download", 0, len(WEIGHTS))
    assert seen[-1] == ("download", len(WEIGHTS), len(WEIGHTS))
    assert len(seen) > 3
    assert seen == sorted(seen)


def test_an_unannounced_length_is_0_in_progress(download: Download) -> None:
    download.server.answers = [Answer(announce=False)]
    totals: set[int] = set()
    assert download(on_progress=lambda stage, done, total: totals.add(total)).read_bytes() == WEIGHTS
    assert totals == {0}


def test_a_cached_file_needs_no_request_and_an_edited_one_is_downloaded_again(download: Download) -> None:
    download()
    assert download().read_bytes() == WEIGHTS
    assert len(download.server.asked) == 1
    download().write_bytes(OTHER)
    assert download().read_bytes() == WEIGHTS
    assert len(download.server.asked) == 2


def test_wrong_hash_is_removed_and_names_both(download: Download) -> None:
    download.server.answers = [Answer(body=OTHER)]
    message = download.refused(ArtifactError)
    assert hashlib.sha256(OTHER).hexdigest()[:8] in message
    assert hashlib.sha256(WEIGHTS).hexdigest()[:8] in message
    assert NAME not in download.leftovers()
    assert f"{NAME}.part" not in download.leftovers()
    download.server.answers = [Answer()]
    assert download().read_bytes() == WEIGHTS


def test_given_prefix_overrides_the_name(download: Download) -> None:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    assert download("weights.pth", sha256_prefix=digest.upper()).read_bytes() == WEIGHTS
    with pytest.raises(ArtifactError, match="expected 00000000"):
        download(NAME, sha256_prefix="00000000")


def test_connection_that_is_always_cut_is_given_up(download: Download) -> None:
    download.server.answers = [Answer(ranges=False, cut_after=CHUNK_BYTES)]
    message = download.refused(UnavailableError)
    assert "gave up after 4 tries" in message
    assert "download it by hand and pass the path" in message
    assert len(download.server.asked) == 4
    assert download.waits == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("status", [403, 404, 410])
def test_refusal_is_final(download: Download, status: int) -> None:
    download.server.answers = [Answer(status=status)]
    assert f"HTTP {status}" in download.refused(UnavailableError)
    assert len(download.server.asked) == 1
    assert download.leftovers() == set()


@pytest.mark.parametrize(
    ("status", "asked", "waited"),
    [
        *((status, None, 0.5) for status in (408, 429, 500, 503)),
        *((429, "7", 7.0), (429, "86400", 60.0), (429, "Wed, 21 Oct 2015 07:28:00 GMT", 0.5), (429, "-3", 0.5)),
    ],
)
def test_passing_trouble_is_tried_again_after_a_bounded_wait(
    download: Download, status: int, asked: str | None, waited: float
) -> None:
    headers = {} if asked is None else {"Retry-After": asked}
    download.server.answers = [Answer(status=status, headers=headers), Answer()]
    assert download().read_bytes() == WEIGHTS
    assert download.waits == [waited]


@pytest.mark.parametrize(
    ("announce", "stored"), [(True, []), (False, [0, CHUNK_BYTES])], ids=["announced", "unannounced"]
)
def test_too_large_is_refused_and_leaves_nothing(download: Download, announce: bool, stored: list[int]) -> None:
    download.server.answers = [Answer(announce=announce)]
    seen: list[int] = []
    with pytest.raises(InputError, match="larger than the 100000 bytes"):
        download(max_bytes=100_000, on_progress=lambda stage, done, total: seen.append(done))
    assert seen == stored  # the bound holds before the disk is filled, not after
    assert f"{NAME}.part" not in download.leftovers()
    assert len(download.server.asked) == 1


def test_nobody_listens(download: Download) -> None:
    download.server.url = "http://127.0.0.1:1"
    assert "Connection refused" in download.refused(UnavailableError)
    assert len(download.waits) == 3


@pytest.mark.parametrize("place", ["file:///", "http://a..b/", "http://127.0.0.1:99999/", "http://[::1/"])
def test_redirect_to_nowhere_is_refused_at_once(download: Download, place: str) -> None:
    download.server.answers = [Answer(status=302, body=b"", headers={"Location": place + NAME})]
    download.refused(UnavailableError)
    assert download.waits == []


def test_two_at_once_download_one_file_once(download: Download) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(download())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() for path in paths] == [WEIGHTS] * 4
    assert len(download.server.asked) == 1


def test_lock_that_is_never_released_ends_in_one_line(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0.0)
    download.cache.mkdir()
    with FileLock(download.cache / f"{NAME}.lock"), pytest.raises(UnavailableError, match="another process"):
        download()


def test_cache_that_cannot_be_written_names_the_variable(download: Download) -> None:
    download.cache.write_text("a file where the folder should be")
    with pytest.raises(UnavailableError, match="ALEXNET_DEPLOY_CACHE"):
        download()


@pytest.mark.parametrize(
    "url",
    [
        f"file:///etc/{NAME}",
        f"ftp://example.org/{NAME}",
        f"https:///{NAME}",
        f"https://[::1/{NAME}",
        "https://example.org/",
        "https://example.org/models/..",
        "https://example.org/..%2f.hidden-7be5be79.pth",
        "https://example.org/a%00-7be5be79.pth",
        "https://example.org/weights.pth",
        f"https://example.org/a\x1b[31m/{NAME}",
        f"https://example.org/a b/{NAME}",
        f"https://example.org/\n{NAME}",
        f"https://example.org/\u202e/{NAME}",
    ],
)
def test_unusable_address_is_refused_before_any_request(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        fetch(url, cache=tmp_path / "cache")
    assert "pass the path" in str(caught.value)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("password", ["p@ss", "p/ss", "p?ss", "p#ss", "p:ss"])
def test_messages_keep_secrets(tmp_path: Path, password: str) -> None:
    with pytest.raises(InputError) as caught:
        fetch(f"https://me:{password}@example.org/weights.pth?token=s3cret#frag", cache=tmp_path)
    assert str(caught.value).startswith("https://example.org/weights.pth: ")


def test_the_cause_of_a_failure_keeps_the_secrets_of_a_redirect(download: Download) -> None:
    for place in (
        "file://me:pass@host/x?sig=s3cret",
        "http://me:pass@[::1/x?sig=s3cret",
        "http://me:pass@a..b/?s3cret",
    ):
        download.server.answers = [Answer(status=302, body=b"", headers={"Location": place})]
        message = download.refused(UnavailableError)
        assert "pass@" not in message
        assert "s3cret" not in message


def test_plain_http_is_refused_unless_allowed(download: Download) -> None:
    with pytest.raises(InputError, match=r"is plain http, .*; use https, or add `allow_http`"):
        download(allow_http=False)
    assert download.server.asked == []
    assert download().read_bytes() == WEIGHTS


@pytest.mark.parametrize("place", ["http://example.org/x", "//example.org/x"])
def test_a_session_for_https_follows_no_redirect_to_http(place: str) -> None:
    answer = requests.Response()
    answer.status_code, answer.url = (
        302,
        "https://example.org/a" if place.startswith("http") else "http://example.org/a",
    )
    answer.headers["location"] = place
    with module._HttpsSession() as session, pytest.raises(requests.exceptions.InvalidSchema, match="plain http"):
        session.get_redirect_target(answer)


@pytest.mark.parametrize("length", ["9" * 5000, "-5", "x", "\u0665"])
def test_a_length_that_is_no_number_counts_as_unannounced(download: Download, length: str) -> None:
    download.server.answers = [Answer(announce=False, headers={"Content-Length": length})]
    seen: set[int] = set()
    with contextlib.suppress(UnavailableError):  # http.client itself refuses some of them
        assert download(on_progress=lambda stage, done, total: seen.add(total)).read_bytes() == WEIGHTS
    assert seen <= {0}


def test_a_web_page_in_place_of_the_file_is_named(download: Download) -> None:
    download.server.answers = [Answer(body=b"\n<!DOCTYPE html><title>Sign in</title>")]
    assert "the server sent a web page; SHA-256 starts with" in download.refused(ArtifactError)
    assert download.leftovers() <= {f"{NAME}.validator"}


@given(st.binary(min_size=4, max_size=32), st.sampled_from([".pth", ".pth.tar", ".safetensors"]))
def test_prefix_in_a_name_is_found(digest: bytes, suffix: str) -> None:
    assert expected_prefix(f"alex-net_2.0-{digest.hex()}{suffix}") == digest.hex()


@pytest.mark.parametrize(
    "name",
    ["alexnet.pth", "alexnet-7be5be7.pth", "alexnet-7be5be79", "7be5be79.pth", "a-7BE5BE79.pth", "a-7be5be79-v2.pth"],
)
def test_name_without_a_prefix(name: str) -> None:
    assert expected_prefix(name) is None
