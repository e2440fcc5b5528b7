"""Small requests that would be large once they are objects: refused before, in one line, without the memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from alexnet_deploy.serving.protocol.admission.fields import require_few_fields
from alexnet_deploy.serving.protocol.messages import METHODS
from alexnet_deploy.serving.refusals import BadRequestError
from tests.serving.running import Server

_COPIES = 4  # of a body: its pieces, joined, and what a parser takes of it
_MORE = 40 << 20  # for threads and buffers; each of these requests took above 100 MB as objects


def peak_reset(server: Server) -> int:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    return server.peak_bytes()


def given(name: str, datatype: str, shape: str, data: str) -> bytes:
    return f'{{"inputs":[{{"name":"{name}","datatype":"{datatype}","shape":{shape},"data":{data}}}]}}'.encode()


INPUT = '{"name":"ab","datatype":"cd","shape":[],"data":1},'


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (lambda: given("pixels", "UINT8", "[1,8,8,3]", "[" + "0," * 4_000_000 + "0]"), "4000001 values for shape"),
        (lambda: given("pixels", "UINT8", "[1,8,8,3]", "[" + "[[[]]]," * 1_000_000 + "[]]"), "1000001 values"),
        (lambda: given("pixels", "UINT8", "[1,8,8,3]", "[" + "[" * 2_000_000 + "]" * 2_000_001), "not valid"),
        (lambda: given("image", "BYTES", "[1]", "[" + '"A",' * 2_000_000 + '""]'), "2000001 values"),
        (lambda: given("pixels", "UINT8", f"[{'1000,' * 3_000_000}1]", "[1]"), "bytes of JSON"),
        (lambda: f'{{"inputs":[{INPUT * 300_000}{INPUT[:-1]}]}}'.encode(), "not exactly one input"),
        (lambda: f'{{"inputs":[],"outputs":[{"{}," * 3_000_000}{{}}]}}'.encode(), "not exactly one input"),
        (
            lambda: given("image", "BYTES", "[1]", '[""]').replace(
                b"]}]}", b'],"parameters":{' + b"".join(b'"a%d":1,' % i for i in range(1_000_000)) + b'"b":1}}]}'
            ),
            "bytes of JSON",
        ),
    ],
    ids=["numbers", "lists", "depth", "texts", "dimensions", "inputs", "outputs", "parameters"],
)
def test_json_is_counted_before_it_becomes_objects(server: Server, body: Any, says: str) -> None:
    content = body()
    before = peak_reset(server)
    answer = server.ask("POST", "/v2/models/exact/infer", content)
    assert answer.status == 400
    assert says in answer.error
    assert server.peak_bytes() - before < _COPIES * len(content) + _MORE


IMAGE = {"name": "image", "datatype": "BYTES", "shape": [1]}
PIXELS = {"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3]}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (lambda: {"inputs": [{"name": "a"}] * 1_000_000}, "more than 10000 fields"),
        (lambda: {"inputs": [IMAGE | {"shape": [1] * 6_000_000}]}, "shape has more numbers"),
        (lambda: {"inputs": [IMAGE | {"contents": {"bytes_contents": [b""] * 1_000_000}}]}, "more than 10000 fields"),
        (lambda: {"inputs": [IMAGE], "raw_input_contents": [bytes(8_000_000)]}, "goes on after 1 values"),
        (lambda: {"inputs": [IMAGE], "outputs": [{"name": "logits"}] * 500_000}, "more than 10000 fields"),
        (lambda: {"inputs": [PIXELS | {"contents": {"uint_contents": [1] * 4_000_000}}]}, "4000000 values"),
    ],
    ids=["inputs", "dimensions", "images", "raw images", "outputs", "numbers"],
)
def test_a_grpc_message_is_counted_before_it_becomes_objects(server: Server, fields: Any, says: str) -> None:
    message = METHODS["ModelInfer"][0](model_name="exact", **fields())
    before = peak_reset(server)
    with pytest.raises(grpc.RpcError) as refused:
        server.method("ModelInfer")(message, timeout=60)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert says in refused.value.details()
    assert server.peak_bytes() - before < _COPIES * message.ByteSize() + _MORE


@pytest.mark.parametrize(
    "first",
    [
        b"\xa0\x06\x01",  # field 100, which no message has: a number,
        b"\xa1\x06" + bytes(8),  # eight bytes,
        b"\xa2\x06\x02ab",  # text,
        b"\xa5\x06" + bytes(4),  # four bytes,
        b"\xa3\x06\xa4\x06",  # and an empty group
        b"\x2a\x06\xa3\x06\x08\x01\xa4\x06",  # an input with a group that holds a number
    ],
    ids=["number", "eight bytes", "text", "four bytes", "group", "group in an input"],
)
def test_no_unknown_field_hides_those_after_it(first: bytes) -> None:
    message = METHODS["ModelInfer"][0]
    content = first + b"\x2a\x00" * 100_000  # empty inputs
    assert len(message.FromString(content).inputs) >= 100_000, "a parser steps over the unknown field"
    with pytest.raises(BadRequestError, match=r"more than 10000 fields|has a group \(field 100\)"):
        require_few_fields(message.DESCRIPTOR, content)


@pytest.mark.parametrize("indent", [None, 1, 2, 12], ids=lambda indent: f"indent {indent}")
def test_nested_numbers_are_those_of_the_flat_list(server: Server, indent: int | None) -> None:
    rows = [[[(3 * x + 24 * y + c) % 256 for c in range(3)] for x in range(8)] for y in range(8)]
    flat = [value for row in rows for pixel in row for value in pixel]
    answers = []
    for data in (flat, [rows]):
        body = json.dumps({"inputs": [PIXELS | {"data": data}]}, indent=indent).encode()
        answer = server.ask("POST", "/v2/models/exact/infer", body)
        assert answer.status == 200, answer
        answers.append(answer.json()["outputs"])
    assert answers[0] == answers[1]
    for wrong in ([rows[:4], rows[4:]], [[rows]], [[*rows[:7], [*rows[7][:7], [1, 2], 3]]]):
        refused = server.infer("exact", {"inputs": [PIXELS | {"data": wrong}]})
        assert refused.status == 400
        assert "in lists of shape [1, 8, 8, 3]" in refused.error
