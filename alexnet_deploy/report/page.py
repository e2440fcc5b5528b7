"""``report.json`` as one self-contained HTML page: no network, no script, every name escaped."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from markupsafe import Markup

from alexnet_deploy.pages.html import environment, number, write_html
from alexnet_deploy.profiling.layer_profile import LayerProfile
from alexnet_deploy.profiling.stages import STAGES, Stage, StageReport
from alexnet_deploy.report import charts
from alexnet_deploy.report.charts import Axis, Chart
from alexnet_deploy.report.data import EngineReport, Part, Report
from alexnet_deploy.report.file import to_json

CLASSES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Fact:
    """One sentence at the top of the page, about engine ``number`` (from 1)."""

    what: str
    number: int
    text: str


def write_page(report: Report, path: Path) -> None:
    """Draw ``report`` into ``path``, atomically; UnavailableError if it cannot be written."""
    write_html(render_page(report), path)


def render_page(report: Report) -> str:
    """Return the page as text."""
    templates = environment("alexnet_deploy.report", shell=shlex.join, stacked=_stacked)
    batch = min(report.batches(), default=1)
    trade_off, dominated = charts.trade_off(report.engines, batch)
    parts = _parts(report)
    text = to_json(report)
    return templates.get_template("report.html.j2").render(
        report=report,
        batch=batch,
        facts=_facts(report.engines, batch),
        sections=_sections(report, parts),
        parts=parts,
        dominated=dominated,
        doubtful=sum(row.mark != "ok" for engine in report.engines for row in engine.rows),
        classes_shown=CLASSES_SHOWN,
        trade_off=trade_off,
        differences=_differences(report.engines),
        distributions=[
            (one, chart) for one in report.batches() if (chart := charts.distributions(report.engines, one)) is not None
        ],
        layers=_layers(report.engines),
        risk_coverage=charts.risk_coverage(report.engines),
        percent_x=charts.axis("confidence, %", [0, 100], log=False, within=(0, 100)),
        percent_y=charts.axis("right, %", [0, 100], log=False, within=(0, 100)),
        data_base64=base64.b64encode(text.encode()).decode("ascii"),
        # Inside a script element only a "<" could end it.
        data_json=Markup(text.replace("<", "\\u003c")),
    )


def _parts(report: Report) -> frozenset[Part]:
    """Return the requested parts: those that were measured, and the gaps."""
    there: dict[Part, bool] = {
        "latency": any(engine.profile for engine in report.engines),
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


def _facts(engines: Sequence[EngineReport], batch: int) -> list[Fact]:
    """Name the most accurate, the fastest and the smallest engine, and the price of each."""
    first = engines[0]
    indices = range(len(engines))

    def compared(engine: EngineReport) -> str:
        delta = engine.delta
        if delta is None:
            return "all others are compared with it"
        low, high = delta.points_interval.low, delta.points_interval.high
        return f"{delta.points:+.2f} points of top-1 ({low:+.2f}..{high:+.2f}) compared with {first.name}"

    best = max(indices, key=lambda i: (engines[i].result.accuracy.top1_percent, -i))
    top1 = engines[best].result.accuracy
    text = f"{top1.top1_percent:.2f} % top-1 ({top1.top1_interval.low:.1f}..{top1.top1_interval.high:.1f})"
    facts = [Fact("Most often right", best + 1, text)]
    ms = {i: row.latency.median_ms for i in indices if (row := engines[i].row_at(batch)) is not None}
    if ms:
        fastest = min(ms, key=lambda i: ms[i])
        text = f"{number(ms[fastest])} ms at batch {batch}"
        if 0 in ms and fastest:
            text += f", {ms[0] / ms[fastest]:.1f} times as fast as {first.name}"
        facts.append(Fact("Fastest", fastest + 1, f"{text}; {compared(engines[fastest])}"))
    smallest = min(indices, key=lambda i: engines[i].result.model_bytes)
    size = engines[smallest].result.model_bytes
    text = f"{number(size / 2**20)} MiB"
    if smallest:
        text += f", {first.result.model_bytes / size:.1f} times smaller than {first.name}"
    return [*facts, Fact("Smallest", smallest + 1, f"{text}; {compared(engines[smallest])}")]


def _differences(engines: Sequence[EngineReport]) -> Axis:
    ends = [0.0]
    for engine in engines:
        if engine.delta is not None:
            ends += [engine.delta.points_interval.low, engine.delta.points_interval.high]
    return charts.axis("points", ends, log=False)


def _stacked(split: StageReport) -> list[tuple[int, Stage, float, float]]:
    """Return each stage with the number of its colour (0: waiting), its start and its width in percent.

    A stage has the same colour for every engine.
    """
    placed, x = [], 0.0
    for stage in split.stages:
        number = STAGES.index(stage.name) + 1 if stage.name in STAGES[:-1] else 0
        placed.append((number, stage, round(x, 2), round(stage.share_percent, 2)))
        x += stage.share_percent
    return placed


def _layers(engines: Sequence[EngineReport]) -> list[tuple[EngineReport, LayerProfile, Chart | None]]:
    """Return the layers per engine, the slowest engine first: the fastest, whose table is open, comes last."""
    known = [(engine, engine.layers) for engine in engines if engine.layers is not None]
    known.sort(key=lambda pair: -pair[1].whole_us)
    return [(engine, profile, charts.roofline(profile)) for engine, profile in known]
