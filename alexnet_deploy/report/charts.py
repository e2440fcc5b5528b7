"""Measurements -> the geometry of the report's charts, in percent of a frame, so that a phone and paper show the same.

Text stays outside of the drawing: the page sets it at its own size, wherever a tick's percentage says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.ticker import MaxNLocator

from alexnet_deploy.report.data import EngineReport, LatencyRun, Layers, run_at

_NOMINAL_PX = (560, 290)
"""Of a frame on a desk: what is near what, when labels look for room."""
_LARGEST_RADIUS_PX = 15.0
_LABEL_PX = 8.0
_SIDES = ((1, 0), (-1, 0), (0, -1), (0, 1), (0.75, 0.75), (0.75, -0.75), (-0.75, 0.75), (-0.75, -0.75))
"""Where a number may stand beside its disc; the first that has room."""
_LOG_FROM = 3.0
"""Largest to smallest; below it a linear axis is easier to read."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place on an axis, in percent from its start."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Axis:
    """From ``low`` to ``high``, by logarithms where ``log``."""

    label: str
    low: float
    high: float
    log: bool
    ticks: tuple[Tick, ...] = ()

    def at(self, value: float) -> float:
        """``value`` in percent from the start, within 0..100."""
        low, high, value = (math.log(max(x, 1e-300)) if self.log else x for x in (self.low, self.high, value))
        return min(max(100 * (value - low) / (high - low), 0.0), 100.0)


