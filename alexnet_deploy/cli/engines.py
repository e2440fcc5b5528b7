"""What a command needs before it can start: a package, an open engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from alexnet_deploy.bundle.manifest import Engine
from alexnet_deploy.bundle.store import resolve_engine
from alexnet_deploy.cli.terminal import err
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.onnx_graph.import_options import NO_IMPORT_OPTIONS, ImportOptions

if TYPE_CHECKING:
    from alexnet_deploy.runtime.runner import Runner


@contextlib.contextmanager
def running(
    name: str | None, store: Path, runtime: str, threads: int | None, import_options: ImportOptions = NO_IMPORT_OPTIONS
) -> Iterator[tuple[Engine, Runner]]:
    """An open engine; what was picked to run it, and why the others were not, goes to the standard error."""
    from alexnet_deploy.runtime.select import open_runner

    with resolve_engine(name, store, import_options) as engine:
        opened = open_runner(engine, runtime, threads=threads)
        for reason in opened.passed_over:
            err.print(f"passed over {reason}", style="dim", soft_wrap=True)
        err.print(f"running {engine.name} ({engine.precision}) with {opened.runner.description}", soft_wrap=True)
        with contextlib.closing(opened.runner) as runner:
            yield engine, runner


def exit_where_left_out(unreadable: Sequence[str], images: int) -> None:
    """Exit code 3 where some files could not be read, beside ``images`` that were."""
    if unreadable:
        total = images + len(unreadable)
        err.print(f"{len(unreadable)} of {total} images cannot be read; the result says why", style="yellow")
        raise typer.Exit(3)


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn a missing package into the name of the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as exc:
        raise UnavailableError(f"this command needs {exc.name}; pip install 'alexnet-deploy[{extra}]'") from exc
