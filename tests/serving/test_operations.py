"""A server's life: ready, reloading, draining; and the metrics that tell of it."""

from __future__ import annotations

import base64
import io
import os
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from alexnet_deploy.bundle.manifest import MANIFEST, MODEL
from alexnet_deploy.files import atomic_directory
from tests.serving.running import PATIENCE_S, Response, Server, answers, serving, start


@pytest.fixture
def store(workplace: Path, tmp_path: Path) -> Path:
    """A store with copies of ``exact`` (as ``live``) and ``ruined``."""
    for source, name in (("exact", "live"), ("ruined", "other")):
        shutil.copytree(workplace / "engines" / source, tmp_path / "engines" / name)
    return tmp_path / "engines"


@pytest.fixture
def photo(workplace: Path, photos: list[Path]) -> bytes:
    return (workplace / photos[-1]).read_bytes()


def replace(bundle: Path, by: Path) -> None:
    """As ``build-engine`` replaces a bundle: in one step."""
    with atomic_directory(bundle) as temporary:
        for file in by.iterdir():
            shutil.copy(file, temporary / file.name)


def slow_image() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (7000, 7000)).save(stream, "PNG")
    return stream.getvalue()


class Clients:
    """Requests one after the other in some threads, until ``stop``."""

    def __init__(self, server: Server, body: bytes, threads: int = 3) -> None:
        self._server, self._body = server, body
        self._ending = threading.Event()
        self._pool = ThreadPoolExecutor(threads)
        self._jobs = [self._pool.submit(self._ask) for _ in range(threads)]

    def _ask(self) -> list[Response]:
        got = []
        while not self._ending.is_set():
            got.append(self._server.ask("POST", "/classify?top_k=1", self._body))
        return got

    def stop(self) -> list[Response]:
        self._ending.set()
        got = [response for job in self._jobs for response in job.result()]
        self._pool.shutdown()
        return got


def test_a_replaced_engine_takes_over_without_a_failed_or_mixed_request(store: Path, photo: bytes) -> None:
    with serving(store.parent, "live", "--reload", "50ms") as server:
        old = server.ask("POST", "/classify?top_k=1", photo)
        clients = Clients(server, photo)
        replace(store / "live", store / "other")
        server.until("live: replaced")
        new = server.ask("POST", "/classify?top_k=1", photo)
        assert new.headers["x-engine-version"] != old.headers["x-engine-version"]
        assert new.json() != old.json()
        wanted = {answer.headers["x-engine-version"]: answer.json() for answer in (old, new)}
        got = clients.stop()
        assert got
        for response in got:
            assert response.status == 200
            assert response.json() == wanted[response.headers["x-engine-version"]]
        assert server.metric('reloads_total{model="live",outcome="replaced"}') == 1
        assert server.metric("engine_info") == 1
        assert server.ask("GET", "/v2/models/live").json()["versions"] == [new.headers["x-engine-version"]]


def test_a_reader_of_the_log_who_has_left_is_no_loss(store: Path, photo: bytes) -> None:
    """The line about a new engine ended the task that looks at the files, and with it the server."""
    shutil.copytree(store / "live", store / "first")
    with serving(store.parent, "live", "--reload", "50ms") as server, open(os.devnull, "rb") as nothing:
        assert server.process.stderr is not None
        server.process.stderr.close()
        server.process.stderr = nothing
        for count, other in enumerate(("other", "first"), 1):
            replace(store / "live", store / other)
            deadline = time.monotonic() + PATIENCE_S
            while server.metric('reloads_total{model="live",outcome="replaced"}') < count:
                assert time.monotonic() < deadline
            answers(server, photo)
        assert server.end() == 0


@pytest.mark.parametrize("damage", ["edited weights", "no manifest", "a FIFO", "gone"])
def test_a_broken_replacement_leaves_the_old_one_serving_and_says_so(store: Path, photo: bytes, damage: str) -> None:
    with serving(store.parent, "live", "--reload", "50ms") as server:
        before = server.ask("POST", "/classify", photo)
        if damage == "edited weights":
            broken = store.parent / "broken"
            shutil.copytree(store / "other", broken)
            with (broken / MODEL).open("r+b") as stream:
                stream.seek(1000)
                stream.write(b"edited")
            replace(store / "live", broken)
        elif damage == "no manifest":
            (store / "live" / MANIFEST).write_text("{}")
        elif damage == "a FIFO":  # to open it would wait for ever
            (store / "live" / MANIFEST).unlink()
            os.mkfifo(store / "live" / MANIFEST)
        else:
            shutil.move(store / "live", store.parent / "elsewhere")
        log = server.until("goes on, as the new one cannot be used: ")
        assert f"live: version {before.headers['x-engine-version']} goes on" in log
        after = server.ask("POST", "/classify", photo)
        assert after.json() == before.json()
        assert after.headers["x-engine-version"] == before.headers["x-engine-version"]
        assert server.ask("GET", "/v2/health/ready").status == 200
        assert server.metric('reloads_total{model="live",outcome="failed"}') == 1
        if damage == "gone":
            shutil.copytree(store / "other", store / "live")
            server.until("live: replaced")


def test_sigterm_answers_what_has_arrived_and_ends_with_0(workplace: Path) -> None:
    with serving(workplace, "exact") as server:
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(server.ask, "POST", "/classify", slow_image())
            while not server.metric("queue_images"):
                assert not answer.done()
            assert server.end() == 0
            assert answer.result().json()[0]["error"] is None
        assert server.log.count("\n") == 2, server.log  # loading, serving


