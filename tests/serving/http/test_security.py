"""Who may ask what, over what."""

from __future__ import annotations

import base64
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.serving.refusals import UnauthenticatedError
from alexnet_deploy.serving.security import Keys, is_loopback, require_protection
from alexnet_deploy.serving.settings import Settings
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


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"", "holds no key"),
        (b"# only a comment\n", "holds no key"),
        (b"\t #a-comment-of-one-word\n", "holds no key"),
        (b"short\n", "shorter than 16 characters"),
        (b"two words are no key\n", "has a space"),
        (b"a-tab-in-a-key\tis-one\n", "has a space"),
        ("schlüssel-schlüssel".encode(), "is not plain ASCII"),
        (b"# comment\n" * 6553 + KEY.encode() * 2, "is larger than 64 KiB"),  # whose first 64 KiB end within the key
        (b"k" * (1 << 20), "is larger than 64 KiB"),
    ],
)
def test_a_key_file_that_protects_nothing_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError) as refused:
        Keys(file)
    assert says in str(refused.value)


def test_a_key_file_may_have_64_kib(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY.rjust(1 << 16, "\n"))
    Keys(tmp_path / "keys").check({"x-api-key": KEY})


def test_a_key_may_have_colons_as_the_password_of_a_browser_too(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{KEY}:and:more")
    basic = base64.b64encode(f"anybody:{KEY}:and:more".encode()).decode()
    Keys(tmp_path / "keys").check({"authorization": f"Basic {basic}"})
    with pytest.raises(UnauthenticatedError):
        Keys(tmp_path / "keys").check({"x-api-key": KEY})


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
     ("10.0.0.1", False), ("example.org", False), ("localhost.example.org", False), ("", False)],
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
