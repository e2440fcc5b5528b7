"""What this machine can do."""

from __future__ import annotations

import dataclasses
import json

import typer
from rich.table import Table

from alexnet_deploy.cli.options import Json
from alexnet_deploy.cli.terminal import out

_STYLE = {"ok": "green", "absent": "dim", "broken": "red"}


def doctor(json_: Json = False) -> None:
    """Look at Python, CPU, GPU and every runtime; say what is wrong and how to mend it. Exit code 1 if it must be."""
    from alexnet_deploy.doctor import can_run, examine

    checks = examine()
    fit = can_run(checks)
    if json_:
        print(json.dumps({"can_run": fit, "checks": [dataclasses.asdict(check) for check in checks]}, indent=1))
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("what", "state", "found", "fix"):
            table.add_column(heading, overflow="fold")
        for check in checks:
            table.add_row(check.name, check.state, check.found, check.fix, style=_STYLE[check.state])
        out.print(table)
    if not fit:
        raise typer.Exit(1)