def test_the_drain_has_an_end(workplace: Path) -> None:
    with serving(workplace, "exact", "--drain", "1s", "--idle", "60s") as server, server.raw() as stuck:
        stuck.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        server.ask("GET", "/v2")  # the bytes before have been read
        assert server.end(signal.SIGINT) == 0


def test_a_second_signal_ends_it_at_once(workplace: Path) -> None:
    with serving(workplace, "exact", "--drain", "1h", "--idle", "1h") as server, server.raw() as stuck:
        stuck.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        server.ask("GET", "/v2")
        server.process.send_signal(signal.SIGTERM)
        while server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
        assert server.wait() == -signal.SIGTERM


def test_a_load_that_never_ends_does_not_keep_the_process(workplace: Path, tmp_path: Path) -> None:
    """A runtime whose driver does not answer: its import blocks in a system call, as such calls do."""
    os.mkfifo(tmp_path / "driver")
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino/__init__.py").write_text(f"open({str(tmp_path / 'driver')!r}).read()\n")
    with start(workplace, "exact@openvino", environment={"PYTHONPATH": str(tmp_path)}) as server:
        with open(tmp_path / "driver", "wb"):  # returns once the other end is opened: the load is stuck
            assert server.end() == 0
        assert "ends although an engine is still being loaded" in server.log


def test_a_decoder_that_never_ends_does_not_keep_the_process(workplace: Path, tmp_path: Path) -> None:
    """Its package blocks in a system call; a large image on a busy machine takes as long, but not for ever."""
    os.mkfifo(tmp_path / "pixels")
    (tmp_path / "pillow_jxl").mkdir()
    (tmp_path / "pillow_jxl/__init__.py").write_text(f"open({str(tmp_path / 'pixels')!r}).read()\n")
    environment = {"PYTHONPATH": str(tmp_path)}
    with serving(workplace, "exact", "--drain", "1s", environment=environment) as server, server.raw() as client:
        client.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n\xff\x0a\0")
        with open(tmp_path / "pixels", "wb"):  # returns once the other end is opened: the decoder is stuck
            assert server.end() == 0
        assert "or an image decoded" in server.log


def test_it_listens_before_it_is_ready_and_then_says_so(workplace: Path) -> None:
    """While a model loads the server is alive and not ready, and a request gets 503 with Retry-After."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with start(workplace, "exact", "ruined", "--port", port, output=workplace / "log.jsonl") as server:
        server.port = port
        seen = set()
        while "Ctrl-C" not in server.log:
            try:
                alive, ready = (server.ask("GET", f"/v2/health/{what}").status for what in ("live", "ready"))
            except ConnectionRefusedError:
                assert server.process.poll() is None
                continue
            seen.add((alive, ready))
            if ready == 200:
                server.until("Ctrl-C")
            else:
                early = server.ask("POST", "/classify?engine=ruined", b"x")
                if early.status == 503:
                    seen.add("early")
                    assert early.error == "ruined: is being loaded; try again later"
                    assert early.headers["retry-after"]
        assert seen == {(200, 503), (200, 200), "early"}


def test_metrics_count_requests_images_batches_and_steps(workplace: Path, photo: bytes) -> None:
    with serving(workplace, "exact", "ruined", "--no-access-log") as server:
        server.ask("POST", "/classify?engine=ruined", photo)
        server.ask("POST", "/classify", b"none")
        server.ask("POST", "/classify", b"")
        both = [base64.b64encode(content).decode() for content in (photo, b"none")]
        given = {"name": "image", "datatype": "BYTES", "shape": [2], "data": both}
        assert server.infer("exact", {"inputs": [given]}).status == 400, "refused as a whole: no image is answered"
        assert server.infer("exact", {"inputs": [given], "outputs": [{"name": "error"}]}).status == 200
        with pytest.raises(Exception, match="NOT_FOUND"):
            server.call("ModelInfer", model_name="none")
        assert server.metric('requests_total{code="200",model="ruined",operation="classify",protocol="http"}') == 1
        assert server.metric('requests_total{code="400",model="exact",operation="classify",protocol="http"}') == 1
        assert server.metric('requests_total{code="NOT_FOUND",model="",operation="infer",protocol="grpc"}') == 1
        assert server.metric('images_total{model="ruined",outcome="answered"}') == 1
        assert server.metric('images_total{model="exact",outcome="answered"}') == 1
        assert server.metric('images_total{model="exact",outcome="failed"}') == 1 + 2 + 1
        for step in ("decode", "queue", "compute"):
            assert server.metric(f'{step}_seconds_count{{model="ruined"}}') == 1
        assert server.metric('batch_images_sum{model="ruined"}') == 1
        assert server.metric("ready") == 1
        text = server.ask("GET", "/metrics").body.decode()
        for outcome in ("replaced", "failed"):  # there before the first one
            assert f'reloads_total{{model="ruined",outcome="{outcome}"}} 0.0' in text
        assert server.metric("engine_info") == 2
        assert server.access_log() == []


def test_onnx_files_are_served_and_replaced_as_well(workplace: Path, tmp_path: Path, photo: bytes) -> None:
    shutil.copy(workplace / "engines/exact" / MODEL, tmp_path / "mine.onnx")
    with serving(tmp_path, "mine.onnx", "--reload", "50ms") as server:
        old = server.ask("POST", "/classify", photo)
        assert server.ask("GET", "/v2/models/mine").status == 200
        shutil.copy(workplace / "engines/ruined" / MODEL, tmp_path / "new.onnx")
        (tmp_path / "new.onnx").replace(tmp_path / "mine.onnx")
        server.until("mine: replaced")
        assert server.ask("POST", "/classify", photo).json() != old.json()
