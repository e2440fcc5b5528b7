"""The access log: what a line tells and keeps to itself, and that a log that cannot be written stops nobody."""

from __future__ import annotations

import json
import os
import re
import resource
from pathlib import Path

import pytest

from tests.serving.running import Server, serving, start


def test_the_access_log_is_json_without_content_or_secrets(workplace: Path, photo: bytes) -> None:
    with serving(workplace, "exact") as server:
        server.ask("POST", "/classify?engine=exact&threshold=0.123", photo, {"authorization": "Bearer secret-secret"})
        server.ask("GET", "/v2/models/a%0a%1b%22b?key=secret")
        server.call("ModelMetadata", name="exact")
        assert server.end() == 0
        lines = server.access_log()
    first, second, third = lines
    assert {name: first[name] for name in ("protocol", "method", "path", "status", "model", "images", "client")} == {
        "protocol": "http",
        "method": "POST",
        "path": "/classify",
        "status": 200,
        "model": "exact",
        "images": 1,
        "client": "127.0.0.1",
    }
    assert first["ms"] > 0
    assert second["path"] == '/v2/models/a\n\x1b"b'
    assert second["status"] == 404
    assert third["protocol"] == "grpc"
    assert third["status"] == "OK"
    assert "secret" not in json.dumps(lines)


def ready_with_log(server: Server) -> None:
    found = re.search(r" on http://\S+:(\d+)", server.until("Ctrl-C ends it"))
    assert found
    server.port = int(found[1])


def lose_lines(server: Server) -> None:
    """Ask until the log has lost a line: it is written after the answer."""
    asked = 0
    while not server.metric("access_log_lines_lost_total"):
        asked += 1
        assert asked < 1000


@pytest.mark.parametrize("log", ["full disk", "reader has left"])
def test_a_log_that_cannot_be_written_costs_lines_only(workplace: Path, tmp_path: Path, log: str) -> None:
    output, reader = Path("/dev/full"), None
    if log != "full disk":
        output = tmp_path / "log"
        os.mkfifo(output)
        reader = os.open(output, os.O_RDONLY | os.O_NONBLOCK)
    with start(workplace, "exact", output=output) as server:
        ready_with_log(server)
        if reader is not None:
            os.close(reader)
        lose_lines(server)
        assert server.ask("GET", "/v2").status == 200
        assert server.end() == 0
    assert server.log.count("the access log cannot be written") == 1


def test_the_log_goes_on_once_the_disk_has_room_again(workplace: Path) -> None:
    with start(workplace, "exact") as server:
        ready_with_log(server)
        limit = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (50, limit[1]))  # ends within the first line
        lose_lines(server)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limit)
        server.ask("GET", "/v2/health/live")
        assert server.end() == 0
    cut, *lines = server.output.read_text().splitlines()
    assert len(cut) == 50
    assert json.loads(lines[-1])["path"] == "/v2/health/live"
    assert all(json.loads(line) for line in lines)
