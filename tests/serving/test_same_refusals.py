"""A mistake is refused in the same words over HTTP and over gRPC, whatever is in a name."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.running import Server

IMAGE = {"name": "image", "datatype": "BYTES", "shape": [1]}


def refused_by_grpc(server: Server, method: str, /, **fields: Any) -> str:
    with pytest.raises(grpc.RpcError) as refused:
        server.call(method, **fields)
    return str(refused.value.details())


@pytest.mark.parametrize("inputs", [[], [IMAGE, IMAGE], [IMAGE, IMAGE, IMAGE]])
def test_a_request_has_one_input(server: Server, inputs: list[dict[str, Any]]) -> None:
    answer = server.infer("exact", {"inputs": [{**each, "data": ["AAAA"]} for each in inputs]})
    assert answer.status == 400
    assert answer.error == refused_by_grpc(server, "ModelInfer", model_name="exact", inputs=inputs)
    assert answer.error.startswith("the request has not exactly one input; give one: pixels")
    if not inputs:
        assert server.infer("exact", {}).error == answer.error


NAMES = [
    "..",
    "../exact",
    "..\\exact",
    "/etc/passwd",
    "exact/",
    "",
    " ",
    "a\nb",
    "\x00",
    "\x1b[31m",
    "é\u202e",
    "x" * 5000,
    "\x01" * 5000,
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_an_unknown_model_is_named_and_so_are_those_there_are(server: Server, name: str) -> None:
    says = refused_by_grpc(server, "ModelMetadata", name=name)
    assert says.isprintable()
    assert ": no such model; this server has exact, exact@onnxruntime, ruined" in says
    path = f"/v2/models/{quote(name, safe='')}"
    for method, end in (("GET", ""), ("GET", "/ready"), ("GET", "/config"), ("GET", "/stats"), ("POST", "/infer")):
        answer = server.ask(method, path + end, b"{}")
        assert (answer.status, answer.error) == (404, says), end
    answer = server.ask("POST", f"/classify?engine={quote(name, safe='')}", b"x")
    assert (answer.status, answer.error) == (404, says)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=20).filter(lambda name: name not in ("exact", "ruined", "stats")))
def test_any_other_name_is_refused_in_one_printable_line(server: Server, name: str) -> None:
    for path in (f"/v2/models/{quote(name, safe='')}", f"/{quote(name)}/none", f"/v2/models/exact/{quote(name)}/none"):
        answer = server.ask("GET", path)
        assert answer.status == 404
        assert answer.error.isprintable()
        assert ": no such " in answer.error


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/none", 404, "/none: no such address; GET /docs lists them"),
        ("GET", "/v2/models", 404, "/v2/models: no such address"),
        ("GET", "/v2/models/exact/none", 404, "/v2/models/exact/none: no such address"),
        ("GET", "/a%0ab", 404, r"/a\nb: no such address"),
        ("GET", "/classify", 405, "/classify: takes POST or PUT, not GET"),
        ("DELETE", "/v2/models/exact", 405, "/v2/models/exact: takes GET or HEAD, not DELETE"),
        ("GET", "/v2/models/exact/infer", 405, "/v2/models/exact/infer: takes POST, not GET"),
    ],
)
def test_what_is_not_there_is_named(server: Server, method: str, path: str, status: int, says: str) -> None:
    answer = server.ask(method, path)
    assert answer.status == status
    assert says in answer.error
    if status == 405:
        assert answer.headers["allow"]
