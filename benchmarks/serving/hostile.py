"""Hostile requests for ``abuse``: what is sent, and which answers are right."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

GOOD, REFUSED = frozenset({"200"}), frozenset({"400", "404", "405", "408", "413", "415", "431", "501"})
EITHER = GOOD | REFUSED


@dataclass(frozen=True, slots=True)
class Hostile:
    """Bytes for one connection. ``answers`` are the right statuses of the first answer; empty: none must come.

    ``count`` answers must come; ``half`` closes our side of the connection after the last byte; ``trickle`` is sent
    again and again, once per second.
    """

    name: str
    content: bytes
    answers: frozenset[str] = REFUSED
    count: int = 1
    half: bool = False
    trickle: bytes = b""


@dataclass(frozen=True, slots=True)
class HostileCall:
    """One gRPC message for ``ModelInfer``, as fields or as bytes."""

    name: str
    message: dict[str, Any] | bytes
    codes: frozenset[str] = field(default_factory=lambda: frozenset({"INVALID_ARGUMENT"}))


def _request(target: str, body: bytes = b"", *headers: str, method: str = "POST", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = [f"{method} {target} HTTP/1.1", "Host: x", *headers]
    if not any(header.lower().startswith(("content-length", "transfer-encoding")) for header in headers):
        lines.append(f"Content-Length: {size}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _chunks(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def http_cases(photo: bytes) -> Iterator[Hostile]:
    """The protocol itself: lengths, chunks, lines, methods, targets, connections."""
    chunked, good = "Transfer-Encoding: chunked", _request("/classify", photo)
    yield Hostile("20 pipelined photos", good * 20, GOOD, count=20)
    yield Hostile("1,000 pipelined requests", _request("/v2/health/live", method="GET") * 1000, GOOD, count=1000)
    yield Hostile("a refusal, then a photo", _request("/nope", photo) + good, REFUSED, count=2)
    yield Hostile("chunked", _request("/classify", _chunks(photo, 1000), chunked), GOOD)
    yield Hostile("chunks of one byte", _request("/classify", _chunks(photo[:20_000], 1), chunked), GOOD)
    yield Hostile(
        "a chunk extension of 8 MB",
        _request("/classify", b"3;" + b"a" * (8 << 20) + b"\r\nabc\r\n0\r\n\r\n", chunked),
        EITHER,
    )
    yield Hostile(
        "trailers of 12 MB",
        _request("/classify", b"3\r\nabc\r\n0\r\n" + b"X: y\r\n" * 2_000_000 + b"\r\n", chunked),
        EITHER,
    )
    for size in (b"zz", b"-3", b"f" * 18):
        yield Hostile(f"chunk size {size.decode()}", _request("/classify", size + b"\r\nabc\r\n0\r\n\r\n", chunked))
    for length in ("-1", "+3", "abc", "9" * 30, "", "3, 3", "18446744073709551615"):
        yield Hostile(f"content-length {length}", _request("/classify", b"abc", f"Content-Length: {length}"))
    yield Hostile("content-length twice", _request("/classify", b"abcd", "Content-Length: 3", "Content-Length: 4"))
    yield Hostile(
        "content-length and chunks", _request("/classify", b"3\r\nabc\r\n0\r\n\r\n", "Content-Length: 3", chunked)
    )
    yield Hostile("content-length too short", _request("/classify", photo, length=len(photo) - 10), EITHER)
    for coding in ("gzip", "chunked, gzip", "xchunked"):
        yield Hostile(
            f"transfer-encoding {coding}", _request("/classify", _chunks(photo, 1000), f"Transfer-Encoding: {coding}")
        )
    yield Hostile("expect 100-continue", _request("/classify", photo, "Expect: 100-continue"), frozenset({"100"}))
    yield Hostile("HTTP/1.0", _request("/classify", photo).replace(b"HTTP/1.1", b"HTTP/1.0"), GOOD)
    yield Hostile("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    yield Hostile(
        "upgrade to h2c, as curl --http2 asks",
        _request("/classify", photo, "Connection: Upgrade", "Upgrade: h2c"),
        GOOD,
    )
    yield Hostile(
        "upgrade to a websocket",
        _request("/v2", b"", "Connection: Upgrade", "Upgrade: websocket", method="GET"),
        EITHER,
    )
    for method in ("TRACE", "CONNECT", "DELETE", "OPTIONS", "FOO", "get"):
        yield Hostile(f"method {method}", _request("/v2", b"", "Connection: close", method=method))
    yield Hostile("CONNECT to another host", b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n")
    yield Hostile("absolute target", _request("http://other:99/v2", method="GET"), EITHER)
    for model in ("..", "../../etc/passwd", "%2e%2e%2f%2e%2e%2fetc", "a%00b", "%ff%fe", "%zz", "x" * 20_000):
        yield Hostile(f"model {model[:30]}", _request(f"/v2/models/{model}", method="GET"))
    yield Hostile("bytes in the target", _request("/v2/models/\xff", method="GET"))
    yield Hostile("header of 40 KB", _request("/v2", b"", "X: " + "a" * 40_000, method="GET"), frozenset({"431"}))
    yield Hostile("NUL in a header", _request("/v2", b"", "X: a\0b", method="GET"))
    yield Hostile("bare line feeds", b"GET /v2 HTTP/1.1\nHost: x\n\n", EITHER)
    yield Hostile("TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 500)
    yield Hostile(
        "half-closed within a body", _request("/classify", photo[:100], length=len(photo)), frozenset(), half=True
    )
    yield Hostile("threshold of another script", _request("/classify?threshold=0_1", photo))
    yield Hostile(
        "boundary of 10 KB",
        _request("/classify", b"abc", f"Content-Type: multipart/form-data; boundary={'b' * 10_000}"),
    )
    one = b'--b\r\nContent-Disposition: form-data; name="a"; filename="x"\r\n\r\n' + photo + b"\r\n"
    form = "Content-Type: multipart/form-data; boundary=b"
    yield Hostile("form that ends within its second file", _request("/classify", one + one[:-300], form))
    yield Hostile(
        "600,000 fields",
        _request("/classify", b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' * 600_000, form),
    )


def slow_cases(photo: bytes) -> Iterator[Hostile]:
    """Clients that stop or trickle; each must be gone some time after ``--idle``."""
    chunked = _request("/nope", b"", "Transfer-Encoding: chunked")
    unread = _request("/nope", length=100_000)
    yield Hostile("no byte", b"", frozenset())
    yield Hostile("headers that trickle", b"GET /v2 HTTP/1.1\r\nHost: x\r\nX: ", frozenset(), trickle=b"a")
    yield Hostile("body that stops", _request("/classify", photo[:100], length=len(photo)), frozenset({"408"}))
    yield Hostile("body that trickles", _request("/classify", length=len(photo)), frozenset({"408"}), trickle=b"a")
    yield Hostile("body that trickles after its refusal", unread, frozenset({"404"}), trickle=b"a")
    yield Hostile("chunks that trickle after their refusal", chunked, frozenset({"404"}), trickle=b"1\r\na\r\n")


def json_cases(model: str, photo: bytes) -> Iterator[Hostile]:
    """The Open Inference Protocol: values that JSON has not, twice, too deep, too many."""
    text = json.dumps({"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(photo).decode()]})

    def infer(name: str, body: str, answers: frozenset[str] = REFUSED, *headers: str) -> Hostile:
        return Hostile(name, _request(f"/v2/models/{model}/infer", body.encode(), *headers), answers)

    def pixels(data: str, shape: str = "[1]") -> str:
        return f'{{"inputs":[{{"name":"pixels","datatype":"UINT8","shape":{shape},"data":[{data}]}}]}}'

    for value in ("NaN", "Infinity", "-Infinity", "1e400", "1.0", "-1", "9" * 30, '"1"', "null", "true", "256"):
        yield infer(f"shape {value[:10]}", pixels("1", f"[{value}]"))
        yield infer(f"data {value[:10]}", pixels(value))
    yield infer("keys twice", f'{{"id":"a","id":"b","inputs":[],"inputs":[{text}]}}', EITHER)
    yield infer("lists in lists", pixels("[" * 100_000 + "]" * 100_000))
    yield infer("objects in objects", '{"a":' * 500_000 + "1" + "}" * 500_000)
    yield infer("a number of a million digits", pixels("9" * 1_000_000))
    yield infer("half a surrogate pair", f'{{"id":"\\ud800","inputs":[{text}]}}')
    yield Hostile("UTF-16", _request(f"/v2/models/{model}/infer", text.encode("utf-16")))
    for length in ("-1", "9" * 30, "0" * 5000 + "9", "x", ""):
        header = f"Inference-Header-Content-Length: {length}"
        yield infer(f"header length {length[:10]}", f'{{"inputs":[{text}]}}', REFUSED, header)
    yield infer("16 million numbers", pixels("0," * 16_000_000 + "0"))
    yield infer("4 million lists", pixels("[[[]]]," * 4_000_000 + "[]"))
    yield infer(
        "7 million texts", pixels('"A",' * 7_000_000 + '""').replace("pixels", "image").replace("UINT8", "BYTES")
    )
    inputs = ",".join(['{"name":"ab","datatype":"cd","shape":[],"data":1}'] * 600_000)
    yield infer("600,000 inputs", f'{{"inputs":[{inputs}]}}')
    yield infer("6 million dimensions", pixels("1", f"[{'1000,' * 6_000_000}1]"))
    outputs = ",".join(['{"name":"logits"}'] * 100_000)
    yield infer("one output 100,000 times", f'{{"inputs":[{text}],"outputs":[{outputs}]}}')


def grpc_cases(model: str, photo: bytes) -> Iterator[HostileCall]:
    """The same over gRPC."""
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [photo]}}
    pixels: dict[str, Any] = {"name": "pixels", "datatype": "UINT8", "shape": [1]}

    def infer(**fields: Any) -> dict[str, Any]:
        return {"model_name": model, "inputs": [image]} | fields

    yield HostileCall("no message", b"\xff" * 100)
    yield HostileCall("names that are no text", b"\x0a\x02\xff\xfe")
    yield HostileCall("model ../../etc/passwd", infer(model_name="../../etc/passwd"), frozenset({"NOT_FOUND"}))
    yield HostileCall("30 million numbers", infer(inputs=[pixels | {"contents": {"uint_contents": [1] * 30_000_000}}]))
    yield HostileCall(
        "8 million texts", infer(inputs=[image | {"contents": {}}], raw_input_contents=[bytes(32_000_000)])
    )
    yield HostileCall("3 million inputs", infer(inputs=[{"name": "a"}] * 3_000_000))
    yield HostileCall("10 million dimensions", infer(inputs=[image | {"shape": [1] * 10_000_000}]))
    yield HostileCall("one output 1,000,000 times", infer(outputs=[{"name": "logits"}] * 1_000_000))
    yield HostileCall("a message of 40 MB", bytes(40_000_000), frozenset({"RESOURCE_EXHAUSTED"}))
