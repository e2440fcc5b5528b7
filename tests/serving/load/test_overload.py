"""More than the event loop can take on at once: calls still end as this server ends them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from alexnet_deploy.serving.protocol.messages import METHODS, SERVICE
from tests.serving.running import PATIENCE_S, Server, serving

_CALLS = 6000  # far above the thousand that gRPC lets wait by itself, before it ends some as CANCELLED
_THREADS = 4  # two that decode, two that compute


@pytest.fixture(scope="module")
def busy(workplace: Path) -> Iterator[Server]:
    with serving(
        workplace, "exact", "--workers", 2, "--instances", 2, "--no-access-log", "--timeout", "1000s", "--idle", "1s"
    ) as running:
        yield running


def test_no_call_of_a_flood_is_cancelled(busy: Server) -> None:
    request, _ = METHODS["ModelInfer"]
    sent = request(model_name="nobody").SerializeToString()

    async def flood() -> Counter[str]:
        # A connection of its own for each: else the channels, which are alike, share one.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{busy.grpc_port}", options) for _ in range(4)]
        calls = [channel.unary_unary(f"/inference.{SERVICE}/ModelInfer") for channel in channels]
        waiting = [calls[number % len(calls)](sent, timeout=PATIENCE_S) for number in range(_CALLS)]
        codes = Counter([(await call.code()).name for call in waiting])
        for channel in channels:
            await channel.close()
        return codes

    codes = asyncio.run(flood())
    assert codes == {"NOT_FOUND": _CALLS}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
def test_threads_that_decode_and_compute_come_after_the_event_loop(
    busy: Server, workplace: Path, photos: list[Path]
) -> None:
    assert busy.ask("POST", "/classify", (workplace / photos[0]).read_bytes()).status == 200
    process = busy.process.pid
    lower = [
        thread
        for thread in map(int, os.listdir(f"/proc/{process}/task"))
        if os.getpriority(os.PRIO_PROCESS, thread) > os.getpriority(os.PRIO_PROCESS, process)
    ]
    assert process not in lower
    assert len(lower) >= _THREADS


@contextlib.contextmanager
def silent(server: Server, name: str, count: int) -> Iterator[None]:
    """So many open calls whose message never comes."""
    ended = threading.Event()

    def nothing() -> Iterator[Any]:
        ended.wait()
        yield from ()

    calls = [server.method(name, "stream_unary").future(nothing()) for _ in range(count)]
    try:
        yield
    finally:
        ended.set()
        for call in calls:
            call.cancel()


@pytest.mark.parametrize(("name", "answer"), [("Check", None), ("ModelInfer", grpc.StatusCode.NOT_FOUND)])
def test_calls_without_a_message_do_not_stop_others(busy: Server, name: str, answer: grpc.StatusCode | None) -> None:
    fields = {"model_name": "nobody"} if answer else {}
    with silent(busy, name, 8):
        for _ in range(3):  # within PATIENCE_S, long before the silent calls reach --timeout
            if answer is None:
                assert busy.call(name, **fields).status == 1
            else:
                with pytest.raises(grpc.RpcError) as refused:
                    busy.call(name, **fields)
                assert refused.value.code() is answer


@contextlib.contextmanager
def silent_connections(server: Server, path: str, connections: int, calls: int) -> Iterator[list[grpc.Future]]:
    """Other clients, each with so many open calls whose message never comes."""
    ended = threading.Event()

    def nothing() -> Iterator[bytes]:
        ended.wait()
        yield from ()

    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(connections):
            channel = stack.enter_context(
                grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", [("grpc.use_local_subchannel_pool", 1)])
            )
            method = channel.stream_unary(path, bytes, bytes)
            for _ in range(calls):
                opened.append(method.future(nothing()))
                stack.callback(opened[-1].cancel)
        stack.callback(ended.set)
        yield opened


def test_a_client_with_many_silent_calls_waits_for_them_itself(workplace: Path) -> None:
    with serving(workplace, "exact", "--no-access-log", "--timeout", "1000s", "--idle", "1000s") as server:
        with silent_connections(server, "/grpc.health.v1.Health/Check", 3, 100) as calls:
            for _ in range(3):
                assert server.call("Check").status == 1
            assert sum(call.done() for call in calls) < 150, "their turn comes after three others, not after all"
        with silent_connections(server, "/inference.GRPCInferenceService/ModelInfer", 1, 100):
            for _ in range(3):  # within PATIENCE_S, long before --idle
                with pytest.raises(grpc.RpcError) as refused:
                    server.call("ModelInfer", model_name="nobody")
                assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_many_clients_with_a_silent_call_each_give_way(workplace: Path) -> None:
    """Each has as few calls as the one that asks. They are cut off after 0.1 s instead of --idle."""
    with (
        serving(workplace, "exact", "--no-access-log", "--timeout", "1000s", "--idle", "1000s") as server,
        silent_connections(server, "/inference.GRPCInferenceService/ModelInfer", 30, 1),
        pytest.raises(grpc.RpcError) as refused,
    ):
        server.call("ModelInfer", model_name="nobody")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
