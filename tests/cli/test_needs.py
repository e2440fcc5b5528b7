"""What a command says when an import fails: the extra for a package, and our own fault as it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from alexnet_deploy.cli.engines import needs
from alexnet_deploy.errors import UnavailableError


def test_a_missing_package_is_the_name_of_its_extra() -> None:
    with pytest.raises(UnavailableError, match=r"needs no_such_package; pip install 'alexnet-deploy\[measure\]'"):  # noqa: SIM117
        with needs("measure"):
            import no_such_package  # type: ignore[import-not-found] # noqa: F401


def test_a_broken_package_is_to_be_installed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_package.py").write_text("from math import no_such_name\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(UnavailableError, match=r"cannot be imported .*no_such_name.*reinstall"):  # noqa: SIM117
        with needs("measure"):
            import broken_package  # type: ignore[import-not-found] # noqa: F401


def test_ctrl_c_while_a_package_loads_blames_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "interrupted_package.py").write_text(
        "raise ImportError('initialization failed') from KeyboardInterrupt()"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(KeyboardInterrupt), needs("measure"):
        import interrupted_package  # type: ignore[import-not-found] # noqa: F401


@pytest.mark.parametrize(
    "line", ["from alexnet_deploy.errors import NoSuchError", "import alexnet_deploy.no_such_module"]
)
def test_a_fault_of_our_own_modules_blames_no_package(line: str) -> None:
    with pytest.raises(ImportError, match="alexnet_deploy"), needs("measure"):
        exec(line, {})
