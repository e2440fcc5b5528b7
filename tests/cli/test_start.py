"""What starting costs: no heavy library where it is not needed, and none at all for ``infer`` beside its runtime."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alexnet_deploy.cli import GROUPS, app, app_for
from tests.helpers.command import Command
from tests.helpers.models.bundles import build_bundle
from tests.helpers.repository import ROOT

HEAVY = ("torch", "onnx", "onnxscript", "tensorrt", "tensorrt_rtx", "matplotlib", "pyarrow", "requests", "safetensors")
ALL = sum(map(len, GROUPS.values()))
"""Number of commands."""
LIGHTER = ("numpy", "PIL", "onnxruntime", "openvino", "cuda", "pycuda")

BLOCKED = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)

sys.meta_path.insert(0, Blocked())
from alexnet_deploy.cli import main
main()
"""


def start(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", BLOCKED, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path) -> Path:
    """A folder whose store holds one bundle with a plan for another machine."""
    folder = tmp_path_factory.mktemp("store")
    build_bundle(tiny_onnx, folder / "engines/tiny")
    return folder


@pytest.mark.parametrize("arguments", [("--help",), ("infer", "--help"), ("engines",), ("inspect", "tiny")])
def test_looking_around_loads_nothing_heavy(store: Path, arguments: tuple[str, ...]) -> None:
    done = start(*arguments, cwd=store)
    assert done.returncode == 0, done.stderr


def test_the_command_line_comes_up_without_numpy_pillow_or_a_runtime() -> None:
    """Loading the first two took a third of the time of ``--help``."""
    code = f"import sys, alexnet_deploy.cli; print(sorted({{*{HEAVY + LIGHTER!r}}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).stdout == b"[]\n"


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_infer_needs_only_its_runtime(store: Path, photo_folder: Path, runtime: str) -> None:
    done = start("infer", photo_folder / "val", "--runtime", runtime, "--format", "jsonl", cwd=store)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 6


def test_auto_passes_over_a_tensorrt_that_does_not_load(store: Path, photo_folder: Path) -> None:
    done = start("infer", photo_folder / "val", cwd=store)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("running tiny (fp32) with OpenVINO")
    done = start("--verbose", "infer", photo_folder / "val", cwd=store)
    assert "not used: tensorrt: tiny: no plan for this machine" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [(("export",), "export"), (("summary",), "export"), (("infer", ".", "--engine", "x.onnx"), "onnx")],
)
def test_a_missing_package_is_one_line_with_its_extra(store: Path, arguments: tuple[str, ...], extra: str) -> None:
    (store / "photo.png").write_bytes((ROOT / "samples/baseball_alpha.png").read_bytes())
    done = start(*arguments, cwd=store)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert extra in done.stderr
    assert "Traceback" not in done.stderr


AT_THE_END = """
import atexit, gc, json, sys
from alexnet_deploy.__main__ import run

def report():
    print(json.dumps({"collects": gc.isenabled(), "spared": gc.get_freeze_count(), "loaded": sorted(sys.modules)}))

atexit.register(report)
run()
"""


def at_the_end(*arguments: object, cwd: Path) -> Any:
    """What a command's process looks like when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_END, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("engine", ["tiny", "missing"])
def test_a_command_collects_garbage_but_not_in_what_it_was_started_with(
    store: Path, photo_folder: Path, engine: str
) -> None:
    ended = at_the_end("infer", photo_folder / "val", "--engine", engine, "--format", "jsonl", cwd=store)
    assert ended["collects"]
    # NumPy, Pillow and the command line alone have more; the interpreter by itself has none.
    assert ended["spared"] > 20_000


@pytest.mark.parametrize("collects", [True, False])
def test_a_command_within_another_program_leaves_its_collector_alone(
    command: Command, store: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch, collects: bool
) -> None:
    monkeypatch.chdir(store)
    gc.freeze()  # as a server does that forks
    frozen = gc.get_freeze_count()
    if not collects:
        gc.disable()
    try:
        assert command("infer", photo_folder / "val", "--format", "jsonl").code == 0
        assert gc.isenabled() is collects
    finally:
        gc.enable()
    assert gc.get_freeze_count() <= frozen, "fewer, if one of them has ended"


def test_only_the_command_line_does_without_the_converter_of_openvino(store: Path, photo_folder: Path) -> None:
    ended = at_the_end("infer", photo_folder / "val", "--runtime", "openvino", "--format", "jsonl", cwd=store)
    assert "openvino" in ended["loaded"]
    assert "openvino.tools.ovc.convert" not in ended["loaded"]
    code = "import alexnet_deploy.runtime.openvino_runner, openvino; print(callable(openvino.convert_model))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize(
    ("line", "prepared"),
    [
        ("infer --help", 1),
        ("--verbose build-engine", 1),
        ("", ALL),
        ("--help", ALL),
        ("--help infer", ALL),
        ("--version infer", ALL),
        ("infr", ALL),
        ("--verbose", ALL),
    ],
)
def test_only_the_named_command_is_prepared(line: str, prepared: int) -> None:
    assert len(app_for(line.split()).registered_commands) == prepared
    assert len(app.registered_commands) == ALL


def test_a_command_that_does_not_exist_is_told_from_all(store: Path) -> None:
    done = start("infr", cwd=store)
    assert (done.returncode, "Did you mean 'infer'?" in done.stderr) == (2, True)
