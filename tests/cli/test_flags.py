"""The library names parameters, the command line flags."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Annotated

import pytest
import typer

import alexnet_deploy
from alexnet_deploy.cli.flags import in_flags, with_flags
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import UsageError

PACKAGE = Path(alexnet_deploy.__file__).parent


def test_an_error_of_the_library_names_parameters() -> None:
    with pytest.raises(UsageError, match=r"^`opt_batch` 64 exceeds `max_batch` 32; raise `max_batch`$"):
        BatchProfile(1, 64, 32)


def test_an_error_of_a_command_names_its_flags() -> None:
    def command(
        images: Annotated[str, typer.Argument()],
        onnx_path: Annotated[str, typer.Argument(metavar="ONNX")] = "",
        max_batch: Annotated[int, typer.Option("--largest", "-l")] = 1,
        stop_: Annotated[bool, typer.Option("--stop/--go")] = False,
        top_k: Annotated[int, typer.Option()] = 5,
    ) -> None:
        raise UsageError("`images`, `onnx_path`, `max_batch`, `stop`, `top_k`, `other_one` and `not one`")

    with pytest.raises(UsageError, match=r"^IMAGES, ONNX, --largest, --stop, --top-k, --other-one and `not one`$"):
        with_flags(command)("photos/")


NVIDIA_SMI = {"--query-gpu", "--format", "--lock-gpu-clocks"}
"""Flags of another program."""


def test_no_text_of_the_library_holds_a_flag() -> None:
    """A Python caller never reads a flag: in strings, docstrings included, outside the command line."""
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {flag[0]}"
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in ("cli", "doctor.py")  # a fix of doctor's is a command to type
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for flag in re.finditer(r"(?<![\w-])--[a-z][a-z-]+", node.value)
        if flag[0] not in NVIDIA_SMI
    ]
    assert found == []


def test_a_reason_that_is_only_printed_names_flags_too() -> None:
    assert (
        in_flags("OpenVINO refuses it; try `runtime` onnxruntime") == "OpenVINO refuses it; try --runtime onnxruntime"
    )
