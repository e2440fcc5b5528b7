"""The console blocks of a page: commands behind ``$``, each with the output that the page shows.

A test runs the commands and compares. Of the output, every word counts and every number may be another one; a
percentage may differ by ``POINTS``. A line of ``...`` stands for any lines, ``...`` at the end of a line for its rest.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

POINTS = 10
"""Another CPU adds in another order; then a network that was trained for seconds answers differently by some points."""

TIMEOUT_S = 300
_CPU_RUNTIME = re.compile(r"(?:OpenVINO|ONNX Runtime) (?=[\d.]+ on CPU)")
"""Which of the two runs INT8 depends on the processor."""
_NUMBER = re.compile(r"\d+(?:[.,:-]\d+)*(?:e[+-]?\d+)?")
_SHARE = re.compile(r"(\d+(?:\.\d+)?) ?%")


@dataclass(frozen=True)
class Shown:
    """A command of a page and the lines that the page shows below it."""

    command: str
    output: tuple[str, ...]

    @property
    def fails(self) -> bool:
        """Whether the page shows that it ends with an error."""
        return any(line.startswith("error: ") for line in self.output)


def shown(text: str) -> list[Shown]:
    """All commands of the console blocks of a page, or of a part of one; a backslash continues a command."""
    found: list[Shown] = []
    for block in re.findall(r"^ *```console\n(.*?)^ *```", text, re.S | re.M):
        for entry in re.split(r"^\$ ", block.replace("\\\n", ""), flags=re.M)[1:]:
            command, *output = entry.rstrip().split("\n")
            found.append(Shown(re.sub(r" {2,}", " ", command), tuple(output)))
    return found


class Shell:
    """Runs commands in a folder, with the programs of this Python first on the PATH.

    ``flags`` has flags that are added to a command of alexnet-deploy, ``instead`` words that are replaced in any
    command, such as a port.
    """

    def __init__(
        self, folder: Path, flags: Mapping[str, tuple[str, ...]] | None = None, instead: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.flags = flags or {}
        self.instead = instead or {}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = os.environ | {"PATH": path, "COLUMNS": "200"}
        self._running = ExitStack()

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run one command; behind ``&`` it runs until the shell is closed, and what is returned is empty."""
        if command.endswith("&"):
            self._running.enter_context(self._background(command.rstrip("& ")))
            return subprocess.CompletedProcess(command, 0, "", "")
        return subprocess.run(
            ["bash", "-c", self._changed(command)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )

    def close(self) -> None:
        """End what runs behind ``&`` as Ctrl-C does; AssertionError if one of them does not end well."""
        self._running.close()

    def _changed(self, command: str) -> str:
        for word, other in self.instead.items():
            command = command.replace(word, other)
        program, _, words = command.partition(" ")
        name = words.partition(" ")[0]
        return " ".join([command, *self.flags.get(name, ())]) if program == "alexnet-deploy" else command

    @contextmanager
    def _background(self, command: str) -> Iterator[None]:
        with subprocess.Popen(
            ["bash", "-c", f"exec {self._changed(command)}"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield
            finally:
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, errors


def check(page: str, folder: Path, *, flags: Mapping[str, tuple[str, ...]], instead: Mapping[str, str]) -> list[str]:
    """Run all commands of ``page`` in ``folder`` in order and compare; return the output of each."""
    shell, outputs = Shell(folder, flags, instead), []
    try:
        for each in shown(page):
            done = shell.run(each.command)
            assert (done.returncode != 0) == each.fails, f"$ {each.command}\nexit code {done.returncode}\n{done.stdout}"
            wrong = difference(each.output, done.stdout.splitlines())
            assert wrong is None, f"$ {each.command}\n{wrong}\nall of it:\n{done.stdout}"
            outputs.append(done.stdout)
    finally:
        shell.close()
    return outputs


def difference(expected: tuple[str, ...], actual: list[str]) -> str | None:
    """What the page shows and the program does not print, in words; None if there is no difference.

    Empty lines, colours and the space between columns do not count. Output that the page leaves out altogether is not
    compared.
    """
    if not expected:
        return None
    theirs = [line for line in actual if line.strip()]
    anything = False
    for line in (line for line in expected if line.strip()):
        if line.strip() == "...":
            anything = True
            continue
        while theirs and anything and not _same(line, theirs[0]):
            theirs.pop(0)
        if not theirs or not _same(line, theirs[0]):
            return f"the page shows:  {line}\nthe program says: {theirs[0] if theirs else 'nothing more'}"
        theirs.pop(0)
        anything = False
    return None if anything or not theirs else f"the page does not show: {theirs[0]}"


def _same(shown_line: str, line: str) -> bool:
    if shown_line.endswith("..."):
        # all but a number that the page cuts off
        same = _masked(line).startswith(_masked(shown_line.removesuffix("...")))
    else:
        same = _masked(shown_line) == _masked(line)
    pairs = zip(_SHARE.findall(shown_line), _SHARE.findall(line), strict=False)
    return same and all(abs(float(a) - float(b)) <= POINTS for a, b in pairs)


def _masked(line: str) -> str:
    return _NUMBER.sub("N", _CPU_RUNTIME.sub("", " ".join(line.split())))


def with_samples(root: Path, folder: Path) -> Path:
    """``folder`` as a checkout looks to a command: ``samples`` to copy from, and ``training`` to run."""
    shutil.copytree(root / "samples", folder / "samples")
    (folder / "training").symlink_to(root / "training")
    return folder
