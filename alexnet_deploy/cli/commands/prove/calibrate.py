"""``calibrate-confidence``: probabilities that are right as often as they say, and answers that are "unknown"."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_deploy.bundle.store import find_bundle
from alexnet_deploy.cli import options as opt
from alexnet_deploy.cli.engines import exit_where_left_out, needs, running
from alexnet_deploy.cli.output.replace import check_output
from alexnet_deploy.cli.output.tables import (
    add_row,
    print_copies_left_out,
    print_json,
    print_left_out,
    print_line,
    table,
)
from alexnet_deploy.cli.output.terminal import note_written, out, reporting
from alexnet_deploy.cli.quantities import Share

if TYPE_CHECKING:  # SciPy is loaded with it; only the types are needed here
    from alexnet_deploy.evaluation.confidence.record import ConfidenceRecord, RejectionFit


def calibrate_confidence(
    engine: opt.Bundle,
    *,
    data: opt.LabelledData,
    outliers: Annotated[
        Path | None, typer.Option(help="Folder of images that show none of the classes; chooses the score.")
    ] = None,
    max_risk: Annotated[
        float | None,
        typer.Option(
            parser=Share.parse,
            metavar="SHARE",
            help="Most wrong answers among those that are not marked unknown, such as 5%.",
        ),
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(
            parser=Share.parse,
            metavar="SHARE",
            help="Images that are answered, such as 90%; 100% marks none.  [default: 95%, without --max-risk]",
        ),
    ] = None,
    evaluation_data: Annotated[
        Path | None, typer.Option(help="Folder to measure accuracy on; must share no image with --data.")
    ] = None,
    training_data: Annotated[
        Path | None, typer.Option(help="Folder that the model was trained on; must share no image with --data.")
    ] = None,
    runtime: opt.Runtime = "auto",
    threads: opt.Threads = None,
    plot: opt.Plot = None,
    store: opt.Store = opt.STORE,
    json_: opt.Json = False,
) -> None:
    """Calibrate probabilities; fit when to say "unknown".

    Its labels and their ranking stay the same. Use images that serve no other purpose.
    """
    with needs("measure"):
        from alexnet_deploy.evaluation.confidence.calibrate import calibrate
        from alexnet_deploy.evaluation.confidence.rejection import check_targets

        if plot is not None:
            from alexnet_deploy.report.plots import FORMATS, plot_reliability

            check_output(plot, "plot", (data, outliers, evaluation_data, training_data), formats=FORMATS)
    check_targets(max_risk, coverage)
    bundle = find_bundle(engine, store)
    with running(bundle, store, runtime, threads) as opened, reporting() as report:
        found = calibrate(
            bundle,
            opened,
            data,
            outliers=outliers,
            max_risk=max_risk,
            coverage=coverage,
            evaluation_data=evaluation_data,
            training_data=training_data,
            on_progress=report,
        )
    record = found.record
    if json_:
        left_out = {"unreadable": found.unreadable, "copies": found.copies}
        print_json({"bundle": bundle} | record.summary() | left_out)
    else:
        print_fit(bundle, record)
        print_left_out(found.unreadable)
        print_copies_left_out(found.copies)
    if plot is not None:
        plot_reliability(record, plot)
        note_written(plot)
    exit_where_left_out(found.unreadable, record.images + len(record.outlier_sha256))


def print_fit(bundle: Path, record: ConfidenceRecord) -> None:
    """The methods that were compared, the effect of the chosen one, and the rule for unknown answers."""
    grid = table("probabilities", ">NLL", ">ECE %", ">95 %", "ranking")
    for row in record.methods:
        ece = "-" if row.ece_percent is None else f"{row.ece_percent:.2f}"
        interval = "-" if row.ece_interval is None else f"{row.ece_interval.low:.2f}..{row.ece_interval.high:.2f}"
        stays = "stays" if row.keeps_ranking else "changes: never stored"
        style = "green" if row.method == record.method else None
        add_row(grid, (row.method, f"{row.nll_nats:.4f}", ece, interval, stays), style=style)
    out.print(grid)
    print_line(
        f"on images that a fit has not seen (ten-fold cross-validation, {record.images} images of {record.classes} "
        f"classes); ECE without the part that chance adds"
    )
    if (rule := record.rejection) is not None:
        out.print()
        _print_rule(rule)
    print_line(
        f"{bundle}/ is calibrated by {record.method} (temperature {record.temperature:.4f}), fitted in "
        f"{record.runtime}; measure it on others: alexnet-deploy evaluate"
    )


def _print_rule(rule: RejectionFit) -> None:
    with_outliers = rule.outliers is not None
    grid = table("score", ">risk-coverage area %", *([">AUROC %", ">FPR at 95 % TPR"] if with_outliers else []))
    for row in rule.scores:
        numbers = [row.aurc_percent, *([row.auroc_percent, row.fpr95_percent] if with_outliers else [])]
        cells = ["-" if number is None else f"{number:.2f}" for number in numbers]
        add_row(grid, (row.score, *cells), style="green" if row.score == rule.score else None)
    out.print(grid)
    print_line(f"score: {rule.score}, for its {rule.why}")
    answered = f"{100 * rule.coverage:.1f} % of these images are answered, {100 * rule.risk:.2f} % of the answers wrong"
    print_line(
        f"{rule.rule.describe()}: {answered}; at most {100 * rule.risk_bound:.2f} % on others like them, with 95 % "
        "confidence (Clopper-Pearson)"
    )
    if rule.outliers_answered is not None:
        print_line(f"of the {rule.outliers} outliers {100 * (1 - rule.outliers_answered):.1f} % are unknown")
