"""The kernels that TensorRT-RTX compiles on the GPU for one plan, kept between processes.

Without them each process compiles again. The library refuses kernels of another version, GPU or driver itself, and then
compiles as if there were none.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from pathlib import Path
from typing import Any

from alexnet_deploy.errors import DeployError
from alexnet_deploy.files import atomic_file, cache_folder
from alexnet_deploy.runtime.cuda.device import Device
from alexnet_deploy.runtime.tensorrt.library import TensorRT

_log = logging.getLogger(__name__)

_LARGEST = 256 << 20
"""Bytes. By its release notes, more than 100 MB takes noticeably long to read."""


class RtxKernels:
    """The compiled kernels of one loaded plan, shared by its execution contexts; all must be gone before ``save``."""

    def __init__(self, library: TensorRT, device: Device, plan: bytes, *, eager: bool = False) -> None:
        """``plan`` is the content of the plan file; kernels are kept per plan, library and GPU.

        ``eager`` compiles the kernels of a batch size before its first call; else in the background.
        """
        self._api = library.api
        self._eager = eager
        key = hashlib.sha256(plan)
        for part in (library.version, device.capability, device.card, device.name):
            key.update(f"\0{part}".encode())
        self._file: Path | None = None
        with contextlib.suppress(DeployError):  # no home directory
            self._file = cache_folder() / "kernels" / f"{key.hexdigest()}.bin"
        self._cache: Any = None
        self._loaded = b""

    def configured(self, engine: Any) -> Any:
        """An IRuntimeConfig for an execution context of ``engine``; a CUDA context must be current."""
        api = self._api
        runtime_config = engine.create_runtime_config()
        # It compiles kernels for a shape while it runs, and captures them as a CUDA graph when they are ready.
        runtime_config.cuda_graph_strategy = api.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        strategies = api.DynamicShapesKernelSpecializationStrategy
        runtime_config.dynamic_shapes_kernel_specialization_strategy = (
            strategies.EAGER if self._eager else strategies.LAZY
        )
        self._attach(runtime_config)
        return runtime_config

    def _attach(self, runtime_config: Any) -> None:
        if self._file is None:
            return
        if self._cache is None:
            runtime_cache = runtime_config.create_runtime_cache()
            if runtime_cache is None:
                return
            with contextlib.suppress(OSError):
                if self._file.stat().st_size <= _LARGEST:
                    self._loaded = self._file.read_bytes()
            if self._loaded and not runtime_cache.deserialize(self._loaded):
                _log.debug("%s: refused, so the kernels are compiled again", self._file)
                self._loaded = b""
            self._cache = runtime_cache
        runtime_config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Keep the kernels for the next process, if there are new ones; never raises."""
        if self._cache is None or self._file is None:
            return
        runtime_cache, self._cache = self._cache, None
        try:
            kernels = bytes(runtime_cache.serialize())
            if not kernels or kernels == self._loaded:
                return
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self._file) as temporary:
                temporary.write_bytes(kernels)
        except Exception as exc:  # at the end of a run whose result is right: the next one compiles again
            _log.debug("%s: not written: %s", self._file, exc)
