"""The parts of a precision: the type of the quantised layers, the type of all others, and the choice of scales."""

from __future__ import annotations

import re
from typing import Literal, get_args

from alexnet_deploy.errors import UsageError

QuantizedType = Literal["int8", "fp8", "int8-weights", "int4"]
FloatType = Literal["fp32", "fp16"]
Method = Literal["max", "percentile", "entropy", "mse", "gptq"]

QUANTIZED_TYPES: tuple[QuantizedType, ...] = get_args(QuantizedType)
WEIGHTS_ONLY: frozenset[QuantizedType] = frozenset(("int8-weights", "int4"))
"""Types of weights alone: activations and products are float16."""
METHODS: tuple[Method, ...] = ("max", "percentile", "entropy", "mse")
"""How a threshold is chosen from a tensor's values; ``thresholds.py`` defines each."""

METHODS_FOR: dict[QuantizedType, tuple[Method, ...]] = {
    "int8": ("entropy", "mse", "percentile", "max"),
    "fp8": ("max", "percentile"),
    "int8-weights": ("gptq",),
    "int4": ("gptq",),
}
"""The methods that fit a type, its default first. Entropy and mse assume int8's even steps, which float8 lacks.

``gptq`` is no threshold: weights are rounded so that the layer's outputs stay close (``rounding.py``).
"""


HALF = "/fp16"
"""What the name of a constant ends with that became float16."""


def quantized_type(precision: str) -> QuantizedType | None:
    """The type of the quantised layers; None for fp32 and fp16."""
    name = precision.partition("+")[0]
    return next((dtype for dtype in QUANTIZED_TYPES if dtype == name), None)


def float_type(precision: str) -> FloatType:
    """The type of all other layers."""
    return "fp16" if precision.endswith("fp16") or is_weights_only(precision) else "fp32"


def instead_of_float16(precision: str) -> str:
    """What to build where the numbers between the layers of ``precision`` do not fit into float16."""
    dtype = quantized_type(precision)
    if dtype is None or is_weights_only(precision):
        return "build fp32 or int8, whose other numbers are float32"
    return f"build {dtype} without fp16"


def is_weights_only(precision: str) -> bool:
    """Whether only the weights are quantised."""
    return precision in WEIGHTS_ONLY


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
