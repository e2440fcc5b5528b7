"""``doctor``: what this machine can run."""

from __future__ import annotations

import typer

from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.output.tables import add_row, print_json, table
from alexnet_deploy.cli.output.terminal import out

_STATE_STYLE = {"ok": "green", "absent": "dim", "broken": "red"}


def doctor(json_: opt.Json = False) -> None:
    """Check Python, CPU, GPU and every runtime, with fixes.

    Exit code 1 if no engine can run, or something is installed that does not work.
    """
    from alexnet_deploy.doctor import broken, can_run, examine

    checks = examine()
    runs, not_working = can_run(checks), broken(checks)
    if json_:
        print_json({"can_run": runs, "broken": not_working, "checks": checks})
    else:
        grid = table("what", "state", "found", "fix")
        for check in checks:
            add_row(grid, (check.name, check.state, check.found, check.fix), style=_STATE_STYLE[check.state])
        out.print(grid)
    if not runs or not_working:
        raise typer.Exit(1)
