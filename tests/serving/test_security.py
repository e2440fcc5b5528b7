"""Who may ask what, over what; and the bad settings that are one line before anything listens."""

from __future__ import annotations

import base64
import itertools
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.serving.refusals import UnauthenticatedError
from alexnet_deploy.serving.security import Keys, is_loopback, require_protection
from alexnet_deploy.serving.settings import Settings
from tests.helpers.command import Command
from tests.helpers.repository import ROOT
from tests.serving.running import Server, serving

KEY, SECOND = "correct-horse-battery", "second-key-of-another-team"


@pytest.fixture(scope="module")
def guarded(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    file = tmp_path_factory.mktemp("keys") / "keys.txt"
    file.write_text(f"# ours\n{KEY}\n\n{SECOND}\n")
    with serving(workplace, "exact", "--api-key-file", file) as running:
        yield running


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/page.js",
        "/v2",
        "/v2/models/exact",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/v2/models/exact/stats",
        "/none",
    ],
)
def test_everything_but_health_needs_a_key(guarded: Server, path: str) -> None:
    assert guarded.ask("GET", "/v2/health/live").status == 200
    assert guarded.ask("GET", "/v2/health/ready").status == 200
    for wrong in ({}, {"authorization": "Bearer x"}, {"x-api-key": KEY[:-1]}, {"authorization": "Basic !"}):
        answer = guarded.ask("GET", path, headers=wrong)
        assert answer.status == 401
        assert "needs a key" in answer.error
        assert answer.headers["www-authenticate"].startswith("Basic")
    basic = base64.b64encode(f"anybody:{KEY}".encode()).decode()
    for right in (
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {SECOND}"},
        {"x-api-key": KEY},
        {"authorization": f"Basic {basic}"},
    ):
        assert guarded.ask("GET", path, headers=right).status == (404 if path == "/none" else 200)


def test_a_body_without_a_key_is_not_read(guarded: Server) -> None:
    with guarded.raw() as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert b" 401 " in connection.recv(1 << 16)


def test_grpc_needs_the_same_key(guarded: Server) -> None:
    assert guarded.call("ServerReady").ready
    for wrong in ({}, {"authorization": "Bearer x"}):
        with pytest.raises(grpc.RpcError) as refused:
            guarded.call("ModelMetadata", wrong, name="exact")
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert guarded.call("ModelMetadata", {"authorization": f"Bearer {KEY}"}, name="exact").name == "exact"


def test_every_answer_carries_the_security_headers(server: Server) -> None:
    for path in ("/", "/v2", "/none", "/classify"):
        headers = server.ask("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert "server" not in headers


def test_tls(workplace: Path, tmp_path: Path, photos: list[Path]) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*make, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with serving(workplace, "exact", "--certificate", certificate, "--key", key) as server:
        server.tls = ssl.create_default_context(cafile=str(certificate))
        assert server.ask("POST", "/classify", (workplace / photos[0]).read_bytes()).json()[0]["error"] is None
        with server.raw() as plain:
            plain.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" not in plain.recv(1 << 16)
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        server._channel = grpc.secure_channel(f"127.0.0.1:{server.grpc_port}", credentials)
        assert server.call("ServerReady").ready


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two certificates, ``1.pem`` and ``2.pem``, their keys, and the first one's key with a password."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("pairs")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    for name in ("1", "2"):
        pair = ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"]
        subprocess.run([*make, *pair], check=True, capture_output=True)
    encrypt = ["openssl", "rsa", "-aes256", "-passout", "pass:x", "-in", folder / "1.key"]
    subprocess.run([*encrypt, "-out", folder / "encrypted.key"], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"", "holds no key"),
        (b"# only a comment\n", "holds no key"),
        (b"short\n", "shorter than 16 characters"),
        (b"two words are no key\n", "has a space"),
        ("schlüssel-schlüssel".encode(), "is not plain ASCII"),
    ],
)
def test_a_key_file_that_protects_nothing_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError) as refused:
        Keys(file)
    assert says in str(refused.value)


def test_without_a_file_nobody_is_asked_for_a_key() -> None:
    Keys(None).check({})


