"""A page per command, from the command line itself: what ``--help`` says, with anchors, and where a page shows it."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer.main

from alexnet_deploy.cli import GROUPS, app
from training.cli.commands import app as training

PROGRAMS: dict[str, typer.Typer] = {"alexnet-deploy": app, "python -m training": training}
FOLDER = "commands"


def command_pages(shown_in: Mapping[str, str]) -> dict[str, str]:
    """The Markdown of each page by its path below the site: ``commands/index.md`` and one page per command.

    ``shown_in`` has the Markdown of the pages that may show a command, by path: a command's page lists them.
    """
    pages = {f"{FOLDER}/index.md": _index()}
    for program, name, command in all_commands():
        pages[page_of(program, name)] = _page(program, name, command, shown_in)
    return pages


def all_commands() -> Iterator[tuple[str, str, Any]]:
    """Program, name and click command of each, in the order of the help."""
    for program, commands in PROGRAMS.items():
        group: Any = typer.main.get_command(commands)
        for name, command in group.commands.items():
            yield program, name, command


def page_of(program: str, name: str) -> str:
    """Where the page of a command lies on the site."""
    return f"{FOLDER}/{'training-' if program == 'python -m training' else ''}{name}.md"


def title_of(program: str, name: str) -> str:
    """A command's name in the navigation."""
    return name if program == "alexnet-deploy" else f"training {name}"


def _index() -> str:
    lines = ["# Commands", "", "Generated from the command line itself. Each page is what `--help` prints.", ""]
    headings = {command.__name__.replace("_", "-"): group for group, commands in GROUPS.items() for command in commands}
    last = ""
    for program, name, command in all_commands():
        heading = headings[name] if program == "alexnet-deploy" else "Train"
        if heading != last:
            lines += ["", f"## {heading}", ""]
            last = heading
        link = page_of(program, name).removeprefix(f"{FOLDER}/")
        typed = name if program == "alexnet-deploy" else f"{program} {name}"
        lines.append(f"- [`{typed}`]({link}): {_plain(command.get_short_help_str(limit=200))}")
    return "\n".join(lines) + "\n"


class _Help:
    """Stands in for click's formatter and keeps what a command's help would print: sections of name and text."""

    def __init__(self) -> None:
        self.sections: list[tuple[str, list[tuple[str, str]]]] = []

    @contextmanager
    def section(self, title: str) -> Iterator[None]:
        self.sections.append((title, []))
        yield

    def write_dl(self, rows: list[tuple[str, str]]) -> None:
        self.sections[-1][1].extend(rows)


def _page(program: str, name: str, command: Any, shown_in: Mapping[str, str]) -> str:
    context = command.context_class(command, info_name=name)
    usage = " ".join([program, name, *command.collect_usage_pieces(context)])
    lines = [f"# {name if program == 'alexnet-deploy' else f'{program} {name}'}", "", "```", usage, "```", ""]
    lines += [f"{_plain(paragraph)}\n" for paragraph in re.split(r"\n\s*\n", (command.help or "").strip())]
    found = _Help()
    command.format_options(context, found)
    for heading, rows in found.sections:
        lines += [f"## {heading}", ""]
        for value, words in rows:
            lines += [f"`{value}`", f":   {_plain(words)}", ""]
    places = [path for path, text in shown_in.items() if _shows(text, program, name)]
    if places:
        lines += ["## Shown in", ""]
        lines += [f"- [{_heading(shown_in[path])}]({os.path.relpath(path, FOLDER)})" for path in places]
    return "\n".join(lines) + "\n"


def _shows(text: str, program: str, name: str) -> bool:
    return re.search(rf"(?<![\w./-]){program} {name}(?![\w-])", text.replace("-m --", "-m")) is not None


def _heading(text: str) -> str:
    found = re.search(r"^# (.+)$", text, re.M)
    return found[1] if found else "?"


def _plain(words: str) -> str:
    """Words of the help as Markdown text: on one line, nothing in them is a mark, and what is typed is code."""
    text = html.escape(" ".join(words.split()), quote=False)
    text = re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)
    return re.sub(r"(?<![\w-])(--?[a-z][\w-]*)", r"`\1`", text)
