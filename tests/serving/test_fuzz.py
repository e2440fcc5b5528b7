"""Requests that are nearly right: never a 500, never a hang, never a traceback (``start`` looks at the log)."""

from __future__ import annotations

import base64
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import hypothesis
import pytest
from hypothesis import strategies as st

from alexnet_deploy.serving.protocol.messages import METHODS, SERVICE
from tests.serving.running import Server, serving
from tests.serving.test_classify import form

EXAMPLES = int(os.environ.get("ALEXNET_DEPLOY_FUZZ_EXAMPLES", "150"))
"""For each protocol; a thorough run takes 10,000."""
_SETTINGS = hypothesis.settings(
    max_examples=EXAMPLES, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], database=None
)


@pytest.fixture(scope="module")
def server(workplace: Path) -> Iterator[Server]:
    """One that has little patience with requests whose length was mutated."""
    with serving(workplace, "exact", "--idle", "100ms") as running:
        yield running


mutations = st.lists(
    st.tuples(
        st.floats(0, 1), st.integers(0, 12), st.binary(max_size=12) | st.sampled_from([b"\xff" * 8, b"\0", b'"'])
    ),
    min_size=1,
    max_size=4,
)
"""Where (as a share of the length), how many bytes go, and what comes in their place."""


def mutate(content: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for place, gone, new in changes:
        at = int(place * len(content))
        content = content[:at] + new + content[at + gone :]
    return content


@pytest.fixture(scope="module")
def photo(workplace: Path, photos: list[Path]) -> bytes:
    return (workplace / photos[0]).read_bytes()


@pytest.fixture(scope="module")
def seeds(photo: bytes) -> list[tuple[str, bytes, dict[str, str]]]:
    """Path, body and headers of requests that are right."""
    text = base64.b64encode(photo).decode()
    image: dict[str, Any] = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
    outputs = [{"name": "probabilities", "parameters": {"classification": 2}}, {"name": "error"}]
    raw = struct.pack("<I", len(photo)) + photo
    head = json.dumps(
        {"inputs": [image | {"data": None, "parameters": {"binary_data_size": len(raw)}}], "outputs": outputs}
    )
    head = head.replace('"data": null, ', "")
    infer, body_and_headers = "/v2/models/exact/infer", form([("a.jpg", photo), ("b.jpg", photo)])
    return [
        (infer, json.dumps({"inputs": [image], "outputs": outputs, "id": "1"}).encode(), {}),
        (infer, head.encode() + raw, {"Inference-Header-Content-Length": str(len(head))}),
        ("/classify?top_k=2&threshold=0.1", photo, {}),
        ("/classify", *body_and_headers),
    ]


def test_the_seeds_are_right(server: Server, seeds: list[tuple[str, bytes, dict[str, str]]]) -> None:
    for path, body, headers in seeds:
        assert server.ask("POST", path, body, headers).status == 200


def test_mutated_http_is_answered_or_refused(server: Server, seeds: list[tuple[str, bytes, dict[str, str]]]) -> None:
    @_SETTINGS
    @hypothesis.given(st.integers(0, len(seeds) - 1), mutations, st.booleans())
    def check(number: int, changes: list[tuple[float, int, bytes]], is_head: bool) -> None:
        path, body, headers = seeds[number]
        lines = [f"POST {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers.items())]
        head = "\r\n".join(lines).encode()
        head, body = (mutate(head, changes), body) if is_head else (head, mutate(body, changes))
        with server.raw() as connection:
            connection.sendall(head + f"\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode())
            try:
                connection.sendall(body)
                received = connection.recv(1 << 16)
            except (ConnectionResetError, BrokenPipeError):  # refused before it was read
                return
        assert not received or received.startswith(b"HTTP/1.1 "), received
        assert received[9:10] in (b"2", b"4", b""), received

    check()
    assert server.ask("GET", "/v2/health/ready").status == 200
    assert server.metric('requests_total{code="500"') == 0
    assert server.metric("queue_images") == 0
    assert server.metric("body_bytes") == 0


def test_mutated_grpc_is_answered_or_refused(server: Server, photo: bytes) -> None:
    request, _ = METHODS["ModelInfer"]
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [photo]}}
    seed = request(model_name="exact", inputs=[image], outputs=[{"name": "logits"}]).SerializeToString()
    # The first bytes hold names, types and shapes; the photo is most of the rest.
    codes = set()
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary(f"/inference.{SERVICE}/ModelInfer")
        assert call(seed, timeout=60)

        @_SETTINGS
        @hypothesis.given(mutations, st.booleans())
        def check(changes: list[tuple[float, int, bytes]], is_front: bool) -> None:
            front, rest = (seed[:60], seed[60:]) if is_front else (b"", seed)
            sent = mutate(front, changes) + rest if is_front else mutate(rest, changes)
            try:
                call(sent, timeout=60)
                codes.add("OK")
            except grpc.RpcError as exc:
                codes.add(exc.code().name)

        check()
    assert codes <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}, codes
    assert server.call("ServerReady").ready


def test_the_openapi_document_tells_the_types_of_the_answers(server: Server) -> None:
    document = server.ask("GET", "/openapi.json").json()
    paths = {path.replace("{model}", "exact"): item["get"] for path, item in document["paths"].items() if "get" in item}
    assert "/v2/health/live" in paths
    asked = [(path, operation, accept) for path, operation in paths.items() for accept in ("text/html", "*/*")]
    for path, operation, accept in asked:
        answer = server.ask("GET", path, headers={"accept": accept})
        assert answer.status == 200, path
        described = list(operation["responses"]["200"].get("content", ()))
        given = answer.headers.get("content-type", "").partition(";")[0]
        assert given in described if given else not described, path
        assert bool(answer.body) == bool(given), path
