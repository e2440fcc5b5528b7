"""What stops ``serve`` before it loads anything: one line, the only one."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command import Command
from tests.helpers.repository import ROOT

KEY = "correct-horse-battery"


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
    ("arguments", "code", "says"),
    [
        (("none",), 1, "none: no such engine"),
        (("../engines/none",), 1, "no such engine"),
        (("none.onnx",), 1, "none.onnx: no such file"),
        (("exact", "exact"), 2, "a model exact is named already"),
        (("exact@gpu",), 2, "'gpu' is not a runtime"),
        (("exact@onnxruntime", "--runtime", "openvino"), 2, "--runtime openvino: contradicts exact@onnxruntime"),
        (("exact@auto", "ruined@onnxruntime", "--runtime", "openvino"), 2, "contradicts exact@auto and ruined@onn"),
        # What follows is consistent, so that the port is the only fault.
        (("exact@openvino", "--runtime", "openvino", "--port", "70000"), 2, "--port 70000: is no port"),
        (("exact@onnxruntime", "ruined", "--runtime", "openvino", "--port", "70000"), 2, "--port 70000: is no port"),
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
