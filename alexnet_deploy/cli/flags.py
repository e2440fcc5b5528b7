"""The library names parameters, a user types flags: here an error of the library gets the flags of its command."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup
from typer.models import ArgumentInfo, OptionInfo

from alexnet_deploy.errors import DeployError


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with each parameter in the message of its DeployError written as the flag that sets it."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except DeployError as exc:
            exc.rename_parameters(functools.partial(flag_of, command))
            raise

    return run


def in_flags(message: object) -> str:
    """``message`` of the library with each parameter written as the flag of that name; for messages only printed."""
    error = DeployError(str(message))
    error.rename_parameters(_default)
    return str(error)


def flag_of(command: Callable[..., None], parameter: str) -> str:
    """The flag of ``command`` that sets ``parameter``, or the name of its argument."""
    hints = typing.get_type_hints(command, include_extras=True)
    for info in getattr(hints.get(parameter, hints.get(f"{parameter}_")), "__metadata__", ()):
        if isinstance(info, ArgumentInfo):
            return info.metavar or parameter.upper()
        if isinstance(info, OptionInfo):
            # Within Annotated the first positional argument of Option, its `default`, is a flag as well.
            declared = (info.default, *(info.param_decls or ()))
            flags = [flag for flag in declared if isinstance(flag, str) and flag.startswith("--")]
            return flags[0].partition("/")[0] if flags else _default(parameter)
    return _default(parameter)


def _default(parameter: str) -> str:
    return f"--{parameter.replace('_', '-')}"


class CommandGroup(TyperGroup):
    """Commands whose usage errors read like ours."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as exc:
            exc.message = exc.message.removeprefix("Value error, ")  # of pydantic, which typer 0.29 leaves in
            raise
