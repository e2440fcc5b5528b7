"""What Triton's statistics extension reports about a model, since the start of this server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol


class Result(Protocol):
    """How long the steps of a request took, in seconds."""

    @property
    def decode_s(self) -> float: ...
    @property
    def queue_s(self) -> float: ...
    @property
    def compute_s(self) -> float: ...


@dataclass(slots=True)
class _Duration:
    """How often something happened, and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += round(1e9 * seconds)

    def as_dict(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class Statistics:
    """The counters of one model, over all of its versions. Decoding is Triton's "compute input"."""

    _images: int = 0
    _last_ms: int = 0
    _success: _Duration = field(default_factory=_Duration)
    _fail: _Duration = field(default_factory=_Duration)
    _decode: _Duration = field(default_factory=_Duration)
    _queue: _Duration = field(default_factory=_Duration)
    _compute: _Duration = field(default_factory=_Duration)
    _batches: dict[int, _Duration] = field(default_factory=dict)

    def batch(self, images: int, compute_s: float) -> None:
        """``images`` were computed in one call."""
        self._images += images
        self._last_ms = time.time_ns() // 1_000_000
        self._batches.setdefault(images, _Duration()).add(compute_s)

    @contextmanager
    def request(self) -> Iterator[Callable[[Result], None]]:
        """Count one request: answered if the block ends, failed if it raises. Call what it yields with the result."""
        started = time.perf_counter()
        results: list[Result] = []
        try:
            yield results.append
        except BaseException:
            self._fail.add(time.perf_counter() - started)
            raise
        self._success.add(time.perf_counter() - started)
        for result in results:
            self._decode.add(result.decode_s)
            self._queue.add(result.queue_s)
            self._compute.add(result.compute_s)

    def as_dict(self, name: str, version: str) -> dict[str, Any]:
        """The fields of Triton's ModelStatistics that apply; times are in nanoseconds, ``last_inference`` in ms."""
        nothing = _Duration().as_dict()
        return {
            "name": name,
            "version": version,
            "last_inference": self._last_ms,
            "inference_count": self._images,
            "execution_count": sum(batch.count for batch in self._batches.values()),
            "inference_stats": {
                "success": self._success.as_dict(),
                "fail": self._fail.as_dict(),
                "queue": self._queue.as_dict(),
                "compute_input": self._decode.as_dict(),
                "compute_infer": self._compute.as_dict(),
                "compute_output": nothing,
            },
            "batch_stats": [
                {
                    "batch_size": images,
                    "compute_input": nothing,
                    "compute_infer": self._batches[images].as_dict(),
                    "compute_output": nothing,
                }
                for images in sorted(self._batches)
            ],
        }
