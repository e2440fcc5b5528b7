"""What the machine refuses in the middle of a command is one line: memory, a path, a name, Ctrl-C."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.cli.faults import one_line_faults
from alexnet_deploy.cli.flags import with_flags
from alexnet_deploy.errors import DeployError, InputError, UnavailableError
from tests.helpers.models.colour_models import hostile_classifier
from tests.helpers.repository import ROOT


def _too_large_for_numpy() -> None:
    np.empty((1 << 20, 1 << 20, 1 << 20), np.float32)


def _too_deep() -> None:
    _too_deep()


def _not_text() -> None:
    "caf\udce9".encode()


def _refused_path() -> None:
    Path("x" * 300).exists()


def _full_disk() -> None:
    with open("/dev/full", "wb") as stream:
        stream.write(b"a part of a model")


def _no_temporary_folder() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", None)
        patch.setattr(os, "open", _raising(OSError(errno.ENOSPC, "No space left on device")))
        tempfile.gettempdir()


def _raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_text_that_an_encoding_lacks_is_no_name_of_a_file() -> None:
    with pytest.raises(UnicodeEncodeError), one_line_faults():
        "0.1 → 0.2".encode("latin-1")


@pytest.mark.parametrize(
    ("fail", "error", "words"),
    [
        (_raising(MemoryError()), UnavailableError, "not enough memory; use a smaller model or a machine with more"),
        (_too_large_for_numpy, UnavailableError, "not enough memory (Unable to allocate 4.00 EiB"),
        (_raising(RuntimeError("DefaultCPUAllocator: can't allocate memory")), UnavailableError, "not enough memory"),
        (_raising(RuntimeError("CUDA out of memory")), UnavailableError, "not enough memory (CUDA out of memory)"),
        (_too_deep, InputError, "an input is nested too deeply; simplify it, or write it again"),
        (_not_text, InputError, r"caf\udce9: is not valid Unicode; rename the file or folder"),
        (_refused_path, InputError, "cannot be used (File name too long); check the path and its permissions"),
        (_full_disk, UnavailableError, "cannot be written (No space left on device); make room on its disk"),
        (_raising(OSError(errno.EIO, "I/O error")), UnavailableError, "read or written (I/O error); check its disk"),
        (_no_temporary_folder, UnavailableError, "(No usable temporary directory found in ["),
        (_raising(PermissionError(errno.EACCES, "Permission denied", b"a/b\xe9")), InputError, "cannot be used (Perm"),
    ],
)
def test_it_is_one_line(fail: Callable[[], None], error: type[DeployError], words: str) -> None:
    with pytest.raises(error) as caught, one_line_faults():
        fail()
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(errno.EBADF, "no file"), ValueError("a bug")])
def test_a_bug_of_ours_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, one_line_faults():
        raise error
    assert caught.value is error


def test_a_full_disk_of_temporary_files_names_their_folder() -> None:
    folder = tempfile.gettempdir()
    with pytest.raises(UnavailableError, match=f"or for temporary files in {folder} "), one_line_faults():
        _full_disk()


def test_the_message_names_the_flags_that_save_memory() -> None:
    def command(batch: int = 1, workers: int = 1) -> None:
        raise MemoryError

    with pytest.raises(DeployError, match=r"^not enough memory; lower --batch or --workers, or use a smaller model"):
        with_flags(command)()


def test_the_message_of_a_file_in_a_workspace_names_the_artifact() -> None:
    with pytest.raises(InputError, match=r"^caf\\udce9/x.parquet: is not valid"), one_line_faults():
        "caf\udce9/.x.parquet.tmp-tm9jten_/new/x.parquet".encode()


LOADING = """
import importlib, os, signal, sys

wanted, number, program, *arguments = sys.argv[1:]

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), int(number))

# A background job of a shell script inherits that this signal is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
sys.argv = [program, *arguments]
importlib.import_module(f"{program}.__main__").run()
"""


@pytest.mark.parametrize(
    ("command", "module"),
    [
        *(("alexnet_deploy engines", module) for module in ("alexnet_deploy.cli", "typer", "rich.console", "msgspec")),
        *(
            ("training train photos --output run", module)
            for module in ("training.cli.commands", "typer", "torch._C", "scipy")
        ),
    ],
)
def test_ctrl_c_while_it_loads_ends_it_quietly(tmp_path: Path, command: str, module: str) -> None:
    assert interrupted(tmp_path, command, module, signal.SIGINT) == (128 + signal.SIGINT, "", "")


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("alexnet_deploy engines", "rich.console"),
        ("alexnet_deploy engines", "msgspec"),
        ("training evaluate none.safetensors photos", "torch._C"),
    ],
)
def test_sigterm_ends_it_with_a_line(tmp_path: Path, command: str, module: str) -> None:
    said = "ended by SIGTERM\n"
    assert interrupted(tmp_path, command, module, signal.SIGTERM) == (128 + signal.SIGTERM, "", said)


def interrupted(folder: Path, command: str, module: str, number: signal.Signals) -> tuple[int, str, str]:
    """Exit code and output of a command that gets a signal where it imports ``module``."""
    (folder / "engines/x").mkdir(parents=True)
    (folder / "engines/x/bundle.json").touch()
    program = [sys.executable, "-c", LOADING, module, str(int(number)), *command.split()]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_no_telemetry_leaves_a_file_or_a_connection(tmp_path: Path) -> None:
    """ONNX Runtime writes a device id, a database and ``.ses`` when it is imported, and OpenVINO's package sends."""
    code = (
        "import socket, sys, time\n"
        "def refuse(*args): raise AssertionError('it opens a connection')\n"
        "socket.socket.connect = socket.create_connection = refuse\n"
        "import alexnet_deploy as ad\n"
        "import numpy as np\n"
        "for runtime in ('onnxruntime', 'openvino'):\n"
        "    with ad.open_engine(sys.argv[1], runtime=runtime) as engine:\n"
        "        engine(np.zeros((1, 8, 8, 3), np.uint8))\n"
        "import alexnet_deploy.onnx_graph.taps\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
    )
    places = {name: tmp_path / name for name in ("home", "tmp", "cache")}
    for place in places.values():
        place.mkdir()
    # Without CI and pytest's variables, each of which turns it off.
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH")}
    environment |= {"HOME": str(places["home"]), "TMPDIR": str(places["tmp"]), "OMP_NUM_THREADS": "1"}
    environment |= {"ALEXNET_DEPLOY_CACHE": str(places["cache"]), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(
        [sys.executable, "-c", code, hostile_classifier(tmp_path / "colours.onnx")], env=environment, check=True
    )
    assert list(places["home"].rglob("*")) == []
    assert list(places["tmp"].rglob("*")) == []
