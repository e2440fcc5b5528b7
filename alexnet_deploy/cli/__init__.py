"""The command line: parse, call the stages, print. Heavy libraries load inside the command that needs them."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from alexnet_deploy import __version__
from alexnet_deploy.cli.commands import (
    compare,
    confidence,
    diagnose,
    doctor,
    evaluate,
    mlperf,
    parity,
    pipeline,
    profile,
    profile_layers,
    profile_stages,
    recommend,
    report,
    stability,
    store,
)
from alexnet_deploy.cli.flags import with_flags
from alexnet_deploy.cli.standard_output import checked_standard_output
from alexnet_deploy.cli.terminal import err
from alexnet_deploy.errors import DeployError

app = typer.Typer(
    name="alexnet-deploy",
    help="From a trained AlexNet to an engine one can trust: export, build-engine, infer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    pipeline.export,
    pipeline.build_engine,
    pipeline.infer,
    evaluate.evaluate,
    profile.profile,
    profile_stages.profile_stages,
    profile_layers.profile_layers,
    mlperf.mlperf,
    report.report,
    recommend.recommend,
    compare.compare,
    diagnose.diagnose,
    stability.calibration_stability,
    confidence.calibrate_confidence,
    parity.preprocessing_parity,
    doctor.doctor,
    store.engines,
    store.inspect,
    store.summary,
):
    app.command()(with_flags(command))


def _version(asked: bool) -> None:
    if asked:
        print(f"alexnet-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what the libraries below report.")] = False,
) -> None:
    logging.basicConfig(level=logging.DEBUG if verbose else logging.ERROR, stream=sys.stderr)


def main() -> None:
    """Entry point: the one place where an error of ours becomes a line and an exit code.

    Typer itself ends usage errors with 2 and Ctrl-C with 130.
    """
    try:
        with checked_standard_output():
            app()
    except DeployError as exc:
        err.print(f"error: {exc}", style="red", soft_wrap=True)
        sys.exit(exc.exit_code)
