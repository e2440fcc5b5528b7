"""Measurements -> the geometry of the report's charts in percent of a frame, the same on a phone and on paper.

Text stays outside the drawing: the page sets it at its own size, at the percentage of a tick.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from matplotlib.ticker import MaxNLocator

from alexnet_deploy.profiling.latency import Latency
from alexnet_deploy.profiling.layer_profile import LayerProfile
from alexnet_deploy.report.data import EngineReport

_NOMINAL_PX = (560, 290)
"""Size of a frame on a desktop screen, to find room for labels."""
_LABEL_PX = 8.0
_SIDES = ((1, 0), (-1, 0), (0, -1), (0, 1), (0.75, 0.75), (0.75, -0.75), (-0.75, 0.75), (-0.75, -0.75))
"""Possible places of a number next to its disc: the first one with room is used."""
_LOG_FROM = 3.0
"""Ratio of the largest value to the smallest; below it a linear axis is easier to read."""


@dataclass(frozen=True, slots=True)
class Axis:
    """From ``low`` to ``high``, logarithmic if ``log``."""

    label: str
    low: float
    high: float
    log: bool

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Labelled positions, in percent from the start."""
        return [(self.at(value), f"{value:.6g}") for value in _ticks(self.low, self.high, self.log)]

    def at(self, value: float) -> float:
        """Return the place of ``value`` in percent from the start, within 0..100."""
        low, high, value = (math.log(max(x, 1e-300)) if self.log else x for x in (self.low, self.high, value))
        return min(max(100 * (value - low) / (high - low), 0.0), 100.0)


@dataclass(frozen=True, slots=True)
class Mark:
    """A disc at (``x``, ``y``), y from the top, and the place of its number beside it, in pixels."""

    number: int
    x: float
    y: float
    radius_px: float
    label_px: tuple[float, float]
    solid: bool = True
    bar: tuple[float, float] | None = None
    """Both ends of a whisker, from the top."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through ``points`` (SVG notation, 0..100 both ways, y from the top), some of them marked."""

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
    """Return for each point the first other point that is not worse in any number and better in one.

    None means that the point is on the Pareto front. Smaller is better in every number.
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
    """Draw top-1 over median latency, area by size; also return for each engine the index of one that dominates it.

    Engines without a latency at ``batch`` are left out; the chart is None if no engine is left.
    """
    timed = [(i, e.result, row.latency) for i, e in enumerate(engines) if (row := e.row_at(batch)) is not None]
    if not timed:
        return None, {}
    beaten = dominated_by([(-e.accuracy.top1_percent, run.median_ms, e.model_bytes) for _, e, run in timed])
    intervals = [e.accuracy.top1_interval for _, e, _ in timed]
    x = axis("median latency per call, ms", [run.median_ms for _, _, run in timed], margin=0.12)
    y = axis("top-1, %", [end for i in intervals for end in (i.low, i.high)], log=False, within=(0, 100))
    discs = _discs(
        [(i + 1, x.at(run.median_ms), 100 - y.at(e.accuracy.top1_percent), e.model_bytes) for i, e, run in timed],
        largest_px=15.0,
        smallest_px=4.0,
    )
    marks = tuple(
        replace(disc, solid=by is None, bar=(100 - y.at(interval.high), 100 - y.at(interval.low)))
        for disc, by, interval in zip(discs, beaten, intervals, strict=True)
    )
    front = Curve(0, _stairs([(run.median_ms, e.accuracy.top1_percent) for _, e, run in timed], x, y))
    by_index = {i: None if by is None else timed[by][0] for (i, _, _), by in zip(timed, beaten, strict=True)}
    return Chart(x, y, marks, (front,)), by_index


def distributions(engines: Sequence[EngineReport], batch: int) -> Chart | None:
    """Draw the distribution of call times per engine, up to 1.3 times the last p99."""
    runs = [(i, row.latency) for i, e in enumerate(engines) if (row := e.row_at(batch)) is not None]
    if not runs:
        return None
    ends = [value for _, run in runs for value in (run.min_ms, 1.3 * run.quantiles_ns()[-2] / 1e6)]
    x = axis("ms per call", ends, margin=0.02)
    y = axis("share of calls, %", [0, 100], log=False, within=(0, 100))
    return Chart(x, y, curves=tuple(_ecdf(i + 1, run, x) for i, run in runs))


def risk_coverage(engines: Sequence[EngineReport]) -> Chart | None:
    """Draw the share of wrong answers among the most certain images, per engine; a dot where its rule ends."""
    measured = [(i, each) for i, e in enumerate(engines, start=1) if (each := e.result.accuracy.selective) is not None]
    if not measured:
        return None
    x = axis("answered images, %", [0, 100], log=False, within=(0, 100))
    y = axis("wrong answers among them, %", [0, *(risk for _, e in measured for _, risk in e.curve)], within=(0, 100))
    curves = []
    for number, each in measured:
        dots: tuple[tuple[float, float], ...] = ()
        if each.accuracy_percent is not None and each.threshold is not None:
            dots = ((x.at(each.coverage_percent), 100 - y.at(100 - each.accuracy_percent)),)
        curves.append(Curve(number, polyline(each.curve, x, y), dots))
    return Chart(x, y, curves=tuple(curves))


def roofline(profile: LayerProfile) -> Chart | None:
    """Draw FLOP/s over FLOP per byte, layer by layer, below the machine's roofs; both axes are logarithmic."""
    rows = [
        (i, layer.flops / layer.moved_bytes, layer.flops / layer.median_us / 1e3, layer.median_us)
        for i, layer in enumerate(profile.rows, start=1)
        if layer.flops and layer.moved_bytes and layer.median_us
    ]
    if not rows or profile.roofline is None or not profile.roofline.peaks:
        return None
    peaks, bandwidth = profile.roofline.peaks, profile.roofline.bandwidth.memory_gb_per_s
    ridges = [peak.gflop_per_s / bandwidth for peak in peaks]
    x = axis("FLOP per byte", [r[1] for r in rows] + ridges, log=True, margin=0.15)
    y = axis("GFLOP/s", [r[2] for r in rows] + [peak.gflop_per_s for peak in peaks], log=True, margin=0.12)
    start = max(x.low, y.low / bandwidth)
    roofs = tuple(
        Curve(
            i,
            polyline([(start, bandwidth * start), (ridge, peak.gflop_per_s), (x.high, peak.gflop_per_s)], x, y),
            dots=((100.0, 100 - y.at(peak.gflop_per_s)),),
            text=peak.precision,
        )
        for i, (peak, ridge) in enumerate(zip(peaks, ridges, strict=True))
    )
    discs = [(i, x.at(intensity), 100 - y.at(speed), us) for i, intensity, speed, us in rows]
    return Chart(x, y, _discs(discs, largest_px=11.0, smallest_px=3.0), roofs)


