"""The library names parameters, a user types flags: an error of a command names its flags."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable
from typing import Any

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


def flag_of(command: Callable[..., None], parameter: str) -> str:
    """What a user of ``command`` types for ``parameter``: its flag, or its argument's name in capitals."""
    hints = typing.get_type_hints(command, include_extras=True)
    for info in getattr(hints.get(parameter, hints.get(f"{parameter}_")), "__metadata__", ()):
        if isinstance(info, ArgumentInfo):
            return parameter.upper()
        if isinstance(info, OptionInfo):
            flags = [declared for declared in info.param_decls or () if declared.startswith("--")]
            return flags[0].partition("/")[0] if flags else _default(parameter)
    return _default(parameter)


def _default(parameter: str) -> str:
    return f"--{parameter.replace('_', '-')}"
