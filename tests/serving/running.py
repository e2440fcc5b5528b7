"""A real server in a process of its own, and clients without a library."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from alexnet_deploy.serving.protocol.messages import HEALTH, HEALTH_METHODS, METHODS, SERVICE

PATIENCE_S = 120  # a busy machine starts it in ten


class Response(NamedTuple):
    """What came back over HTTP; headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The one line of a refusal."""
        text = self.json()["error"]
        assert "\n" not in text
        return str(text)


@dataclass
class Server:
    """A running ``alexnet-deploy serve``; ``log`` is its standard error so far."""

    process: subprocess.Popen[bytes]
    output: Path
    port: int = 0
    grpc_port: int = 0
    log: str = ""
    tls: ssl.SSLContext | None = None
    _channel: grpc.Channel | None = field(default=None, repr=False)

    def connect(self) -> http.client.HTTPConnection:
        if self.tls is not None:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE_S, context=self.tls)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> Response:
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Response(response.status, found, response.read())

    def infer(self, model: str, request: object, **headers: str) -> Response:
        return self.ask("POST", f"/v2/models/{model}/infer", json.dumps(request).encode(), headers)

    def raw(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def method(self, name: str, kind: str = "unary_unary") -> Any:
        """An RPC of either service; ``kind`` is grpc's name for which sides stream."""
        if self._channel is None:
            self._channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}")
        service, methods = (f"inference.{SERVICE}", METHODS) if name in METHODS else (HEALTH, HEALTH_METHODS)
        request, response = methods[name]
        return getattr(self._channel, kind)(
            f"/{service}/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )

    def call(self, name: str, metadata: Mapping[str, str] = {}, /, **fields: Any) -> Any:
        """One RPC; ``grpc.RpcError`` if it is refused."""
        request = (METHODS | HEALTH_METHODS)[name][0]
        return self.method(name)(request(**fields), metadata=tuple(metadata.items()), timeout=PATIENCE_S)

    def stream(self, requests: Iterable[Any], **options: Any) -> Any:
        """ModelStreamInfer; ``requests`` are the fields of each."""
        messages = (METHODS["ModelStreamInfer"][0](**fields) for fields in requests)
        return self.method("ModelStreamInfer", "stream_stream")(messages, timeout=PATIENCE_S, **options)

    def peak_bytes(self) -> int:
        """The most memory that it has had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found
        return int(found[1]) << 10

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels; ``name`` may name some of them in braces."""
        wanted, _, labels = name.partition("{")
        total = 0.0
        for line in self.ask("GET", "/metrics").body.decode().splitlines():
            found = re.fullmatch(r"alexnet_deploy_(\w+)(?:\{(.*)\})? (\S+)", line)
            if found and found[1] == wanted and labels.rstrip("}") in (found[2] or ""):
                total += float(found[3])
        return total

    def until(self, text: str) -> str:
        """Read the log until it has ``text``; AssertionError if the server ends before, or does not say it."""
        deadline = time.monotonic() + PATIENCE_S
        stream = self.process.stderr
        assert stream is not None
        while text not in self.log:
            ready, _, _ = select.select([stream], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"no {text!r} in {self.log!r}"
            piece = os.read(stream.fileno(), 1 << 16)
            assert piece, f"ended without {text!r}: {self.log}"
            self.log += piece.decode()
        return self.log

    def access_log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.read_text().splitlines()]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code; the log is complete then."""
        if self._channel is not None:
            self._channel.close()
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        assert self.process.stderr is not None
        code = self.process.wait(PATIENCE_S)
        self.log += self.process.stderr.read().decode()
        return code


@contextlib.contextmanager
def start(
    cwd: Path,
    *arguments: object,
    store: Path | str = "engines",
    output: Path | None = None,
    environment: Mapping[str, str] = {},
) -> Iterator[Server]:
    """``alexnet-deploy serve`` on free ports; its log must have no traceback at the end."""
    output = output or cwd / f"access-{time.monotonic_ns()}.jsonl"
    command = [sys.executable, "-W", "error", "-m", "alexnet_deploy", "serve", *map(str, arguments)]
    if "--port" not in arguments:
        command += ["--port", "0"]
    command += ["--grpc-port", "0", "--store", str(store)]
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=cwd, stdout=stream, stderr=subprocess.PIPE, env=os.environ | dict(environment)
        )
    server = Server(process, output)
    try:
        yield server
    finally:
        if process.poll() is None:
            assert server.end() == 0
        assert process.stderr is not None
        process.stderr.close()
    assert "Traceback" not in server.log, server.log


@contextlib.contextmanager
def serving(
    cwd: Path, *arguments: object, store: Path | str = "engines", environment: Mapping[str, str] = {}
) -> Iterator[Server]:
    """A server that is ready."""
    with start(cwd, *arguments, store=store, environment=environment) as server:
        found = re.search(r"serving \S.* on https?://\S+:(\d+), gRPC on \S+:(\d+)", server.until("Ctrl-C ends it"))
        assert found, server.log
        server.port, server.grpc_port = int(found[1]), int(found[2])
        yield server


def answers(server: Server, photo: bytes) -> None:
    """Assert that the server goes on."""
    response = server.ask("POST", "/classify", photo)
    assert response.status == 200
    assert response.json()[0]["error"] is None
