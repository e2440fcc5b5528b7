"""``infer --ray``: what is refused before Ray starts, each in one line; Ray itself is not needed."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_deploy.errors import UnavailableError, UsageError
from alexnet_deploy.inference.ray import probe
from tests.helpers.command import Command
from tests.helpers.repository import ROOT

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install 'alexnet-deploy[ray]'")

WITHOUT_RAY = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)

sys.meta_path.insert(0, Blocked())
from alexnet_deploy.cli import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("photos", "--ray", "local"), "--ray writes a folder of Parquet parts; give --output"),
        (("photos", "--ray", "local", "-o", "out", "--format", "csv"), "--format csv: --ray writes a folder"),
        (("photos", "--ray", "local", "-o", "out", "--format", "table"), "--format table: --ray writes a folder"),
        (("--ray", "local", "-o", "out", "--watch", "photos"), "--watch runs on one machine; leave out --ray"),
        (("photos", "--ray", "local", "--resume"), "--resume is about a file; give --output"),
        (("photos", "--part-size", "9"), "--part-size is about the files of --ray"),
        (("photos", "-o", "s3://bucket/rows"), "--output s3://bucket/rows: is an address, which only --ray writes to"),
        (("photos", "--ray", "local", "-o", "out", "--threshold", "2"), "--threshold 2.0"),
    ],
)
def test_what_contradicts_ray_is_named(command: Command, place: Path, arguments: tuple[str, ...], message: str) -> None:
    ran = command("infer", *arguments, "--engine", "tiny.onnx")
    assert ran.code == 2
    assert message in ran.error
    assert not Path("out").exists()


def test_without_ray_its_extra_is_named(place: Path) -> None:
    arguments = ("infer", "photos", "--ray", "local", "-o", "out", "--engine", "tiny.onnx")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_RAY, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line == "error: --ray needs ray; pip install 'alexnet-deploy[ray]', here and on all machines"
    assert not Path("out").exists()


@needs_ray
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--part-size", "0"), "--part-size 0: must be 1 or more"),
        (("--batch", "0"), "--batch 0: must be 1 or more"),
        (("--ray", "ray://head:10001"), "--ray ray://head:10001: is an address of Ray Client"),
        (("--ray", "head"), "--ray head: is neither HOST:PORT nor local"),
        (("--ray", "head:99999"), "--ray head:99999: is neither HOST:PORT nor local"),
        (("-o", "photos"), "--output photos: is not empty, and holds no run on Ray; choose a new folder"),
        (("-o", "https://example.org/rows"), "nothing is written to https://"),
    ],
)
def test_other_mistakes_end_before_ray_starts(
    command: Command, place: Path, options: tuple[str, ...], message: str
) -> None:
    ran = command("infer", "photos", "--ray", "local", "-o", "out", "--engine", "tiny.onnx", *options)
    assert ran.code == 2
    assert message in ran.error
    assert not Path("out").exists()
    assert len(os.listdir("photos")) == 7


@needs_ray
@pytest.mark.parametrize("output", ["tiny.onnx", "tiny.onnx/below"])
def test_a_file_in_the_place_of_the_folder_stays(command: Command, place: Path, output: str) -> None:
    before = Path("tiny.onnx").read_bytes()
    ran = command("infer", "photos", "--ray", "local", "-o", output, "--engine", "tiny.onnx")
    assert ran.code == 1
    assert ran.error.startswith("error: tiny.onnx")
    assert Path("tiny.onnx").read_bytes() == before


def test_a_closed_port_is_reported_at_once() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening: nobody else gets it meanwhile
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=r"cannot be reached \(Connection refused\); check the address"):
            probe.prepare(address)


@needs_ray
def test_a_port_that_does_not_speak_ray_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own connection was still trying after two minutes."""
    monkeypatch.setattr(probe, "JOIN_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=r"cannot be joined \(no answer of a Ray cluster within 2 s\)"):
            probe.prepare(address)


def test_a_local_ray_gets_a_secret_unless_the_user_has_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    probe.prepare("local")
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(secret := os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    probe.prepare("local")
    assert os.environ["RAY_AUTH_TOKEN"] == secret


def test_help_names_both_flags() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_deploy", "infer", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--ray" in done.stdout
    assert "--part-size" in done.stdout


def test_an_address_of_another_form_is_a_usage_error() -> None:
    for address in ("", "auto", "head:", ":6379", "head:0", "http://head:6379", "a b:1"):
        with pytest.raises(UsageError, match="is neither HOST:PORT nor local"):
            probe.prepare(address)


@needs_ray
def test_a_ray_that_cannot_be_imported_is_one_line(place: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken/ray"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('of another Python')")
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_deploy", "infer", "photos", "--ray", "local", "-o", "out",
         "--engine", "tiny.onnx"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(broken.parent), str(ROOT)])},
    )  # fmt: skip
    assert done.returncode == 1
    assert "--ray cannot be imported (of another Python); reinstall it" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not Path("out/_run.json").exists()
