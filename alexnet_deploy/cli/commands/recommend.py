"""Which engine to take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alexnet_deploy.cli.commands import show_report
from alexnet_deploy.cli.engines import needs
from alexnet_deploy.cli.options import STORE, Json, Store, choice
from alexnet_deploy.cli.terminal import out


def recommend(
    max_latency: Annotated[str | None, typer.Option(metavar="TIME", help="Of one call, such as 5ms or 800us.")] = None,
    max_drop: Annotated[
        float | None, typer.Option(metavar="POINTS", help="Of top-1 below the most precise engine.")
    ] = None,
    max_size: Annotated[str | None, typer.Option(metavar="SIZE", help="Of the model's file, such as 10MiB.")] = None,
    batch: Annotated[int, typer.Option(help="Images a call that --max-latency is about.")] = 1,
    percentile: Annotated[
        str, typer.Option(metavar="NAME", help="Latency that counts: median, p90, p95 or p99.")
    ] = "median",
    confident: Annotated[
        bool, typer.Option("--confident", help="--max-drop holds for the bound of the 95 % interval, too.")
    ] = False,
    report: Annotated[Path, typer.Option(help="What `report` measured.")] = Path("report.json"),
    engines: Store = STORE,
    json_: Json = False,
) -> None:
    """Name the best engine of the store within bounds: of those that meet them the fastest, then the smallest."""
    with needs("measure"):
        from alexnet_deploy.report.file import read_report
        from alexnet_deploy.report.recommend import STATISTICS, Bounds, elsewhere, parse_bytes, parse_ms
        from alexnet_deploy.report.recommend import recommend as best_of
    bounds = Bounds(
        max_ms=None if max_latency is None else parse_ms(max_latency),
        max_drop=max_drop,
        max_bytes=None if max_size is None else parse_bytes(max_size),
        batch=batch,
        statistic=choice("--percentile", percentile, STATISTICS),
        confident=confident,
    )
    found = read_report(report)
    best = best_of(found, engines, bounds, report)
    show_report.recommendation(out, best, bounds, report, elsewhere(found, report), as_json=json_)
