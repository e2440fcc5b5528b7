"""gRPC's own health service, as Kubernetes asks it: without a key, and told of changes."""

from __future__ import annotations

import signal
from pathlib import Path

import grpc
import pytest

from alexnet_deploy.serving.protocol.messages import HEALTH_METHODS
from tests.serving.running import Server, serving

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


def test_check_knows_the_server_its_service_and_its_models(server: Server) -> None:
    for service in ("", "inference.GRPCInferenceService", "exact", "exact@onnxruntime"):
        assert server.call("Check", service=service).status == SERVING
    with pytest.raises(grpc.RpcError) as refused:
        server.call("Check", service="../exact")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_watch_needs_no_key_and_says_when_the_server_ends(workplace: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("0123456789abcdef\n")
    with serving(workplace, "exact", "--api-key-file", tmp_path / "keys", "--drain", "10s") as server:
        with pytest.raises(grpc.RpcError) as refused:
            server.call("ServerMetadata")
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        watch, request = server.method("Watch", "unary_stream"), HEALTH_METHODS["Watch"][0]
        watchers = {service: watch(request(service=service)) for service in ("", "exact", "none")}
        assert {service: next(answers).status for service, answers in watchers.items()} == {
            "": SERVING,
            "exact": SERVING,
            "none": SERVICE_UNKNOWN,
        }
        many = [watch(request(service="")) for _ in range(40)]  # more than there may be: refused, and not in the way
        states = [watcher.initial_metadata() and None for watcher in many]
        assert len(states) == 40
        codes = [watcher.code() for watcher in many if not watcher.is_active()]
        assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert server.call("Check").status == SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(watchers[""]).status == NOT_SERVING
        assert next(watchers["exact"]).status == NOT_SERVING
        assert next(watchers[""], None) is None
        assert server.wait() == 0
