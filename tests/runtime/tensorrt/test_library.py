"""A TensorRT that is not there, or is something else, is one line, and never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexnet_deploy import doctor
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.runtime.tensorrt.library import FULL, installed, load


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Python finds a package ``tensorrt`` first: the folder that a command was started in."""
    before = sys.modules.pop(FULL, None)
    monkeypatch.syspath_prepend(str(tmp_path))
    load.cache_clear()
    (tmp_path / FULL).mkdir()
    yield tmp_path / FULL
    load.cache_clear()
    sys.modules.pop(FULL, None)
    if before is not None:
        sys.modules[FULL] = before


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("x = 1", "module 'tensorrt' has no attribute '__version__'"),
        ("__version__ = '10.16.1'", "has no attribute 'ILogger'"),
        ("raise RuntimeError('CUDA driver version is insufficient')", "RuntimeError: CUDA driver version is"),
        ("raise ImportError('libnvinfer.so.10: cannot open it')", "ImportError: libnvinfer.so.10: cannot open it"),
        ("1 +", "SyntaxError: "),
    ],
)
def test_what_does_not_load_is_named_with_its_cause(code: str, cause: str, folder: Path) -> None:
    (folder / "__init__.py").write_text(code)
    with pytest.raises(UnavailableError, match="tensorrt is installed but does not load") as caught:
        load(FULL)
    assert cause in caught.value.cause
    assert caught.value.fix == "pip install 'alexnet-deploy[gpu]'"
    assert FULL not in installed()
    row = {check.name: check for check in doctor.examine()}["TensorRT"]
    assert (row.state, row.fix) == ("broken", caught.value.fix)


def test_the_full_one_without_a_gpu_is_not_said_to_build(folder: Path) -> None:
    logger = "class ILogger:\n    ERROR, INTERNAL_ERROR = 1, 2\n    def __init__(self):\n        pass\n"
    (folder / "__init__.py").write_text(f"__version__ = '10.16.1'\n{logger}")
    (row,) = [check for check in doctor._tensorrt(has_gpu=False) if check.name == "TensorRT"]
    assert (row.state, row.found) == ("ok", "10.16.1, builds plans only on a machine with a GPU")


def test_a_folder_of_that_name_is_no_tensorrt(folder: Path) -> None:
    (folder / "sm89.plan").write_bytes(b"plan")
    with pytest.raises(UnavailableError, match=rf"tensorrt is not installed \(Python finds the folder {folder}\); pip"):
        load(FULL)
    assert {check.name: check.state for check in doctor.examine()}["TensorRT"] == "absent"
