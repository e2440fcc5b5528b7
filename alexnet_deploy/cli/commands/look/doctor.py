"""``doctor``: what this machine can run."""

from __future__ import annotations

import typer

from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.output.tables import add_row, print_json, table
from alexnet_deploy.cli.output.terminal import out

_STATE_STYLE = {"ok": "green", "absent": "dim", "broken": "red"}


def doctor(json_: opt.Json = False) -> None:
    """Check Python, CPU, GPU and every runtime, with fixes.

    Exit code 1 if no engine can run before something is fixed.
    """
    from alexnet_deploy.doctor import can_run, examine

    checks = examine()
    fit = can_run(checks)
    if json_:
        print_json({"can_run": fit, "checks": checks})
    else:
        grid = table("what", "state", "found", "fix")
        for check in checks:
            add_row(grid, (check.name, check.state, check.found, check.fix), style=_STATE_STYLE[check.state])
        out.print(grid)
    if not fit:
        raise typer.Exit(1)
