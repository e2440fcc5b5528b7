"""A download that was cut goes on where it stopped, and only where what it left is the same file."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.model.weights.download import CHUNK_BYTES
from tests.helpers.weights_server import WEIGHTS, Answer
from tests.model.weights.conftest import NAME, OTHER, Download

CUT = 2 * CHUNK_BYTES


def test_cut_connection_is_resumed_where_it_stopped(download: Download) -> None:
    download.server.answers = [Answer(cut_after=CUT), Answer()]
    seen: list[tuple[str, int, int]] = []
    assert download(on_progress=lambda *at: seen.append(at)).read_bytes() == WEIGHTS
    assert len(download.server.asked) == 2
    assert download.server.asked[1]["range"] == f"bytes={CUT}-"
    assert download.server.asked[1]["if-range"] == '"v1"'
    assert download.server.sent == [CUT, len(WEIGHTS) - CUT]
    assert ("download", CUT, len(WEIGHTS)) in seen  # the bar goes on where it was, with the size of the whole
    assert seen == sorted(seen)
    assert len(download.waits) == 1


def test_next_call_resumes_what_a_failed_one_left(download: Download) -> None:
    download.server.answers = [Answer(cut_after=CUT), Answer(status=503, body=b"", etag="")]
    download.refused(UnavailableError)
    assert download.leftovers() == {f"{NAME}.part", f"{NAME}.validator"}
    download.server.answers = [Answer()]
    assert download().read_bytes() == WEIGHTS
    assert download.server.asked[-1]["range"] == f"bytes={CUT}-"
    assert download.leftovers() == {NAME}


@pytest.mark.parametrize("second", [Answer(ranges=False), Answer(etag='"v2"')], ids=["no ranges", "another version"])
def test_whole_file_in_answer_to_a_range_starts_over(download: Download, second: Answer) -> None:
    download.server.answers = [Answer(body=WEIGHTS if not second.ranges else OTHER, cut_after=CUT), second]
    assert download().read_bytes() == WEIGHTS
    assert "range" in download.server.asked[1]
    assert download.server.sent == [CUT, len(WEIGHTS)]


@pytest.mark.parametrize(
    "answers",
    [
        [Answer(body=OTHER, cut_after=CUT), Answer(etag='"v2"', if_range=False)],
        [Answer(cut_after=CUT), Answer(range_start=CUT - 1), Answer()],
    ],
    ids=["of another version", "from another place"],
)
def test_a_range_that_does_not_fit_is_not_appended(download: Download, answers: list[Answer]) -> None:
    download.server.answers = answers
    assert download().read_bytes() == WEIGHTS
    assert ["range" in request for request in download.server.asked] == [False, True, False]


def test_server_that_sends_less_than_the_range_is_asked_on(download: Download) -> None:
    download.server.answers = [Answer(cut_after=CUT), Answer(range_bytes=CHUNK_BYTES), Answer()]
    assert download().read_bytes() == WEIGHTS
    assert download.server.asked[2]["range"] == f"bytes={CUT + CHUNK_BYTES}-"


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_validator_nothing_is_resumed(download: Download, etag: str) -> None:
    download.server.answers = [Answer(etag=etag, cut_after=CUT), Answer(etag=etag)]
    assert download().read_bytes() == WEIGHTS
    assert "range" not in download.server.asked[1]


def test_date_serves_where_there_is_no_strong_etag(download: Download) -> None:
    date = "Tue, 02 Jan 2024 03:04:05 GMT"
    dated = Answer(etag="", if_range=False, headers={"Last-Modified": date})
    download.server.answers = [replace(dated, cut_after=CUT), dated]
    assert download().read_bytes() == WEIGHTS
    assert download.server.asked[1]["if-range"] == date
    assert download.server.sent == [CUT, len(WEIGHTS) - CUT]


def leave_part(download: Download, part: bytes, validator: bytes) -> None:
    download.cache.mkdir()
    (download.cache / f"{NAME}.part").write_bytes(part)
    (download.cache / f"{NAME}.validator").write_bytes(validator)


def test_part_longer_than_the_file_is_thrown_away(download: Download) -> None:
    leave_part(download, WEIGHTS + b"more", b'"v1"')
    assert download().read_bytes() == WEIGHTS
    assert ["range" in request for request in download.server.asked] == [True, False]


def test_damaged_validator_only_costs_the_part(download: Download) -> None:
    leave_part(download, OTHER[:CUT], b"\0\xff\r\nX-Injected: 1\n")
    assert download().read_bytes() == WEIGHTS
    assert "x-injected" not in download.server.asked[0]
