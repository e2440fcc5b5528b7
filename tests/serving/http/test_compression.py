"""Compressed requests and answers of both protocols, and those that would unpack to more than there may be."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.serving.http.compression import _choose
from tests.serving.running import Server, serving

MAX_BODY = 8 << 20


@pytest.fixture(scope="module")
def bounded(workplace: Path) -> Iterator[Server]:
    with serving(workplace, "exact", "--max-body", f"{MAX_BODY}B", "--max-memory", f"{2 * MAX_BODY}B") as running:
        yield running


def raw_deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def members(content: bytes) -> bytes:
    middle = len(content) // 2
    return gzip.compress(content[:middle]) + gzip.compress(b"") + gzip.compress(content[middle:])


WAYS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("GZIP", members),
    ("x-gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("identity", bytes),
]


@pytest.mark.parametrize(("encoding", "pack"), WAYS)
def test_a_compressed_request_is_answered_as_the_plain_one(
    bounded: Server, workplace: Path, photos: list[Path], encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    content = (workplace / photos[0]).read_bytes()
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "image",
                    "datatype": "BYTES",
                    "shape": [1],
                    "parameters": {"binary_data_size": len(content) + 4},
                }
            ]
        }
    ).encode()
    body = head + len(content).to_bytes(4, "little") + content
    headers = {"inference-header-content-length": str(len(head))}  # of the plain request, as tritonclient has it
    plain = bounded.ask("POST", "/v2/models/exact/infer", body, headers)
    got = bounded.ask("POST", "/v2/models/exact/infer", pack(body), headers | {"content-encoding": encoding})
    assert plain.status == 200
    assert got.body == plain.body
    rows = bounded.ask("POST", "/classify", content).body
    assert bounded.ask("POST", "/classify", pack(content), {"content-encoding": encoding}).body == rows
    assert bounded.metric("body_bytes") == 0


@pytest.mark.parametrize(
    ("body", "encoding", "status", "says"),
    [
        (b"x", "gzip", 400, "the body is not gzip"),
        (b"x" * 100, "deflate", 400, "the body is not deflate"),
        (gzip.compress(b"x" * 100_000)[:-9], "gzip", 400, "cut off"),
        (gzip.compress(b"x") + b"y", "gzip", 400, "the body is not gzip: 1 bytes follow its end"),
        (gzip.compress(b"x") + b"\0" * 20, "gzip", 400, "the body is not gzip: 20 bytes follow its end"),
        (zlib.compress(b"x") + b"y", "deflate", 400, "1 bytes follow its end"),
        (gzip.compress(b"") * 20_000, "gzip", 400, "bytes follow its end"),
        (gzip.compress(bytes(MAX_BODY + 1)), "gzip", 413, f"more than {MAX_BODY} bytes unpacked"),
        (gzip.compress(gzip.compress(bytes(1 << 26), 1), 1), "gzip", 400, "is not valid"),
        (b"x", "br", 415, "content encoding br: is not read; send the body as it is, or as gzip or deflate"),
        (b"x", "gzip, gzip", 415, "content encoding gzip, gzip"),
    ],
    ids=[
        "no gzip",
        "no deflate",
        "cut",
        "garbage",
        "zeros",
        "more",
        "members",
        "bomb",
        "bomb in a bomb",
        "br",
        "twice",
    ],
)
def test_what_cannot_be_unpacked_is_one_line(
    bounded: Server, body: bytes, encoding: str, status: int, says: str
) -> None:
    answer = bounded.ask("POST", "/v2/models/exact/infer", body, {"content-encoding": encoding})
    assert answer.status == status, answer
    assert says in answer.error
    assert bounded.metric("body_bytes") == 0


def test_bombs_take_no_more_memory_than_a_body_may(bounded: Server) -> None:
    bomb = gzip.compress(bytes(256 << 20), 1)
    assert len(bomb) < MAX_BODY
    before = bounded.peak_bytes()
    answer = bounded.ask("POST", "/classify", bomb, {"content-encoding": "gzip"})
    assert answer.status == 413
    call = bounded.method("ModelInfer")
    request = {"model_name": "exact", "raw_input_contents": [bytes(128 << 20)]}
    with pytest.raises(grpc.RpcError) as refused:
        call(messages(request), compression=grpc.Compression.Gzip, timeout=60)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    # Each protocol holds the packed body, the unpacked pieces and a copy of them: some 3 bodies of 8 MiB.
    assert bounded.peak_bytes() - before < 64 << 20


def messages(fields: dict[str, Any]) -> Any:
    from alexnet_deploy.serving.protocol.messages import METHODS

    return METHODS["ModelInfer"][0](**fields)


def test_grpc_is_compressed_both_ways(bounded: Server, workplace: Path, photos: list[Path]) -> None:
    image = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1],
        "contents": {"bytes_contents": [(workplace / photos[0]).read_bytes()]},
    }
    request = messages({"model_name": "exact", "inputs": [image]})
    call = bounded.method("ModelInfer")
    plain = call(request, timeout=60)
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        assert call(request, compression=compression, timeout=60) == plain


@pytest.mark.parametrize(
    "accepted", ["gzip", "deflate", "gzip;q=0, deflate", "br, *;q=0.1", "identity, gzip;q=0.5", ""]
)
def test_an_answer_is_compressed_as_its_client_accepts(bounded: Server, accepted: str) -> None:
    config = bounded.ask("GET", "/v2/models/exact/config").json()
    shape = [8, *config["input"][0]["dims"]]
    count = 8 * 3 * shape[1] * shape[2]
    body = json.dumps(
        {
            "inputs": [
                {"name": "pixels", "datatype": "UINT8", "shape": shape, "data": [number % 7 for number in range(count)]}
            ]
        }
    ).encode()
    plain = bounded.ask("POST", "/v2/models/exact/infer", body)
    got = bounded.ask("POST", "/v2/models/exact/infer", body, {"accept-encoding": accepted})
    wanted = {"gzip": "gzip", "deflate": "deflate", "gzip;q=0, deflate": "deflate", "br, *;q=0.1": "gzip"}.get(accepted)
    assert "content-encoding" not in plain.headers
    assert got.headers.get("content-encoding") == wanted
    assert int(got.headers["content-length"]) == len(got.body)
    unpacked = gzip.decompress(got.body) if wanted == "gzip" else zlib.decompress(got.body) if wanted else got.body
    assert unpacked == plain.body


@given(st.text(alphabet="gzipdeflat;q=01.9*, -", max_size=40))
def test_any_accept_encoding_is_read(accepted: str) -> None:
    assert _choose(accepted) in ("gzip", "deflate", None)
