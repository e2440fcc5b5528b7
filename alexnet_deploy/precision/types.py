"""The parts of a precision: the type of the quantised layers, the type of all others, and the choice of scales."""

from __future__ import annotations

import re
from typing import Literal, get_args

from alexnet_deploy.contract import Precision
from alexnet_deploy.errors import UsageError

QuantizedType = Literal["int8", "fp8"]
FloatType = Literal["fp32", "fp16"]
Method = Literal["max", "percentile", "entropy", "mse"]

QUANTIZED_TYPES: tuple[QuantizedType, ...] = get_args(QuantizedType)
METHODS: tuple[Method, ...] = get_args(Method)
"""How a threshold is chosen from a tensor's values; ``thresholds.py`` defines each."""

METHODS_FOR: dict[QuantizedType, tuple[Method, ...]] = {
    "int8": ("entropy", "mse", "percentile", "max"),
    "fp8": ("max", "percentile"),
}
"""The methods that fit a type, its default first. Entropy and mse assume int8's even steps, which float8 lacks."""


def quantized_type(precision: Precision) -> QuantizedType | None:
    """The type of the quantised layers; None for fp32 and fp16."""
    return next((dtype for dtype in QUANTIZED_TYPES if precision.startswith(dtype)), None)


def float_type(precision: Precision) -> FloatType:
    """The type of all other layers."""
    return "fp16" if precision.endswith("fp16") else "fp32"


def exclude_pattern(exclude: str | None) -> re.Pattern[str] | None:
    """The compiled regular expression ``exclude``, None if it is None or empty; UsageError if it is not one."""
    try:
        return re.compile(exclude) if exclude else None
    except (re.error, TypeError) as exc:
        raise UsageError(f"`exclude` {exclude}: is not a regular expression ({exc})") from exc


def method_for(dtype: QuantizedType, method: Method | None) -> Method:
    """``method``, or the default of ``dtype`` for None; UsageError if the two do not fit."""
    fitting = METHODS_FOR[dtype]
    if method is not None and method not in fitting:
        raise UsageError(f"`calibration_method` {method}: does not fit {dtype}; choose one of {', '.join(fitting)}")
    return method or fitting[0]
