"""``report.json`` as one HTML page that needs nothing but itself: no network, no script, nothing that a name can do."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import jinja2
from markupsafe import Markup

from alexnet_deploy.files import atomic_file
from alexnet_deploy.profiling.stages import STAGES, Stage, StageReport
from alexnet_deploy.report import charts
from alexnet_deploy.report.charts import Axis, Chart
from alexnet_deploy.report.data import EngineReport, LatencyRun, Layers, Part, Report, run_at, runs
from alexnet_deploy.report.file import to_json

_DASH = "\N{EN DASH}"
CLASSES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Fact:
    """One sentence above the fold, about engine ``number``."""

    what: str
    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """One engine in the first table. ``beaten_by`` is an index, None on the front."""

    engine: EngineReport
    run: LatencyRun | None
    fastest: LatencyRun | None
    timed: bool
    beaten_by: int | None


def write_page(report: Report, path: Path) -> None:
    """Draw ``report`` into ``path``, atomically; UnavailableError where it cannot be written."""
    html = page_of(report)
    with atomic_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def page_of(report: Report) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alexnet_deploy.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "fixed": lambda value, digits: f"{round(value, digits) + 0.0:.{digits}f}",  # never -0.0
        "signed": lambda value, digits: f"{value:+.{digits}f}",
        "number": number,
        "count": lambda value: f"{value:,}",
        "mib": lambda value: _DASH if value is None else number(value / 2**20),
        "shell": shlex.join,
        "moment": _moment,
        "stacked": _stacked,
    }
    batch = min(report.batches(), default=1)
    trade_off, beaten = charts.trade_off(report.engines, batch)
    rows = [
        Row(
            engine=engine,
            run=run_at(engine, batch),
            fastest=max(runs(engine), key=lambda run: run.images_per_s, default=None),
            timed=i in beaten,
            beaten_by=beaten.get(i),
        )
        for i, engine in enumerate(report.engines)
    ]
    parts = _parts(report)
    text = to_json(report, indent=None)
    return environment.get_template("report.html.j2").render(
        report=report,
        batch=batch,
        facts=_facts(rows),
        sections=_sections(report, parts),
        parts=parts,
        rows=rows,
        runs=runs,
        doubtful=sum(bool(run.invalid) or not run.steady for engine in report.engines for run in runs(engine)),
        classes_shown=CLASSES_SHOWN,
        trade_off=trade_off,
        differences=_differences(report.engines),
        distributions=[
            (one, chart) for one in report.batches() if (chart := charts.distributions(report.engines, one)) is not None
        ],
        layers=_layers(report.engines),
        percent_x=charts.axis("confidence, %", [0, 100], log=False, within=(0, 100)),
        percent_y=charts.axis("right, %", [0, 100], log=False, within=(0, 100)),
        data_base64=base64.b64encode(text).decode("ascii"),
        # Inside a script element only a "<" could end it.
        data_json=Markup(text.decode().replace("<", "\\u003c")),
    )


def number(value: float | None) -> str:
    """Three digits that count, without an exponent where it can be avoided; a dash for what is not known."""
    if value is None:
        return _DASH
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:#.3g}"


def _moment(text: str) -> str:
    """A time for people; whatever else a file says there, as it stands."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError):
        return text


def _parts(report: Report) -> frozenset[Part]:
    """The parts that were asked for: those that are there, or are a gap."""
    there: dict[Part, bool] = {
        "latency": any(engine.timing for engine in report.engines),
        "stages": any(engine.stages for engine in report.engines),
        "layers": any(engine.layers for engine in report.engines),
    }
    missing = {gap.part for gap in report.gaps}
    return frozenset(part for part in get_args(Part) if there.get(part) or part in missing)


def _sections(report: Report, parts: frozenset[Part]) -> list[tuple[str, str]]:
    several = len(report.engines) > 1
    all_of_them = [
        ("engines", "Engines", True), ("trade-off", "Trade-off", True), ("differences", "Differences", several),
        ("latency", "Latency", "latency" in parts), ("stages", "From file to answer", "stages" in parts),
        ("layers", "Layers", "layers" in parts), ("calibration", "Calibration", True),
        ("confidence", "Confidence", True), ("environment", "Environment", True), ("again", "Measure again", True),
    ]  # fmt: skip
    return [(anchor, text) for anchor, text, shown in all_of_them if shown]


def _facts(rows: Sequence[Row]) -> list[Fact]:
    """Who is the most accurate, the fastest, the smallest, and at what price."""
    first = rows[0]
    indices = range(len(rows))

    def beside(row: Row) -> str:
        pair = row.engine.beside_first
        if pair is None:
            return "all others are measured against it"
        low, high = pair.points_interval.low, pair.points_interval.high
        return f"{pair.points:+.2f} points of top-1 ({low:+.2f}..{high:+.2f}) beside {first.engine.name}"

    best = max(indices, key=lambda i: (rows[i].engine.accuracy.top1_percent, -i))
    top1 = rows[best].engine.accuracy
    text = f"{top1.top1_percent:.2f} % top-1 ({top1.top1_interval.low:.1f}..{top1.top1_interval.high:.1f})"
    facts = [Fact("Most often right", best + 1, text)]
    timed = {i: run for i in indices if (run := rows[i].run) is not None}
    if timed:
        fastest = min(timed, key=lambda i: timed[i].median_ms)
        text = f"{number(timed[fastest].median_ms)} ms at batch {timed[fastest].batch}"
        if 0 in timed and fastest:
            text += f", {timed[0].median_ms / timed[fastest].median_ms:.1f} times as fast as {first.engine.name}"
        facts.append(Fact("Fastest", fastest + 1, f"{text}; {beside(rows[fastest])}"))
    smallest = min(indices, key=lambda i: rows[i].engine.file_bytes)
    size = rows[smallest].engine.file_bytes
    text = f"{number(size / 2**20)} MiB"
    if smallest:
        text += f", {first.engine.file_bytes / size:.1f} times smaller than {first.engine.name}"
    return [*facts, Fact("Smallest", smallest + 1, f"{text}; {beside(rows[smallest])}")]


def _differences(engines: Sequence[EngineReport]) -> Axis:
    ends = [0.0]
    for engine in engines:
        if (pair := engine.beside_first) is not None:
            ends += [pair.points_interval.low, pair.points_interval.high]
    return charts.axis("points", ends, log=False)


def _stacked(split: StageReport) -> list[tuple[int, Stage, float, float]]:
    """Each stage with the number of its colour (0: waiting), the same in all splits, its start and width in percent."""
    placed, x = [], 0.0
    for stage in split.stages:
        number = STAGES.index(stage.name) + 1 if stage.name in STAGES[:-1] else 0
        placed.append((number, stage, round(x, 2), round(stage.share_percent, 2)))
        x += stage.share_percent
    return placed


def _layers(engines: Sequence[EngineReport]) -> list[tuple[EngineReport, Layers, Chart | None]]:
    """The slowest first, so that the fastest, which stands open, comes last."""
    known = [(engine, engine.layers) for engine in engines if engine.layers is not None]
    known.sort(key=lambda pair: -pair[1].total_ms)
    return [(engine, profile, charts.roofline(profile)) for engine, profile in known]
