"""What a server may be told. The values are here so that the command line starts without a web framework."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alexnet_deploy.errors import UsageError, require_positive
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.runtime.select import MAX_CALLS_PER_CORE


@dataclass(frozen=True, slots=True)
class Settings:
    """Batching, limits and addresses; raises UsageError for a value out of range.

    ``max_queue`` counts images that wait for an engine, from the moment that their request has been read; each takes
    at most one decoded image of memory. ``timeout_s`` is the longest that a request takes from then to its answer.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    max_batch: int | None = None
    """None: 8 on the CPU, 32 on a GPU."""
    instances: int | None = None
    """Calls of an engine at the same time, which share its threads; per GPU. None: 2 on the CPU, 1 on a GPU."""
    max_delay_s: float = 0.002
    max_queue: int = 256
    timeout_s: float = 30.0
    workers: int | None = None
    threads: int | None = None
    max_body: int = 32 << 20
    max_memory: int = 512 << 20
    """Bytes of all request bodies that are in memory at the same time."""
    max_pixels: int = 50_000_000
    max_images: int = 64
    """Images per request."""
    max_connections: int = 1000
    idle_s: float = 10.0
    """A client that sends nothing for so long within a request is cut off."""
    drain_s: float = 30.0
    reload_s: float = 2.0
    """How often the engines' files are looked at."""
    api_key_file: Path | None = None
    allow_unauthenticated: bool = False
    certificate: Path | None = None
    key: Path | None = None
    access_log: bool = True
    full_decode: bool = False
    """Decode every photo in full, whatever the contracts of the engines say."""
    tf32: bool = False
    """See ``open_engine``."""
    device: tuple[int, ...] | Literal["all"] | None = None
    """Numbers of the GPUs, each of which has all engines; None: the first one, or the CPU. See ``open_engine``."""

    def __post_init__(self) -> None:
        require_positive(
            max_batch=self.max_batch,
            instances=self.instances,
            max_queue=self.max_queue,
            workers=self.workers,
            threads=self.threads,
            max_body=self.max_body,
            max_pixels=self.max_pixels,
            max_images=self.max_images,
            max_connections=self.max_connections,
        )
        most = MAX_CALLS_PER_CORE * cores()
        for name in ("instances", "workers", "threads"):
            if (value := getattr(self, name) or 1) > most:
                raise UsageError(f"`{name}` {value}: above {most} they only wait for each other; choose fewer")
        for name in ("port", "grpc_port"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 65535:
                raise UsageError(f"`{name}` {value}: is no port; choose 1..65535, or 0 for a free one")
        if self.grpc_port is not None and self.grpc_port == self.port != 0:
            raise UsageError(f"`grpc_port` {self.grpc_port}: is the port of HTTP as well; choose another")
        if self.max_images > self.max_queue:
            raise UsageError(
                f"`max_images` {self.max_images} exceeds `max_queue` {self.max_queue}, so the largest request could "
                "never be answered; raise `max_queue`"
            )
        if (self.max_batch or 1) > self.max_queue:
            raise UsageError(
                f"`max_batch` {self.max_batch} exceeds `max_queue` {self.max_queue}, so the largest batch could never "
                "gather; lower `max_batch`"
            )
        if self.max_memory < self.max_body:
            raise UsageError(f"`max_memory` {self.max_memory} is below `max_body` {self.max_body}; raise `max_memory`")
        for name in ("timeout_s", "idle_s", "drain_s", "reload_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"`{name.removesuffix('_s')}` must be above 0")
        if (self.certificate is None) != (self.key is None):
            raise UsageError("`certificate` and `key` belong together; give both")
        if self.api_key_file is not None and self.allow_unauthenticated:
            raise UsageError("`api_key_file` and `allow_unauthenticated` contradict each other; choose one")
