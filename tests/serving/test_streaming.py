"""ModelStreamInfer: many requests on one stream, answered in order, each as ModelInfer answers it."""

from __future__ import annotations

import queue
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.serving.running import Server, serving


def request(content: bytes, id: str = "", model: str = "exact", **fields: Any) -> dict[str, Any]:
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [content]}}
    return {"model_name": model, "id": id, "inputs": [image], **fields}


def test_answers_come_in_order_and_are_those_of_modelinfer(server: Server, workplace: Path, photos: list[Path]) -> None:
    contents = [(workplace / photo).read_bytes() for photo in photos] * 20  # more than wait at the same time
    wanted = [server.call("ModelInfer", **request(content)).raw_output_contents for content in contents[:6]]
    got = list(server.stream(request(content, str(number)) for number, content in enumerate(contents)))
    assert [item.infer_response.id for item in got] == [str(number) for number in range(120)]
    for number, item in enumerate(got):
        assert not item.error_message
        # Which images share a batch differs, and so do the last bits: the classes and 5 digits are compared.
        given, alone = (
            list(memoryview(raw[1]).cast("f")) for raw in (item.infer_response.raw_output_contents, wanted[number % 6])
        )
        assert given == pytest.approx(alone, rel=1e-5)
        assert item.infer_response.parameters["triton_final_response"].bool_param


def test_a_refused_request_is_an_item_and_the_stream_goes_on(
    server: Server, workplace: Path, photos: list[Path]
) -> None:
    good = (workplace / photos[0]).read_bytes()
    shared = request(good)
    shared["inputs"][0]["parameters"] = {"shared_memory_region": {"string_param": "mine"}}
    sent = [request(good, "1"), request(b"none", "2"), request(good, "3", "../exact"), shared, request(good, "5")]
    got = list(server.stream(sent))
    assert [item.infer_response.id for item in got] == ["1", "2", "3", "", "5"]
    assert [item.error_message.split(";")[0].split(",")[0] for item in got] == [
        "",
        "image 0: is not an image of a known format",
        "../exact: no such model",
        "input image: shared memory is not supported",
        "",
    ]


def test_bytes_that_are_no_request_are_an_item(server: Server, workplace: Path, photos: list[Path]) -> None:
    server.call("ServerLive")
    assert server._channel is not None
    raw = server._channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    (item,) = raw(iter([b"\xff"]), timeout=60)
    assert b"the request is no ModelInferRequest" in item


def test_streams_have_the_room_that_is_set_aside_for_them(workplace: Path, photos: list[Path]) -> None:
    """Each open stream can receive a message of ``max_body`` at any time."""
    content = (workplace / photos[0]).read_bytes()
    with serving(workplace, "exact", "--max-body", "1MB", "--max-memory", "5MB") as server:
        channels = [Open(server) for _ in range(2)]
        for channel in channels:
            assert not channel.ask(request(content)).error_message
        with pytest.raises(grpc.RpcError) as refused:
            list(server.stream([request(content)]))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 streams are open" in refused.value.details()
        assert server.metric("body_bytes") == 2_000_000
        assert server.ask("POST", "/classify", content).status == 200
        channels[0].close()
        assert not Open(server).ask(request(content)).error_message
        # Streams that wait do not keep the server from ending: with the usual drain of 30 s they would.
        channels[1].requests.put(request(content))
        assert not next(channels[1].answers).error_message
        server.process.send_signal(signal.SIGTERM)
        assert next(channels[1].answers, None) is None
        assert server.wait() == 0


class Open:
    """A stream that stays open."""

    def __init__(self, server: Server) -> None:
        self.requests: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.answers: Iterator[Any] = server.stream(iter(self.requests.get, None))

    def ask(self, fields: dict[str, Any]) -> Any:
        self.requests.put(fields)
        return next(self.answers)

    def close(self) -> None:
        self.requests.put(None)
        assert next(self.answers, None) is None
