"""A flag that an error of a command names is one that can be typed for it."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

import alexnet_deploy
import training
from alexnet_deploy.cli import GROUPS, app
from alexnet_deploy.cli.flags import flag_of, in_flags

COMMANDS = [command for commands in GROUPS.values() for command in commands]
TEXTS = {
    node.value
    for package in (alexnet_deploy, training)
    for path in Path(package.__file__ or "").parent.rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.Constant) and isinstance(node.value, str)
}
PARAMETERS = sorted({word for text in TEXTS for word in re.findall(r"(?<!`)`([a-z][a-z0-9_]*)`(?!`)", text)})
"""All that a message of the library may name."""


def flags_of(command: Callable[..., None]) -> set[str]:
    found = typer.main.get_command(app).commands[command.__name__.replace("_", "-")]  # type: ignore[attr-defined]
    return {flag for param in found.params for flag in (*param.opts, *param.secondary_opts)}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.__name__))
def test_no_message_names_a_flag_that_the_command_lacks(command: Callable[..., None]) -> None:
    flags = flags_of(command)
    named = {parameter: flag_of(command, parameter) for parameter in PARAMETERS}
    assert {each: flag for each, flag in named.items() if flag.startswith("-") and flag not in flags} == {}
    typed = {flag.removeprefix("--").replace("-", "_") for flag in flags if flag.startswith("--")}
    assert [parameter for parameter in typed.intersection(PARAMETERS) if not named[parameter].startswith("-")] == []


def test_a_parameter_that_the_command_lacks_is_a_plain_word() -> None:
    (package,) = (command for command in COMMANDS if command.__name__ == "package")
    assert in_flags("try `runtime` openvino, or another `output`", package) == "try runtime openvino, or another output"
    assert in_flags("`targets`, `max_queue` and `output_name`", package) == "--target, --max-queue and --output-name"
