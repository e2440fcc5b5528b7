"""Settings of a measurement. They are apart from it, so that defaults can be read without loading NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alexnet_deploy.errors import UsageError, require_positive
from alexnet_deploy.runtime.select import require_gpu_runtime

WARM_UP_S = 0.2
DURATION_S = 3.0
MIN_ITERATIONS = 10
"""All three are the defaults of trtexec."""

LayerRuntime = Literal["auto", "tensorrt", "onnxruntime-cuda", "openvino", "onnxruntime"]
"""Runtimes that time their kernels, in the order in which ``"auto"`` tries them."""


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """Settings of ``profile``; UsageError names a parameter out of range."""

    batch_sizes: tuple[int, ...] = (1,)
    concurrency: int = 1
    """Number of calls at the same time, each in its own thread."""
    runtime: str = "auto"
    threads: int | None = None
    """Number of threads of the runtime, in all; None: its default."""
    duration_s: float = DURATION_S
    warm_up_s: float = WARM_UP_S
    iterations: int = MIN_ITERATIONS
    tf32: bool = False
    """See ``open_runner``."""
    device: int | None = None
    """Number of the GPU; None: the first one, or the CPU. See ``open_runner``."""

    def __post_init__(self) -> None:
        if not self.batch_sizes:
            raise UsageError("`batch_sizes`: must hold at least one number, such as 1, 8 and 32")
        require_positive(batch_sizes=min(self.batch_sizes), concurrency=self.concurrency, iterations=self.iterations)
        check_timing(self.duration_s, self.warm_up_s)
        if self.device is not None:
            require_gpu_runtime(self.runtime)


def check_timing(duration_s: float, warm_up_s: float) -> None:
    """UsageError that names the parameter out of range."""
    if not 0 < duration_s <= 3600:  # false for NaN
        raise UsageError(f"`duration_s` {duration_s:g}s: must be above 0s and at most 3600s")
    if not 0 <= warm_up_s <= 3600:
        raise UsageError(f"`warm_up_s` {warm_up_s:g}s: must be within 0s..3600s")