def axis(
    label: str,
    values: Sequence[float],
    *,
    log: bool | None = None,
    margin: float = 0.08,
    within: tuple[float, float] | None = None,
) -> Axis:
    """Make an axis that holds ``values``, with ``margin`` (a share of its length) around them.

    ``log`` None: logarithmic if all values are above 0 and far apart. ``within`` bounds the margin.
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
    return Axis(label, low, high, log)


def polyline(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    """Return ``points`` in the notation of SVG: 0..100 both ways, y from the top."""
    return " ".join(f"{x.at(a):.2f},{100 - y.at(b):.2f}" for a, b in points)


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


def _ecdf(number: int, run: Latency, x: Axis) -> Curve:
    inside = [(ns / 1e6, share) for share, ns in enumerate(run.quantiles_ns()) if ns / 1e6 <= x.high]
    points = " ".join(f"{x.at(ms):.2f},{100 - share}" for ms, share in inside)
    marked = [(run.median_ms, 50), (run.p90_ms, 90), (run.p99_ms, 99)]
    dots = tuple((x.at(ms), 100.0 - share) for ms, share in marked if ms is not None and ms <= x.high)
    return Curve(number, points, dots)


def _stairs(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    """Return the best top-1 within each latency: a stair that rises to the right."""
    path: list[tuple[float, float]] = []
    best = -math.inf
    for ms, percent in sorted(points, key=lambda p: (p[0], -p[1])):
        if percent > best:
            path += [(ms, y.low if not path else best), (ms, percent)]
            best = percent
    return polyline([*path, (x.high, best)], x, y)


def _discs(
    measured: Sequence[tuple[int, float, float, float]], *, largest_px: float, smallest_px: float
) -> tuple[Mark, ...]:
    """Make a disc of each (number, x, y, size), its area by size; each number is on the side with most room."""
    largest = max(size for *_, size in measured)
    radii = [max(largest_px * math.sqrt(size / largest), smallest_px) for *_, size in measured]
    width, height = _NOMINAL_PX
    centres = [(x * width / 100, y * height / 100) for _, x, y, _ in measured]
    taken: list[tuple[float, float]] = []

    def room(i: int, side: tuple[float, float]) -> float:
        x, y = centres[i][0] + side[0], centres[i][1] + side[1]
        gaps = [math.dist((x, y), c) - r for j, (c, r) in enumerate(zip(centres, radii, strict=True)) if j != i]
        gaps += [math.dist((x, y), label) - _LABEL_PX for label in taken]
        outside = not (4 <= x <= width - 4 and 4 <= y <= height - 4)
        return min([*gaps, 3 * _LABEL_PX]) - 50 * outside

    discs = []
    for i, ((number, x, y, _), radius) in enumerate(zip(measured, radii, strict=True)):
        away = radius + _LABEL_PX
        label = max(((away * dx, away * dy) for dx, dy in _SIDES), key=partial(room, i))
        taken.append((centres[i][0] + label[0], centres[i][1] + label[1]))
        discs.append(Mark(number, x, y, radius, label))
    return tuple(discs)
