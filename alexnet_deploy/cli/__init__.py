"""The command line: ``main`` runs it, ``app`` is its Typer application, ``GROUPS`` lists the commands.

``training`` uses its parts for a second command line: ``quantities``, and those in ``output``.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from itertools import dropwhile
from typing import Annotated, Any

import typer

from alexnet_deploy import __version__
from alexnet_deploy.cli.commands.look import doctor, engines, explain, summary
from alexnet_deploy.cli.commands.make import build_engine, export
from alexnet_deploy.cli.commands.measure import mlperf, profile, profile_layers, report
from alexnet_deploy.cli.commands.prove import calibrate, compare, diagnose, evaluate
from alexnet_deploy.cli.commands.run import infer, package, serve
from alexnet_deploy.cli.commands.search import features
from alexnet_deploy.cli.flags import CommandGroup, PlainCommand, with_flags
from alexnet_deploy.cli.output.standard_output import checked_standard_output
from alexnet_deploy.cli.output.terminal import note, show_log
from alexnet_deploy.errors import DeployError
from alexnet_deploy.machine.process import losing_standard_error

GROUPS = {
    "Make": (export.export, build_engine.build_engine),
    "Run": (infer.infer, serve.serve, package.package),
    "Search": (features.features, features.neighbours, features.duplicates),
    "Prove": (
        evaluate.evaluate,
        compare.compare,
        compare.preprocessing_parity,
        diagnose.diagnose,
        diagnose.calibration_stability,
        calibrate.calibrate_confidence,
    ),
    "Measure": (
        profile.profile,
        profile_layers.profile_layers,
        profile.profile_stages,
        mlperf.mlperf,
        report.report,
        report.recommend,
    ),
    "Look": (explain.explain, engines.engines, engines.inspect, summary.summary, doctor.doctor),
}
"""The commands, in the order in which they are read."""


class _GroupedCommands(CommandGroup):
    """Lists the commands by group, each with its first sentence in full."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.commands))
        for group in GROUPS:
            with formatter.section(group):
                formatter.write_dl(
                    [
                        (name.ljust(width), command.get_short_help_str(limit=200))
                        for name, command in self.commands.items()
                        if getattr(command, "rich_help_panel", None) == group
                    ]
                )


app = typer.Typer(
    name="alexnet-deploy",
    cls=_GroupedCommands,
    help="From a trained AlexNet to an engine one can trust: export, build-engine, infer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's help takes 0.04 s longer
)
for group, commands in GROUPS.items():
    for command in commands:
        app.command(cls=PlainCommand, rich_help_panel=group)(with_flags(command))


def print_version(asked: bool) -> None:
    """What ``--version`` of a command line does."""
    if asked:
        print(f"alexnet-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show the reasons against unused runtimes, and the log of the libraries.")
    ] = False,
) -> None:
    show_log(verbose=verbose)


def app_for(arguments: Sequence[str]) -> typer.Typer:
    """``app``, with the command alone that ``arguments`` name first: to prepare all of them takes Typer 20 ms."""
    named = next(dropwhile(lambda word: word == "--verbose", arguments), None)
    alone = [each for each in app.registered_commands if each.callback and _name_of(each.callback) == named]
    small = copy.copy(app)
    small.registered_commands = alone or app.registered_commands
    return small


def _name_of(command: Any) -> str:
    return str(command.__name__).replace("_", "-")


@losing_standard_error()
def main() -> None:
    """Run the command line: the only place that turns an error of ours into a line and an exit code.

    Typer itself ends Ctrl-C with 130.
    """
    try:
        with checked_standard_output():
            app_for(sys.argv[1:])()
    except DeployError as exc:
        note(f"error: {exc}", style="red")
        sys.exit(exc.exit_code)
