"""The library names parameters, a user types flags: here an error of the library gets the flags of its command."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo, OptionInfo

from alexnet_deploy.cli.collector import started
from alexnet_deploy.cli.faults import one_line_faults
from alexnet_deploy.errors import DeployError, UsageError


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with each parameter in the message of its DeployError written as the flag that sets it.

    What the machine refuses (``one_line_faults``) is a DeployError as well.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        started()
        try:
            with one_line_faults(inspect.signature(command).parameters):
                command(*args, **kwargs)
        except DeployError as exc:
            exc.rename_parameters(functools.partial(flag_of, command))
            raise

    return run


def in_flags(message: object, command: Callable[..., None] | None = None) -> str:
    """``message`` of the library with each parameter written as a flag, for a message that is not raised.

    The flag is the one of ``command``, or without a command the one of that name.
    """
    error = DeployError(str(message))
    error.rename_parameters(_default if command is None else functools.partial(flag_of, command))
    return str(error)


def flag_of(command: Callable[..., None], parameter: str) -> str:
    """The flag of ``command`` that sets ``parameter``, or the name of its argument; else the plain word.

    An error that several commands share may name a parameter that this one lacks: nobody could type a flag for it.
    """
    flags = {name: _flag(name, hint) for name, hint in typing.get_type_hints(command, include_extras=True).items()}
    found = flags.get(parameter, flags.get(f"{parameter}_"))
    if found is not None:
        return found
    return _default(parameter) if _default(parameter) in flags.values() else parameter


def _flag(name: str, hint: object) -> str:
    name = name.removesuffix("_")
    for info in getattr(hint, "__metadata__", ()):
        if isinstance(info, ArgumentInfo):
            return info.metavar or name.upper()
        if isinstance(info, OptionInfo):
            # Within Annotated the first positional argument of Option, its `default`, is a flag as well.
            declared = (info.default, *(info.param_decls or ()))
            flags = [flag for flag in declared if isinstance(flag, str) and flag.startswith("--")]
            return flags[0].partition("/")[0] if flags else _default(name)
    return _default(name)  # Typer makes an option of that name


def _default(parameter: str) -> str:
    return f"--{parameter.replace('_', '-')}"


_VALUES = {"int": "N", "int range": "N", "float": "X", "float range": "X", "str": "TEXT", "path": "PATH"}
"""What a person reads for a value of typer's types."""


_IN_TWO_BRACKETS = re.compile(r"\[default: \((.*?)\)(?=[;\]])")
"""How click writes a default that is given as text: ``[default: (2ms)]``."""


class PlainCommand(TyperCommand):
    """A command whose help shows ``ENGINE...`` and ``N``, not typer's ``ENGINE <list[str]>`` and ``<int range>``."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for kind in ("argument", "option"):
            sections: dict[str, list[tuple[str, str]]] = {}
            for param in self.get_params(ctx):
                if param.param_type_name == kind and (record := param.get_help_record(ctx)) is not None:
                    name = re.sub(r"<([a-z ]+)>$", lambda found: _VALUES.get(found[1], found[0]), record[0])
                    if kind == "argument":  # its name is its value
                        name = record[0].partition(" ")[0] + ("" if param.nargs == 1 else "...")
                    section = getattr(param, "rich_help_panel", None) or f"{kind.capitalize()}s"
                    sections.setdefault(section, []).append((name, _IN_TWO_BRACKETS.sub(r"[default: \1", record[1])))
            for section, rows in sections.items():
                with formatter.section(section):
                    formatter.write_dl(rows)


class CommandGroup(TyperGroup):
    """Commands whose usage errors are one line like ours, listed with their first sentence in full."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(limit=200)) for name, command in self.commands.items()]
            )

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """As the base class, with our usage errors."""
        with _our_usage_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """As the base class, with our usage errors."""
        with _our_usage_errors():
            return super().invoke(ctx)


_CLICK_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # typer has it under no public name


@contextmanager
def _our_usage_errors() -> Iterator[None]:
    try:
        yield
    except _CLICK_USAGE_ERROR as exc:
        ctx = exc.ctx
        if ctx is None or type(exc).__name__ == "NoArgsIsHelpError":  # it prints the help page
            raise
        cause = (
            exc.format_message().replace(": Value error, ", ": ").rstrip(".")
        )  # of pydantic, which typer 0.29 leaves in
        raise UsageError(f"{cause}; see {ctx.command_path} --help") from exc