def test_a_key_of_other_characters_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY)
    for given in ("", "Bearer", "Bearer é" * 10, f"Bearer {KEY}x", f"Digest {KEY}"):
        with pytest.raises(UnauthenticatedError):
            Keys(tmp_path / "keys").check({"authorization": given})


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_other_machines_need_a_key_or_somebody_who_said_otherwise(host: str, is_local: bool, tmp_path: Path) -> None:
    assert is_loopback(host) == is_local
    require_protection(Settings(host=host, allow_unauthenticated=True))
    require_protection(Settings(host=host, api_key_file=tmp_path))
    if is_local:
        require_protection(Settings(host=host))
    else:
        with pytest.raises(UsageError, match="other machines could use this server"):
            require_protection(Settings(host=host))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("none",), 1, "none: no such engine"),
        (("../engines/none",), 1, "no such engine"),
        (("none.onnx",), 1, "none.onnx: no such file"),
        (("exact", "exact"), 2, "a model exact is named already"),
        (("exact@gpu",), 2, "'gpu' is not a runtime"),
        (("exact", "--host", "0.0.0.0"), 2, "--host 0.0.0.0: other machines"),
        (("exact", "--host", "no.such.host.invalid"), 2, "--host"),
        (("exact", "--host", "192.0.2.1", "--allow-unauthenticated"), 1, "cannot be used"),
        (("exact", "--api-key-file", "none.txt"), 1, "--api-key-file none.txt: cannot be read"),
        (("exact", "--certificate", "none.pem"), 2, "--certificate and --key belong together"),
        (("exact", "--certificate", "none.pem", "--key", "none.pem"), 1, "--certificate none.pem: cannot be read"),
        (("exact", "--certificate", "colours.onnx", "--key", "colours.onnx"), 1, "does not make a pair"),
        (("exact", "--max-batch", "0"), 2, "--max-batch 0: must be 1 or more"),
        (("exact", "--max-batch", "1000000"), 2, "--max-batch 1000000 exceeds --max-queue 256"),
        (("exact", "--threads", "1000000"), 2, "--threads 1000000: above"),
        (("exact", "--workers", "1000000"), 2, "--workers 1000000: above"),
        (("exact", "--instances", "1000000"), 2, "--instances 1000000: above"),
        (("exact", "--max-queue", "3"), 2, "--max-images 64 exceeds --max-queue 3"),
        (("exact", "--port", "70000"), 2, "--port 70000: is no port"),
        (("exact", "--port", "5000", "--grpc-port", "5000"), 2, "--grpc-port 5000: is the port of HTTP"),
        (("exact", "--max-delay", "2"), 2, "'2' is not a time"),
        (("exact", "--timeout", "0s"), 2, "--timeout must be above 0"),
        (("exact", "--max-body", "0B"), 2, "--max-body 0: must be 1 or more"),
        (("exact", "--max-memory", "1B"), 2, "--max-memory 1 is below --max-body"),
        (("exact", "--labels", "x.txt"), 2, "for an ONNX of another tool"),
    ],
)
def test_a_bad_setting_is_one_line(
    command: Command, here: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    ran = command("serve", *arguments)
    assert ran.code == code, ran.err
    assert says in ran.error
    assert ran.out == ""
    assert ran.err.splitlines() == [ran.error]  # above all not "loading exact"


@pytest.mark.parametrize(
    ("option", "damage"),
    [
        *itertools.product(("--api-key-file", "--certificate", "--key"), ("none", "folder", "FIFO", "no text")),
        ("--certificate", "2.pem"),
        ("--key", "2.key"),
        ("--key", "encrypted.key"),
    ],
)
def test_a_file_that_cannot_be_used_is_known_before_anything_is_loaded(
    command: Command, here: Path, pairs: Path, option: str, damage: str
) -> None:
    shutil.copytree(pairs, here, dirs_exist_ok=True)
    files = {"--api-key-file": here / "keys.txt", "--certificate": here / "1.pem", "--key": here / "1.key"}
    files["--api-key-file"].write_text(f"{KEY}\n")
    file = files[option]
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage == "FIFO":
        os.mkfifo(file)
    elif damage == "no text":
        file.write_bytes(b"\xff\xfe")
    elif damage != "none":
        shutil.copy(damage, file)
    ran = command("serve", "exact", "--port", 0, *(word for pair in files.items() for word in pair))
    assert ran.code == 1, ran.err
    assert ran.err.splitlines() == [ran.error]
    assert f"{option} {file}" in ran.error


def in_use(host: str, *, shared: bool = False) -> socket.socket:
    """A socket that listens, on a port of its choice."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    other = socket.socket(family)
    if shared:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        other.bind((host, 0))
    except OSError as exc:
        other.close()
        pytest.skip(f"no {host} here: {exc}")
    other.listen()
    return other


@pytest.mark.parametrize("option", ["--port", "--grpc-port"])
@pytest.mark.parametrize(
    ("host", "by", "shared"),
    [
        ("127.0.0.1", "127.0.0.1", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("localhost", "127.0.0.1", False),
        ("0.0.0.0", "127.0.0.1", False),
        ("::", "::1", False),
        ("::1", "::1", False),
    ],
)
def test_a_port_in_use_is_one_line(command: Command, here: Path, option: str, host: str, by: str, shared: bool) -> None:
    with in_use(by, shared=shared) as other:
        port = other.getsockname()[1]
        ran = command("serve", "exact", "--host", host, "--allow-unauthenticated", "--port", 0, option, port)
    assert ran.code == 1
    assert ran.err.splitlines() == [
        f"error: {option} {port} on {host}: cannot be used (Address already in use); choose another"
    ]


def test_an_empty_store_names_the_next_step(command: Command, tmp_path: Path) -> None:
    ran = command("serve", "--store", tmp_path)
    assert ran.code == 1
    assert "holds no engine; build one" in ran.error


def test_a_package_that_cannot_be_imported_is_one_line(here: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/uvicorn.py").write_text("raise ImportError('libssl.so.3: cannot open')")
    ran = subprocess.run(
        [sys.executable, "-m", "alexnet_deploy", "serve", "exact"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "broken"), str(ROOT)])},
    )  # fmt: skip
    assert ran.returncode == 1
    assert "cannot be imported (libssl.so.3: cannot open); reinstall: pip install" in ran.stderr.splitlines()[-1]
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    "package", ["uvicorn", "starlette", "grpc", "prometheus_client", "httptools", "uvloop", "python_multipart"]
)
def test_without_the_extra_it_is_named(here: Path, package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from alexnet_deploy.cli import main; main()"
    ran = subprocess.run([sys.executable, "-c", code, "serve", "exact"], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].endswith("pip install 'alexnet-deploy[serve]'"), ran.stderr
