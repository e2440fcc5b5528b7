"""The paper's ideas as flags: activation, LRN, pooling, groups."""

from __future__ import annotations

import dataclasses
from typing import Any

from alexnet_deploy.errors import UsageError
from alexnet_deploy.model.architecture import Architecture


def switched(
    arch: Architecture, *, activation: str | None, lrn: str | None, pool: str | None, groups: str | None
) -> Architecture:
    """``arch`` with those of the paper's switches that were given, as the command line gives them.

    UsageError where one is unknown or groups do not divide the channels.
    """
    switches: dict[str, Any] = {
        "activation": choice("--activation", activation, "relu", "tanh"),
        "lrn": choice("--lrn", lrn, "none", "before-pool", "after-pool"),
    }
    if choice("--pool", pool, "overlapping", "plain") is not None:
        switches["overlapping_pool"] = pool == "overlapping"
    if groups is not None:
        switches["groups"] = _groups(groups, arch)
    return dataclasses.replace(arch, **{key: value for key, value in switches.items() if value is not None})


def _groups(text: str, arch: Architecture) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) != len(arch.widths) or not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"--groups {text}: takes five whole numbers, one a convolution, such as 1,2,1,2,2")
    groups = tuple(int(part) for part in parts)
    for number, (count, fan_in, fan_out) in enumerate(zip(groups, (3, *arch.widths), arch.widths, strict=False), 1):
        if fan_in % count or fan_out % count:
            raise UsageError(
                f"--groups {text}: {count} does not divide the {fan_in} channels into convolution {number} of "
                f"{arch.name} and the {fan_out} out of it; choose a number that does"
            )
    return groups


def choice(flag: str, value: str | None, *choices: str) -> str | None:
    """``value`` where it is given and one of ``choices``; UsageError where it is another."""
    if value is not None and value not in choices:
        raise UsageError(f"{flag} {value}: takes {', '.join(choices[:-1])} or {choices[-1]}")
    return value