@dataclass(frozen=True, slots=True)
class Mark:
    """A disc at (``x``, ``y``), y from the top, and where its number stands beside it, in pixels."""

    number: int
    x: float
    y: float
    radius_px: float
    label_px: tuple[float, float]
    solid: bool
    bar: tuple[float, float] | None = None
    """Both ends of a whisker, from the top."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through ``points`` (SVG's notation, 0..100 both ways, y from the top), with some of them marked."""

    number: int
    points: str
    dots: tuple[tuple[float, float], ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """Marks and curves within two axes."""

    x: Axis
    y: Axis
    marks: tuple[Mark, ...] = ()
    curves: tuple[Curve, ...] = ()


def dominated_by(points: Sequence[tuple[float, ...]]) -> tuple[int | None, ...]:
    """For each point the first other that is no worse in any number and better in one; None: it is on the front.

    Smaller is better in every number.
    """
    return tuple(
        next(
            (
                i
                for i, other in enumerate(points)
                if other != point and all(a <= b for a, b in zip(other, point, strict=True))
            ),
            None,
        )
        for point in points
    )


def trade_off(engines: Sequence[EngineReport], batch: int) -> tuple[Chart | None, dict[int, int | None]]:
    """Top-1 over median latency, area by size; and which engine, by index, is beaten in all three by which.

    Engines without a latency at ``batch`` are left out; no chart where that is all of them.
    """
    timed = [(i, e, run) for i, e in enumerate(engines) if (run := run_at(e, batch)) is not None]
    if not timed:
        return None, {}
    beaten = dominated_by([(-e.accuracy.top1_percent, run.median_ms, e.file_bytes) for _, e, run in timed])
    intervals = [e.accuracy.top1_interval for _, e, _ in timed]
    x = axis("median latency, ms a call", [run.median_ms for _, _, run in timed], margin=0.12)
    y = axis("top-1, %", [end for i in intervals for end in (i.low, i.high)], log=False, within=(0, 100))
    largest = max(e.file_bytes for _, e, _ in timed)
    places = [(x.at(run.median_ms), 100 - y.at(e.accuracy.top1_percent)) for _, e, run in timed]
    radii = [max(_LARGEST_RADIUS_PX * math.sqrt(e.file_bytes / largest), 4.0) for _, e, _ in timed]
    labels = _label_places(places, radii)
    marks = tuple(
        Mark(i + 1, px, py, radius, label, by is None, (100 - y.at(interval.high), 100 - y.at(interval.low)))
        for (i, _, _), (px, py), radius, label, by, interval in zip(
            timed, places, radii, labels, beaten, intervals, strict=True
        )
    )
    front = Curve(0, _stairs([(run.median_ms, e.accuracy.top1_percent) for _, e, run in timed], x, y))
    by_index = {i: None if by is None else timed[by][0] for (i, _, _), by in zip(timed, beaten, strict=True)}
    return Chart(x, y, marks, (front,)), by_index


def distributions(engines: Sequence[EngineReport], batch: int) -> Chart | None:
    """The share of calls that took no longer, by engine; what is beyond 1.3 times the last p99 is not drawn."""
    runs = [(i, run) for i, e in enumerate(engines) if (run := run_at(e, batch)) is not None]
    if not runs:
        return None
    ends = [value for _, run in runs for value in (run.min_ms, 1.3 * run.quantiles_ms[-2])]
    x = axis("ms a call", ends, margin=0.02)
    y = axis("share of calls, %", [0, 100], log=False, within=(0, 100))
    return Chart(x, y, curves=tuple(_ecdf(i + 1, run, x) for i, run in runs))


def roofline(profile: Layers) -> Chart | None:
    """Arithmetic done over arithmetic a byte, layer by layer, below the machine's roofs; both axes by logarithms."""
    rows = [
        (i, layer.flops / layer.moved_bytes, layer.flops / layer.ms / 1e6, layer.ms)
        for i, layer in enumerate(profile.rows, start=1)
        if layer.flops and layer.moved_bytes and layer.ms
    ]
    if not rows or not profile.roofs or profile.memory_gb_per_s is None:
        return None
    bandwidth = profile.memory_gb_per_s
    ridges = [roof.gflop_per_s / bandwidth for roof in profile.roofs]
    x = axis("FLOP a byte", [r[1] for r in rows] + ridges, log=True, margin=0.15)
    y = axis("GFLOP/s", [r[2] for r in rows] + [r.gflop_per_s for r in profile.roofs], log=True, margin=0.12)
    start = max(x.low, y.low / bandwidth)
    roofs = tuple(
        Curve(
            i,
            _polyline([(start, bandwidth * start), (ridge, roof.gflop_per_s), (x.high, roof.gflop_per_s)], x, y),
            dots=((100.0, 100 - y.at(roof.gflop_per_s)),),
            text=roof.precision,
        )
        for i, (roof, ridge) in enumerate(zip(profile.roofs, ridges, strict=True))
    )
    longest = max(r[3] for r in rows)
    places = [(x.at(r[1]), 100 - y.at(r[2])) for r in rows]
    radii = [max(11 * math.sqrt(r[3] / longest), 3.0) for r in rows]
    labels = _label_places(places, radii)
    marks = tuple(
        Mark(row[0], px, py, radius, label, True)
        for row, (px, py), radius, label in zip(rows, places, radii, labels, strict=True)
    )
    return Chart(x, y, marks, roofs)


def axis(
    label: str,
    values: Sequence[float],
    *,
    log: bool | None = None,
    margin: float = 0.08,
    within: tuple[float, float] | None = None,
) -> Axis:
    """An axis that holds ``values`` with ``margin`` (of its length) around them, and its ticks.

    ``log`` None: by logarithms where all are above 0 and far apart. ``within`` bounds what the margin may add.
    """
    low, high = min(values), max(values)
    if log is None:
        log = low > 0 and high > _LOG_FROM * low
    if log:
        reach = max(math.log(high / low), 0.2) * margin
        low, high = low / math.exp(reach), high * math.exp(reach)
    else:
        reach = max(high - low, abs(high) * 1e-3, 1e-9) * margin
        low, high = low - reach, high + reach
    if within is not None:
        low, high = max(low, within[0]), min(high, within[1])
    bare = Axis(label, low, high, log)
    return Axis(label, low, high, log, tuple(Tick(bare.at(value), f"{value:.6g}") for value in _ticks(low, high, log)))


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for steps in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
            values = [step * 10.0**decade for decade in decades for step in steps]
            inside = [value for value in values if low <= value <= high]
            if len(inside) <= 6:
                break
        if len(inside) >= 2:
            return inside[:: -(-len(inside) // 6)]
    found = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(value) for value in found if low - 1e-9 <= value <= high + 1e-9]


def _ecdf(number: int, run: LatencyRun, x: Axis) -> Curve:
    steps = list(zip(run.quantiles_ms, range(101), strict=True))
    inside = [(ms, share) for ms, share in steps if ms <= x.high]
    points = " ".join(f"{x.at(ms):.2f},{100 - share}" for ms, share in inside)
    marked = [(run.median_ms, 50), (run.p90_ms, 90), (run.p99_ms, 99)]
    dots = tuple((x.at(ms), 100.0 - share) for ms, share in marked if ms is not None and ms <= x.high)
    return Curve(number, points, dots)


def _stairs(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    """The best top-1 to be had within each latency: a stair that rises to the right."""
    path: list[tuple[float, float]] = []
    best = -math.inf
    for ms, percent in sorted(points, key=lambda p: (p[0], -p[1])):
        if percent > best:
            path += [(ms, y.low if not path else best), (ms, percent)]
            best = percent
    return _polyline([*path, (x.high, best)], x, y)


def _polyline(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    return " ".join(f"{x.at(a):.2f},{100 - y.at(b):.2f}" for a, b in points)


def _label_places(places: Sequence[tuple[float, float]], radii: Sequence[float]) -> list[tuple[float, float]]:
    """For each disc the side on which its number is farthest from all else."""
    width, height = _NOMINAL_PX
    centres = [(x * width / 100, y * height / 100) for x, y in places]
    taken: list[tuple[float, float]] = []

    def room(i: int, side: tuple[float, float]) -> float:
        x, y = centres[i][0] + side[0], centres[i][1] + side[1]
        gaps = [math.dist((x, y), c) - r for j, (c, r) in enumerate(zip(centres, radii, strict=True)) if j != i]
        gaps += [math.dist((x, y), label) - _LABEL_PX for label in taken]
        outside = not (4 <= x <= width - 4 and 4 <= y <= height - 4)
        return min([*gaps, 3 * _LABEL_PX]) - 50 * outside

    chosen = []
    for i, radius in enumerate(radii):
        away = radius + _LABEL_PX
        best = max(((away * dx, away * dy) for dx, dy in _SIDES), key=partial(room, i))
        taken.append((centres[i][0] + best[0], centres[i][1] + best[1]))
        chosen.append(best)
    return chosen
