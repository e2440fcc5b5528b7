"""The reason that a layer is not faster in one engine than in another: one line, from both profiles."""

from __future__ import annotations

from dataclasses import dataclass

from alexnet_deploy.errors import UsageError
from alexnet_deploy.profiling.layer_profile import LayerProfile, LayerRow

FASTER = 0.95
"""Below this share of the other's time a layer counts as faster; two runs differ by some percent."""
SMALL_US = 20.0
"""Layers as short as this take about as long as starting the threads of a kernel."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One layer in both engines. Times include the conversions that feed it; ``why`` is None if it is faster.

    ``beside`` in a name: of the engine of comparison.
    """

    layer: str
    precision: str
    beside_precision: str
    us: float
    conversions_us: float
    """Part of ``us``."""
    beside_us: float
    speedup: float
    why: str | None


def verdicts(profile: LayerProfile, baseline: LayerProfile) -> tuple[Verdict, ...]:
    """Each layer that both profiles have, in order; UsageError if their runtimes, batches or threads differ."""
    if (profile.runtime, profile.batch, profile.threads) != (baseline.runtime, baseline.batch, baseline.threads):
        raise UsageError(
            f"`baseline` {baseline.engine}: measured with {baseline.runtime} at batch {baseline.batch}, "
            f"{profile.engine} with {profile.runtime} at {profile.batch}; name one `runtime` that runs both"
        )
    others = {row.layer: row for row in baseline.rows if not row.overhead}
    found = []
    for row in profile.rows:
        other = others.get(row.layer)
        if row.overhead or other is None:
            continue
        conversions_us, other_conversions_us = _conversions_us(profile, row), _conversions_us(baseline, other)
        us, beside_us = row.median_us + conversions_us, other.median_us + other_conversions_us
        found.append(
            Verdict(
                layer=row.layer,
                precision=row.precision,
                beside_precision=other.precision,
                us=us,
                conversions_us=conversions_us,
                beside_us=beside_us,
                speedup=beside_us / us if us else 0.0,
                why=_why(row, other, conversions_us) if us > FASTER * beside_us else None,
            )
        )
    return tuple(found)


def _conversions_us(profile: LayerProfile, layer: LayerRow) -> float:
    return sum(row.median_us for row in profile.rows if row.overhead and row.next_layer == layer.layer)


def _why(row: LayerRow, other: LayerRow, conversions_us: float) -> str:
    on_top = f"; plus {conversions_us:.0f} us of conversions" if conversions_us >= 1 else ""
    if row.flops and row.precision == other.precision:
        return f"also computed in {row.precision} ({row.kernel}): the runtime has no other kernel for it{on_top}"
    if (row.flops, row.precision, row.moved_bytes) == (other.flops, other.precision, other.moved_bytes):
        return f"same work, bytes and precision ({row.precision}) in both{on_top}"
    if row.median_us < FASTER * other.median_us:
        return (
            f"{other.median_us / row.median_us:.1f}x as fast alone, but the {conversions_us:.0f} us of conversions "
            "before it cost more than that"
        )
    if row.median_us < SMALL_US and other.median_us < SMALL_US:
        return f"too small: {row.median_us:.0f} us is about the cost of starting a kernel{on_top}"
    same_bytes = None not in (row.moved_bytes, other.moved_bytes) and _mib(row) > 0.9 * _mib(other)
    if same_bytes and row.bound == "bandwidth" and (row.of_limit_percent or 0) > 50:
        return f"bound by memory, and moves the same {_mib(row):.2f} MiB{on_top}"
    if not row.flops:
        return (
            f"no arithmetic to save; its {row.precision} kernel ({row.kernel}) moves {_rate(row)}, the "
            f"{other.precision} kernel {_rate(other)}{on_top}"
        )
    return (
        f"its {row.precision} kernel ({row.kernel}) reaches {_reached(row)} of its limit, the {other.precision} one "
        f"{_reached(other)}{on_top}"
    )


def _mib(row: LayerRow) -> float:
    return (row.moved_bytes or 0) / 2**20


def _rate(row: LayerRow) -> str:
    return "unknown bytes" if row.gb_per_s is None else f"{row.gb_per_s:.1f} GB/s"


def _reached(row: LayerRow) -> str:
    return "an unknown part" if row.of_limit_percent is None else f"{row.of_limit_percent:.0f} %"
