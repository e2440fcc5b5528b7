"""Limits and overload: refused at once and in one line, and the next request is answered as before."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from PIL import Image

from alexnet_deploy.serving.http.limits import MAX_HEADER_BYTES
from alexnet_deploy.serving.protocol.messages import METHODS
from tests.serving.running import PATIENCE_S, Response, Server, answers, serving, start
from tests.serving.test_classify import form

MAX_BODY = 200_000


@pytest.fixture(scope="module")
def limited(workplace: Path) -> Iterator[Server]:
    """Room for little: two waiting images, one decoder, short patience."""
    limits = ("--max-queue", 2, "--max-images", 2, "--workers", 1, "--max-pixels", 30_000_000, "--idle", "300ms")
    sizes = ("--max-body", f"{MAX_BODY}B", "--max-memory", f"{2 * MAX_BODY}B", "--max-connections", 100)
    with serving(workplace, "exact", *limits, *sizes) as running:
        yield running


def test_more_than_the_queue_holds_is_refused_with_the_time_to_come_again(
    limited: Server, large_image: bytes, photo: bytes
) -> None:
    together = threading.Barrier(12)

    def ask(_: int) -> Response:
        together.wait()
        return limited.ask("POST", "/classify", large_image)

    with ThreadPoolExecutor(12) as pool:
        got = list(pool.map(ask, range(12)))
    counts = Counter(response.status for response in got)
    assert counts.keys() == {200, 503}, counts
    assert counts[200] >= 2
    for response in got:
        if response.status == 503:
            assert response.headers["retry-after"] == "1"
            assert "queue is full" in response.error or "take all memory" in response.error
        else:
            assert response.json()[0]["error"] is None
    answers(limited, photo)
    assert limited.metric("queue_images") == 0
    assert limited.metric("body_bytes") == 0


def test_grpc_refuses_what_the_queue_does_not_hold(limited: Server, large_image: bytes) -> None:
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [large_image]}}
    limited.call("ServerReady")

    def ask(_: int) -> str:
        try:
            limited.call("ModelInfer", model_name="exact", inputs=[image])
        except grpc.RpcError as exc:
            return str(exc.code().name)
        return "OK"

    with ThreadPoolExecutor(12) as pool:
        codes = Counter(pool.map(ask, range(12)))
    assert codes.keys() == {"OK", "RESOURCE_EXHAUSTED"}, codes


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
def test_a_body_above_the_limit_is_refused(limited: Server, photo: bytes, declared: bool) -> None:
    with limited.raw() as connection:
        if declared:
            connection.sendall(f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n".encode())
        else:
            connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            connection.sendall(f"{MAX_BODY + 1:x}\r\n".encode() + b"x" * (MAX_BODY + 1) + b"\r\n0\r\n\r\n")
        assert b"413" in connection.recv(1 << 16)
    answers(limited, photo)


def test_a_grpc_message_above_the_limit_is_refused(limited: Server) -> None:
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [b"x" * MAX_BODY]}}
    with pytest.raises(grpc.RpcError) as refused:
        limited.call("ModelInfer", model_name="exact", inputs=[image])
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_too_many_images_are_refused(limited: Server, photo: bytes) -> None:
    body, headers = form([("a.jpg", photo[:100])] * 3)
    answer = limited.ask("POST", "/classify", body, headers)
    assert answer.status == 400
    assert "more than 2 files" in answer.error
    pixels = {"name": "image", "datatype": "BYTES", "shape": [3], "data": ["", "", ""]}
    answer = limited.infer("exact", {"inputs": [pixels]})
    assert answer.status == 413
    assert "3 images, above this server's 2" in answer.error


def test_an_image_with_too_many_pixels_is_its_own_error(limited: Server, photo: bytes) -> None:
    stream = io.BytesIO()
    Image.new("L", (6000, 5001)).save(stream, "PNG")
    body, headers = form([("big.png", stream.getvalue()), ("good.jpg", photo)])
    big, good = limited.ask("POST", "/classify", body, headers).json()
    assert big["error"] == "big.png: has 6000 x 5001 pixels, above the limit of 30000000; scale it down first"
    assert good["error"] is None


@pytest.mark.parametrize("headers", [b"X: " + b"y" * MAX_HEADER_BYTES, b"\r\n".join([b"a: b"] * 10_000)])
def test_large_headers_are_refused(limited: Server, photo: bytes, headers: bytes) -> None:
    with limited.raw() as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n" + headers)
        assert b" 431 " in connection.recv(1 << 16)
    answers(limited, photo)


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET /v2 HTTP/1.1\r\nHos",
        b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc",
        b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
    ids=["nothing", "headers", "body", "chunks"],
)
def test_a_client_that_stops_is_cut_off(limited: Server, photo: bytes, begun: bytes) -> None:
    with limited.raw() as connection:
        connection.sendall(begun)
        received = b""
        try:
            while piece := connection.recv(1 << 16):
                received += piece
                if b"\r\n\r\n" in received:
                    break
        except ConnectionResetError:
            pass
        assert received == b"" or b" 408 " in received
    answers(limited, photo)


@pytest.mark.parametrize(
    ("length", "piece"),
    [(b"Content-Length: 1000000000", b"x"), (b"Transfer-Encoding: chunked", b"1\r\nx\r\n")],
    ids=["declared", "chunked"],
)
def test_a_client_that_goes_on_after_its_refusal_is_cut_off(
    limited: Server, photo: bytes, length: bytes, piece: bytes
) -> None:
    with limited.raw() as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n")
        assert b" 404 " in connection.recv(1 << 16)
        with pytest.raises(ConnectionError):
            for _ in range(10_000_000):  # the patience of this server ends after some ten thousand
                connection.sendall(piece)
    answers(limited, photo)


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00", b"GET /%zz HTTP/1.1\r\n\r\n", b"G\0T / HTTP/1.1\r\n\r\n", b"\xff" * 64]
)
def test_bytes_that_are_no_http_get_400(limited: Server, photo: bytes, sent: bytes) -> None:
    with limited.raw() as connection:
        connection.sendall(sent)
        assert b" 4" in connection.recv(1 << 16)[:20]
    answers(limited, photo)


def test_a_client_that_leaves_frees_its_place(limited: Server, large_image: bytes, photo: bytes) -> None:
    head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(large_image)}\r\n\r\n".encode()
    for _ in range(2):  # the decoder is busy with the first for longer than this takes
        with limited.raw() as connection:
            connection.sendall(head + large_image)
    while limited.metric("queue_images"):
        pass
    answers(limited, photo)
    assert limited.metric("body_bytes") == 0


def test_a_deadline_is_504(workplace: Path, large_image: bytes) -> None:
    with serving(workplace, "exact", "--timeout", "20ms") as server:
        answer = server.ask("POST", "/classify", large_image)
        assert answer.status == 504
        assert answer.error == "no answer within 0.02 s; try again later"
        image = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [large_image]}}
        with pytest.raises(grpc.RpcError) as late:
            server.call("ModelInfer", model_name="exact", inputs=[image])
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        never = threading.Event()
        silent = server.method("ModelInfer", "stream_unary").future(iter(never.wait, True), timeout=PATIENCE_S)
        assert silent.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "arrive too slowly" in silent.details()
        never.set()
        assert server.call("ModelMetadata", name="exact").name == "exact"  # its turn has gone to others


def test_grpc_messages_are_bounded_together(workplace: Path) -> None:
    """All arrive at the same time; the server asks for them one after the other."""
    size, limit = 7 << 20, 16 << 20
    with serving(workplace, "exact", "--max-body", "8MiB", "--max-memory", f"{limit}B") as server:
        image = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [bytes(size)]}}
        call = server.method("ModelInfer")
        request = METHODS["ModelInfer"][0](model_name="exact", inputs=[image])
        before = server.peak_bytes()
        calls = [call.future(request, timeout=PATIENCE_S) for _ in range(60)]
        codes = Counter(one.code().name for one in calls)
        assert codes.keys() <= {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}, codes  # zeros are no image
        assert codes["INVALID_ARGUMENT"]
        # Three copies while a message is taken apart, two more of one that is read; beside 60 windows of 64 KiB. Where
        # all are read at once, and where refusals keep them until Python collects circles, it was 75 x.
        assert server.peak_bytes() - before < 6 * limit + (60 << 16)
        assert server.metric("body_bytes") == 0


def test_a_grpc_client_that_leaves_frees_its_place(limited: Server, large_image: bytes) -> None:
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [large_image]}}
    request = METHODS["ModelInfer"][0](model_name="exact", inputs=[image])
    calls = [limited.method("ModelInfer").future(request) for _ in range(2)]
    while not limited.metric("queue_images"):
        pass
    for call in calls:
        call.cancel()
    while limited.metric("queue_images") or limited.metric("body_bytes"):
        pass
    assert limited.metric('requests_total{code="CANCELLED"') >= 1


def test_http_and_grpc_share_the_memory_for_bodies(limited: Server, photo: bytes) -> None:
    """A body that HTTP holds leaves no room for a message, and the other way round after it has gone."""
    head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BODY}\r\n\r\n".encode()
    with limited.raw() as one, limited.raw() as other:
        for connection in (one, other):
            connection.sendall(head + bytes(MAX_BODY - 1))
        while limited.metric("body_bytes") < MAX_BODY:
            pass
        with pytest.raises(grpc.RpcError) as refused:
            limited.call("ModelMetadata", name="exact")
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert limited.call("ServerReady").ready  # probes go on
    while limited.metric("body_bytes"):
        pass
    assert limited.call("ModelMetadata", name="exact").name == "exact"


def test_a_batch_that_fits_in_no_memory_is_refused_before_the_warm_up(workplace: Path) -> None:
    with start(workplace, "exact", "--max-queue", 10**9, "--max-batch", 10**9) as server:
        assert server.wait() == 2
        assert (
            "error: --max-batch 1000000000: the pixels of a batch must fit in 2 GiB; choose 11184810 or" in server.log
        )
